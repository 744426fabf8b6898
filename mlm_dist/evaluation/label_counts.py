"""Counts of right and wrong labels, from which accuracy and macro-F1 follow, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mlm_dist.evaluation.bootstrap import Interval, interval, resamples

METRICS = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class LabelCounts:
    """Counts of the predictions of one model, for each seed of the splits.

    Args:
        seeds: Of each seed, a sparse matrix [groups, 3 * labels]: how many examples of a group are predicted rightly
            as a label, are predicted as it, and have it.
    """

    seeds: Sequence[Any]

    @classmethod
    def of(cls, labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, num_labels: int) -> LabelCounts:
        """The counts of predictions.

        Args:
            labels: [examples] the right labels.
            predicted: [seeds, examples] the predicted labels; -1 for an example that is not predicted.
            groups: [examples] the group of each: examples of one text, which are resampled together.
            num_labels: Number of labels.
        """
        from scipy import sparse

        shape = (int(groups.max()) + 1, 3 * num_labels)
        seeds = []
        for one in predicted:
            is_right, is_predicted = one == labels, one >= 0
            rows = [groups[is_right], groups[is_predicted], groups[is_predicted]]
            columns = [labels[is_right], num_labels + one[is_predicted], 2 * num_labels + labels[is_predicted]]
            ones = np.ones(sum(map(len, rows)))
            seeds.append(sparse.csr_array((ones, (np.concatenate(rows), np.concatenate(columns))), shape=shape))
        return cls(seeds)

    def figures(self) -> dict[str, Interval]:
        """Accuracy and macro-F1, means over the seeds; groups are resampled for the interval."""
        means, resampled = self._figures
        return {metric: interval(means[i, 0], resampled[i]) for i, metric in enumerate(METRICS)}

    def minus(self, other: LabelCounts) -> dict[str, Interval]:
        """The difference to another model on the same examples; both have the same resamples."""
        (means, resampled), (other_means, other_resampled) = self._figures, other._figures
        return {
            metric: interval(means[i, 0] - other_means[i, 0], resampled[i] - other_resampled[i])
            for i, metric in enumerate(METRICS)
        }

    @cached_property
    def _figures(self) -> tuple[np.ndarray, np.ndarray]:
        """([metrics, 1] of all groups, [metrics, resamples] of each resample)."""
        count = self.seeds[0].shape[0]
        indices = (one for some in resamples(count) for one in some)
        drawn = np.stack([np.bincount(one, minlength=count).astype(np.float32) for one in indices])
        return self._weighted(np.ones((1, count))), self._weighted(drawn)

    def _weighted(self, weights: np.ndarray) -> np.ndarray:
        """[metrics, resamples] with groups that count as often as `weights` [resamples, groups] says."""
        of_seeds: np.ndarray = np.stack([_metrics((one.T @ weights.T).T) for one in self.seeds])
        mean: np.ndarray = of_seeds.mean(0)
        return mean


def _metrics(counts: np.ndarray) -> np.ndarray:
    """[metrics, resamples] of counts [resamples, 3 * labels].

    Macro-F1 is the mean of the F1 of the labels that some example has or is given.
    """
    right, predicted, true = np.split(counts, 3, axis=1)
    either = predicted + true
    f1 = np.divide(2 * right, either, out=np.zeros_like(right), where=either > 0)
    accuracy = right.sum(1) / np.maximum(true.sum(1), 1)
    return np.stack([accuracy, f1.sum(1) / np.maximum((either > 0).sum(1), 1)])
