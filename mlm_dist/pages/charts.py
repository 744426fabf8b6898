"""Line charts over the steps as inline SVG; their colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 38
MAX_POINTS = 240  # of a line; more points are averaged in groups
LOG_RATIO = 100.0  # a larger ratio of the largest to the smallest value needs a logarithmic scale

Point = tuple[int, float | None]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: Its name in the legend.
        points: (step, value), by step; None for a value that is not finite, which breaks the line.
        style: Class of its colour: a, b, c or d. Lines of b and d have a dot at each point, those of c are dashed.
    """

    name: str
    points: Sequence[Point]
    style: str = "a"


def chart(
    title: str,
    series: Sequence[Series],
    show: Callable[[float], str],
    *,
    resumed: Sequence[int] = (),
    may_be_log: bool = False,
) -> str:
    """A figure with a heading, a legend and lines over the steps; a note if no value is finite, nothing without points.

    Args:
        title: The heading.
        series: The lines.
        show: Formats a value.
        resumed: Steps at which the run was resumed, which are marked.
        may_be_log: Whether the scale may be logarithmic.
    """
    if not any(line.points for line in series):
        return ""
    series = [line for line in series if any(value is not None for _, value in line.points)]
    head = f'<figure class="chart"><figcaption><h3>{escape(title)}</h3>'
    if not series:
        return f"{head}</figcaption><p class=note>No recorded value is finite.</p></figure>"
    values = [value for line in series for _, value in line.points if value is not None]
    steps = [step for line in series for step, _ in line.points]
    scale = _Scale(max([*steps, 1]), min(values), max(values), may_be_log=may_be_log)
    legend = "".join(f'<li class="{line.style}">{escape(line.name)}</li>' for line in series) if len(series) > 1 else ""
    note = " <span>(logarithmic)</span>" if scale.is_log else ""
    lines = "".join(_line(scale, line, show) for line in series)
    return (
        f"{head.removesuffix('</h3>')}{note}</h3>{f'<ul class=legend>{legend}</ul>' if legend else ''}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_description(title, series, show))}">'
        f"{_axes(scale, show)}{_resume_marks(scale, resumed)}{lines}</svg></figure>"
    )


class _Scale:
    """Maps steps and values to coordinates."""

    def __init__(self, last: int, low: float, high: float, *, may_be_log: bool) -> None:
        self.last = last
        self.is_log = may_be_log and low > 0 and high / low > LOG_RATIO
        if self.is_log:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            self.ticks = [10.0**power for power in powers][:: max(1, len(powers) // 5)]
            self.low, self.high = math.log10(low), math.log10(high)
        else:
            margin = (high - low) * 0.05 or max(abs(high), 1.0) * 0.1
            self.low = low - margin if low < 0 or low - margin > 0 else 0.0
            self.high = high + margin
            self.ticks = _round_numbers(self.low, self.high, 5)

    def x(self, step: float) -> float:
        return LEFT + step / self.last * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        at = math.log10(value) if self.is_log else value
        return TOP + (self.high - at) / ((self.high - self.low) or 1.0) * (HEIGHT - TOP - BOTTOM)


def _round_numbers(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers between two others."""
    size = (high - low) / count
    power = 10.0 ** math.floor(math.log10(size))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= size)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _axes(scale: _Scale, show: Callable[[float], str]) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in scale.ticks:
        y = scale.y(value)
        if TOP - 1 <= y <= bottom + 1:
            parts.append(f'<path class=rule d="M{LEFT} {y:.1f}H{right}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor=end>{escape(show(value))}</text>')
    parts.append(f'<path class=axis d="M{LEFT} {bottom}H{right}"/>')
    for step in _round_numbers(0, scale.last, 4):
        if step == round(step):
            parts.append(f'<text x="{scale.x(step):.1f}" y="{bottom + 16}" text-anchor=middle>{step:,.0f}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 5}" text-anchor=middle>step</text>')
    return "".join(parts)


def _resume_marks(scale: _Scale, resumed: Sequence[int]) -> str:
    return "".join(
        f'<path class=mark d="M{scale.x(step):.1f} {TOP}V{HEIGHT - BOTTOM}"><title>resumed at step {step:,}'
        "</title></path>"
        for step in resumed
        if step <= scale.last
    )


def _line(scale: _Scale, series: Series, show: Callable[[float], str]) -> str:
    points = _thinned(series.points)
    path, pen_is_down, dots = [], False, []
    for i, (step, value) in enumerate(points):
        if value is None:
            pen_is_down = False
            continue
        x, y = scale.x(step), scale.y(value)
        path.append(f"{'L' if pen_is_down else 'M'}{x:.1f} {y:.1f}")
        after = points[i + 1][1] if i + 1 < len(points) else None
        if series.style in "bd" or (not pen_is_down and after is None):  # a point without neighbours draws no line
            label = f"{series.name}, step {step:,.0f}: {show(value)}"
            dots.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r=3><title>{escape(label)}</title></circle>')
        pen_is_down = True
    return f'<g class="{series.style}"><path class=line d="{"".join(path)}"/>{"".join(dots)}</g>'


def _thinned(points: Sequence[Point]) -> list[tuple[float, float | None]]:
    """At most MAX_POINTS points; each is the mean of the finite values of its group."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return list(points)
    means: list[tuple[float, float | None]] = []
    for i in range(0, len(points), size):
        group = points[i : i + size]
        finite = [value for _, value in group if value is not None]
        means.append((group[-1][0], sum(finite) / len(finite) if finite else None))
    return means


def _description(title: str, series: Sequence[Series], show: Callable[[float], str]) -> str:
    """The chart as text, for screen readers."""
    lines = []
    for line in series:
        finite = [(step, value) for step, value in line.points if value is not None]
        (first, start), (last, end) = finite[0], finite[-1]
        lines.append(f"{line.name}: {show(start)} at step {first:,}, {show(end)} at step {last:,}")
    return f"{title}. " + "; ".join(lines) + "."
