"""Line charts: what the template draws as inline SVG; their colours come from the page's style sheet."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mlm_dist.pages.formats import thousands
from mlm_dist.pages.scales import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, round_numbers

MAX_POINTS = 240  # of a line; more points are averaged in groups
MAX_STRIPS = 120  # of a chart: the parts of its width that show their values
MOST_STYLES = 8  # colours of lines that stand side by side, p0 to p7; with more lines they repeat
LOG_RATIO = 100.0  # with a larger ratio of the largest to the smallest value, the logarithmic scale is shown first

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        name: Its name in the legend.
        points: (x, value), by x; None for a value that is not finite, which breaks the line.
        style: Class of its colour: a, b, c, d and so on. Those of b and d have a dot at each point, those of c are
            dashed.
        group: dots for a dot at each point of a line of any style; else empty.
    """

    name: str
    points: Sequence[Point]
    style: str = "a"
    group: str = ""


@dataclass(frozen=True)
class XAxis:
    """The horizontal axis.

    Args:
        name: What it counts.
        show: Formats one of its values, in full.
    """

    name: str = "step"
    show: Callable[[float], str] = field(default=thousands)


@dataclass(frozen=True)
class Drawing:
    """A chart on one scale, in coordinates.

    Args:
        scale: linear or log.
        y_ticks: (y, text).
        x_ticks: (x, text).
        lines: (classes, path, dots), dots as (x, y).
        marks: (x, text) of vertical lines.
        strips: (x, width, text) of parts of the width, and the values there.
    """

    scale: str
    y_ticks: list[tuple[str, str]]
    x_ticks: list[tuple[str, str]]
    lines: list[tuple[str, str, list[tuple[str, str]]]]
    marks: list[tuple[str, str]]
    strips: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Chart:
    """A chart.

    Args:
        title: The heading.
        legend: (class, name) of each line.
        drawings: On a linear scale, and on a logarithmic one if there is a choice; none if no value is finite.
        first: The scale that is shown first.
        x_name: What the horizontal axis counts.
        description: The chart as text, for screen readers.
    """

    title: str
    legend: list[tuple[str, str]]
    drawings: list[Drawing]
    first: str
    x_name: str
    description: str

    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


class Mark(NamedTuple):
    """A vertical line at a step.

    Args:
        step: The step.
        text: What it marks.
    """

    step: int
    text: str


def chart(
    title: str,
    series: Sequence[Series],
    show: Callable[[float], str],
    *,
    x_axis: XAxis | None = None,
    marks: Sequence[Mark] = (),
    has_log: bool = False,
) -> Chart | None:
    """A chart of lines; None without points.

    Args:
        title: The heading.
        series: The lines.
        show: Formats a value.
        x_axis: The horizontal axis; by default, steps.
        marks: Steps that are marked.
        has_log: Whether there is a logarithmic scale, too; only if all values are over zero.
    """
    if not any(line.points for line in series):
        return None
    axis = x_axis or XAxis()
    series = [line for line in series if any(value is not None for _, value in line.points)]
    values = [value for line in series for _, value in line.points if value is not None]
    if not values:
        return Chart(title, [], [], "linear", axis.name, "")
    low, high = min(values), max(values)
    last = max(max((x for line in series for x, _ in line.points), default=0), 1e-9)
    scales = [Scale(last, low, high, is_log=False)]
    first = "linear"
    if has_log and 0 < low < high:
        scales.append(Scale(last, low, high, is_log=True))
        first = "log" if high / low > LOG_RATIO else "linear"
    drawings = [_drawing(scale, series, show, axis, marks) for scale in scales]
    legend = [(f"{line.style} {line.group}".strip(), line.name) for line in series]
    return Chart(title, legend, drawings, first, axis.name, _description(title, series, show, axis))


def _drawing(
    scale: Scale, series: Sequence[Series], show: Callable[[float], str], axis: XAxis, marks: Sequence[Mark]
) -> Drawing:
    bottom = HEIGHT - BOTTOM
    thin = [(line, _thinned(line.points)) for line in series]
    return Drawing(
        scale="log" if scale.is_log else "linear",
        y_ticks=[(f"{y:.1f}", show(value)) for value in scale.ticks if TOP - 1 <= (y := scale.y(value)) <= bottom + 1],
        x_ticks=[
            (f"{scale.x(x):.1f}", f"{x:,.4g}" if x < 1000 else f"{x:,.0f}")
            for x in round_numbers(0, scale.last, 4)
            if axis.name != "step" or x == round(x)
        ],
        lines=[_line(scale, line, points) for line, points in thin],
        marks=[(f"{scale.x(mark.step):.1f}", mark.text) for mark in marks if mark.step <= scale.last],
        strips=_strips(scale, thin, show, axis),
    )


def _line(scale: Scale, series: Series, points: Sequence[Point]) -> tuple[str, str, list[tuple[str, str]]]:
    path, pen_is_down, dots = [], False, []
    for i, (step, value) in enumerate(points):
        if value is None:
            pen_is_down = False
            continue
        x, y = f"{scale.x(step):.1f}", f"{scale.y(value):.1f}"
        path.append(f"{'L' if pen_is_down else 'M'}{x} {y}")
        after = points[i + 1][1] if i + 1 < len(points) else None
        if (
            series.style in ("b", "d") or series.group == "dots" or (not pen_is_down and after is None)
        ):  # a point without neighbours draws no line
            dots.append((x, y))
        pen_is_down = True
    return f"{series.style} {series.group}".strip(), "".join(path), dots


def _strips(
    scale: Scale, lines: Sequence[tuple[Series, list[Point]]], show: Callable[[float], str], axis: XAxis
) -> list[tuple[str, str, str]]:
    """Parts of the width around points of the lines, each with the newest value of every line there."""
    xs = sorted({x for _, points in lines for x, value in points if value is not None})
    stride = -(-len(xs) // MAX_STRIPS)
    shown = sorted({*xs[::stride], xs[-1]})
    finite = [(line, [(x, value) for x, value in points if value is not None]) for line, points in lines]
    edges = [LEFT, *((scale.x(a) + scale.x(b)) / 2 for a, b in itertools.pairwise(shown)), WIDTH - RIGHT]
    strips = []
    for i, x in enumerate(shown):
        texts = [f"{axis.name} {axis.show(x)}"]
        for line, points in finite:
            at = bisect_right(points, x, key=lambda point: point[0]) - 1
            if at >= 0 and x <= points[-1][0]:
                since, value = points[at]
                older = "" if since == x or line.style == "c" else f" ({axis.name} {axis.show(since)})"
                texts.append(f"{line.name}: {show(value)}{older}")
        strips.append((f"{edges[i]:.1f}", f"{max(edges[i + 1] - edges[i], 0):.1f}", "\n".join(texts)))
    return strips


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most MAX_POINTS points; each is the mean of the finite values of its group."""
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return list(points)
    means: list[Point] = []
    for i in range(0, len(points), size):
        group = points[i : i + size]
        finite = [value for _, value in group if value is not None]
        means.append((group[-1][0], sum(finite) / len(finite) if finite else None))
    return means


def _description(title: str, series: Sequence[Series], show: Callable[[float], str], axis: XAxis) -> str:
    lines = []
    for line in series:
        finite = [(x, value) for x, value in line.points if value is not None]
        (first, start), (last, end) = finite[0], finite[-1]
        at = f"at {axis.name}"
        lines.append(f"{line.name}: {show(start)} {at} {axis.show(first)}, {show(end)} {at} {axis.show(last)}")
    return f"{title}. " + "; ".join(lines) + "."
