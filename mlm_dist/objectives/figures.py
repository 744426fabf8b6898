"""The figures of a validation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BandAccuracy:
    """How many predicted tokens of a band were right.

    Args:
        name: The band.
        num_correct: Predicted tokens of the band whose most probable token is the right one.
        num_masked: Predicted tokens of the band.
    """

    name: str
    num_correct: int
    num_masked: int


@dataclass(frozen=True)
class PairFigures:
    """The result of a validation on pairs of texts.

    Args:
        loss: Cross-entropy in nats of the right passage of a query, among the passages of all pairs.
        recall_at_1: Fraction of the queries whose right passage is the most similar one.
        mrr: Mean of the reciprocal ranks of the right passages.
        num_pairs: Number of pairs.
    """

    loss: float
    recall_at_1: float
    mrr: float
    num_pairs: int


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Args:
        loss: Validation loss in nats per predicted token.
        accuracy: Fraction of the predicted tokens whose most probable token is the right one.
        num_masked: Predicted tokens.
        bands: The accuracy by how often a token occurs in the training rows.
        sources: {name: the result on the rows of a source}; empty if there is only one.
        pairs: The result on pairs of texts, of a run whose last phase learns from pairs.
    """

    loss: float
    accuracy: float
    num_masked: int
    bands: tuple[BandAccuracy, ...] = ()
    sources: Mapping[str, Validation] = field(default_factory=dict)
    pairs: PairFigures | None = None

    @property
    def criterion(self) -> float:
        """What the best checkpoint has the lowest value of: the loss on pairs if there is one, else the loss."""
        return self.loss if self.pairs is None else self.pairs.loss

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite if that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def figures(self) -> dict[str, Any]:
        """{name: number}, flat, as trackers and JSON take them; None for values that are not finite."""
        values: dict[str, Any] = {
            "loss": finite(self.loss),
            "perplexity": finite(self.perplexity),
            "accuracy": self.accuracy,
            "masked_tokens": self.num_masked,
        }
        for band in self.bands:
            values[f"accuracy_{band.name}"] = band.num_correct / band.num_masked if band.num_masked else None
            values[f"masked_tokens_{band.name}"] = band.num_masked
        if self.pairs is not None:
            of_pairs = {"loss": finite(self.pairs.loss), "recall_at_1": self.pairs.recall_at_1, "mrr": self.pairs.mrr}
            values |= {f"pairs_{name}": value for name, value in of_pairs.items()} | {"pairs": self.pairs.num_pairs}
        for source, one in self.sources.items():
            shown = {"loss": finite(one.loss), "accuracy": one.accuracy, "masked_tokens": one.num_masked}
            values |= {f"source_{source}_{name}": value for name, value in shown.items()}
        return values


def sources_of(line: Mapping[str, Any]) -> list[str]:
    """Names of the sources whose own figures `Validation.figures` holds."""
    return [name[len("source_") : -len("_loss")] for name in line if re.fullmatch("source_.+_loss", name)]


def finite(value: float) -> float | None:
    """A number as JSON takes it: None stands for NaN and infinity."""
    return value if math.isfinite(value) else None
