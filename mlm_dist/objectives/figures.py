"""The figures of a validation."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
class Validation:
    """The result of a validation.

    Args:
        loss: Validation loss in nats per predicted token.
        accuracy: Fraction of the predicted tokens whose most probable token is the right one.
        num_masked: Predicted tokens.
        bands: The accuracy by how often a token occurs in the training rows.
        second: The result on the second source; None without one.
    """

    loss: float
    accuracy: float
    num_masked: int
    bands: tuple[BandAccuracy, ...] = ()
    second: Validation | None = None

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite if that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def figures(self) -> dict[str, Any]:
        """{name: number}, flat, as trackers and JSON take them; None for values that are not finite."""
        values = self._summary()
        for band in self.bands:
            values[f"accuracy_{band.name}"] = band.num_correct / band.num_masked if band.num_masked else None
            values[f"masked_tokens_{band.name}"] = band.num_masked
        if self.second is not None:
            values |= {f"second_{name}": value for name, value in self.second._summary().items()}
        return values

    def _summary(self) -> dict[str, Any]:
        return {
            "loss": finite(self.loss),
            "perplexity": finite(self.perplexity),
            "accuracy": self.accuracy,
            "masked_tokens": self.num_masked,
        }


def finite(value: float) -> float | None:
    """A number as JSON takes it: None stands for NaN and infinity."""
    return value if math.isfinite(value) else None
