"""Bootstrap intervals of means over queries, and of the difference of two models on the same queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

RESAMPLES, BLOCK = 2000, 100
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean with its interval.

    Args:
        mean: The mean over the queries.
        low: The lower end of the interval.
        high: Its upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 is outside of the interval; of a difference, whether the models differ."""
        return self.low > 0 or self.high < 0


def mean_interval(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean over queries and its percentile interval of 95% (Efron, 1979).

    Args:
        values: [queries] the values of a metric, at least one.
        seed: Of the resamples; the same seed resamples the same queries.
    """
    return interval(values.mean(), np.concatenate([values[some].mean(1) for some in resamples(len(values), seed)]))


def interval(mean: float, means: np.ndarray) -> Interval:
    """A figure and its percentile interval of 95%.

    Args:
        mean: The figure of all queries.
        means: The same figure of each resample.
    """
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(mean), float(low), float(high))


def resamples(count: int, seed: int = 0) -> Iterator[np.ndarray]:
    """[some resamples, count] the indices of the queries, with replacement; the same for the same count and seed."""
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(0, RESAMPLES, BLOCK):
        yield generator.integers(count, size=(BLOCK, count))


def paired_interval(values: np.ndarray, baseline: np.ndarray, seed: int = 0) -> Interval:
    """The mean difference of two models and its interval.

    Queries are resampled with both of their values, so that what makes a query hard or easy for both does not widen the
    interval. If it does not hold 0, the models differ.

    Args:
        values: [queries] the values of a metric of one model.
        baseline: [queries] those of the other one, on the same queries.
        seed: See `mean_interval`.

    Raises:
        ValueError: They have different numbers of queries.
    """
    if values.shape != baseline.shape:
        raise ValueError(f"{len(values)} and {len(baseline)} queries are not the same ones")
    return mean_interval(values - baseline, seed)
