"""The length of a run: a number of epochs, steps, hours or tokens."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal["epochs", "steps", "hours", "tokens"]
# Longer than any run: a thousand years, or all text that there is a thousand times over.
MOST_OF: dict[str, int] = {"epochs": 1_000_000, "steps": 1_000_000_000, "hours": 10_000_000, "tokens": 10**17}
_FORM = re.compile(r"([\d_]*\.?\d+)\s*([kKMBT]?)\s*(epoch|step|hour|token)s?")
_FACTORS = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000, "T": 1_000_000_000_000}


@dataclass(frozen=True)
class Duration:
    """How long a run is.

    Args:
        value: Over 0; whole for steps.
        unit: epochs, steps, hours or tokens.
    """

    value: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read "8 epochs", "20000 steps", "2 hours" or "10B tokens"; k, M, B and T stand for powers of 1,000.

        Raises:
            ValueError: The text has another form, or the value is not over 0, or steps are not whole.
        """
        found = _FORM.fullmatch(text.strip())
        if found is None:
            raise ValueError(text)
        value = float(found[1].replace("_", "")) * _FACTORS[found[2]]
        if math.isinf(value):
            raise ValueError(text)
        unit: Unit = f"{found[3]}s"  # type: ignore[assignment]  # the pattern allows no other
        if value <= 0 or (unit in ("steps", "tokens") and value != int(value)):
            raise ValueError(text)
        return cls(value, unit)

    def __str__(self) -> str:
        return f"{self.value:,.0f} {self.unit}" if self.value == int(self.value) else f"{self.value:g} {self.unit}"
