"""Scales of a chart: from values to coordinates, and the round numbers at its axes."""

from __future__ import annotations

import math

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 38
MOST_TICKS = 7  # of a logarithmic scale


class Scale:
    """Maps x and value to coordinates.

    Args:
        last: The largest x; the smallest is 0.
        low: The smallest value.
        high: The largest value.
        is_log: Whether the scale of the values is logarithmic; they are over zero then.
    """

    def __init__(self, last: float, low: float, high: float, *, is_log: bool) -> None:
        self.last, self.is_log = last, is_log
        if is_log:
            self.low, self.high = math.log10(low), math.log10(high)
            margin = (self.high - self.low) * 0.05
            self.low, self.high = self.low - margin, self.high + margin
            self.ticks = _log_numbers(self.low, self.high)
        else:
            margin = (high - low) * 0.05 or max(abs(high), 1.0) * 0.1
            self.low = low - margin if low < 0 or low - margin > 0 else 0.0
            self.high = high + margin
            self.ticks = round_numbers(self.low, self.high, 5)

    def x(self, x: float) -> float:
        """The horizontal coordinate."""
        return LEFT + x / self.last * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The vertical coordinate."""
        at = math.log10(value) if self.is_log else value
        return TOP + (self.high - at) / ((self.high - self.low) or 1.0) * (HEIGHT - TOP - BOTTOM)


def round_numbers(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two others."""
    size = (high - low) / count
    power = 10.0 ** math.floor(math.log10(size))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_numbers(low: float, high: float) -> list[float]:
    """Round numbers between two powers of ten, given by their exponents: as close as there is room for."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    for factors in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        numbers = [factor * 10.0**power for power in powers for factor in factors]
        inside = [number for number in numbers if low <= math.log10(number) <= high]
        if 2 <= len(inside) <= MOST_TICKS:
            return inside
    if high - low < 1:  # less than two of them: round numbers of the linear scale
        return [number for number in round_numbers(10**low, 10**high, 5) if number > 0]
    return [10.0**power for power in powers][:: max(1, len(powers) // 5)]
