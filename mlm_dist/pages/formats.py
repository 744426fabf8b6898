"""Numbers as people read them."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> float | None:
    """A value of a record as a float; None if it is no finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def number(value: float | None) -> str:
    """A number of any size, with three or four digits."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.{1 if abs(value) >= 100 else 3}f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.2g}"


def percent(value: float | None) -> str:
    """A fraction as a percentage."""
    if value is None:
        return "not finite"
    return "<0.1%" if 0 < value < 0.001 else f"{value:.1%}".replace(".0%", "%")


def small(value: float) -> str:
    """A small number, such as a learning rate."""
    return "0" if value == 0 else f"{value:.3g}"


def thousands(value: float) -> str:
    """A large number, with separators."""
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def plural(count: int, noun: str, plural_noun: str | None = None) -> str:
    """A count with its noun, such as "1 step" or "2,000 steps"."""
    return f"{count:,} {noun if count == 1 else plural_noun or noun + 's'}"


def duration(seconds: float) -> str:
    """A time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def any_value(value: Any) -> str:
    """Any value of a record."""
    if isinstance(value, bool) or value is None:
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}" if isinstance(value, float) else str(value)
