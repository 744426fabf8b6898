"""The comparison of runs: a table, the settings that differ, and one HTML page with their curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlm_dist import __version__
from mlm_dist.pages.charts import MOST_STYLES, Chart, Point, Series, XAxis, chart
from mlm_dist.pages.compared_runs import ComparedRun, differing, obstacles
from mlm_dist.pages.formats import duration, finite, number, thousands
from mlm_dist.pages.jinja import render
from mlm_dist.pages.tables import Table

SECTIONS = {"results": "Results", "settings": "Differing settings", "curves": "Curves"}


@dataclass(frozen=True)
class RunComparison:
    """Runs side by side.

    Args:
        runs: The runs; validation losses are compared with those of the first.
        price_per_hour: Price of an hour of training; None if it is not known.
    """

    runs: Sequence[ComparedRun]
    price_per_hour: float | None = None

    @property
    def notes(self) -> list[str]:
        """What must be known to read the figures: which validation losses cannot be compared, and why."""
        first, notes = self.runs[0], []
        for run in self.runs[1:]:
            found = obstacles(run, first)
            if found:
                notes.append(
                    f"The validation losses of {run.name} and {first.name} are not comparable: different "
                    f"{', '.join(found)}."
                )
        if self.by_character:
            notes.append(
                "The tokenizers differ, the documents do not: compare the loss per character, "
                "which is the loss per token divided by the characters per token of the validation documents."
            )
        return [*notes, *(f"{run.name} has no validation." for run in self.runs if not run.losses)]

    @property
    def by_character(self) -> bool:
        """Whether the tokenizers alone make validation losses incomparable, and the characters are counted."""
        found = [set(obstacles(run, self.runs[0])) for run in self.runs]
        allowed = {"tokenizer", "length or mode of rows", "rows of the validation set"}
        is_counted = all(run.chars_per_token for run in self.runs)
        return is_counted and any("tokenizer" in one for one in found) and all(one <= allowed for one in found)

    @property
    def results(self) -> Table:
        """One row per run."""
        heads = ["run", "step", "validation loss", "best", "at step"]
        heads += self._sources
        heads += ["per character"] if self.by_character else []
        heads += ["training time", "tokens/s"]
        heads += [] if self.price_per_hour is None else ["cost", "cost per 1M tokens"]
        rows = [self._row(run) for run in self.runs]
        return Table("Losses in nats per predicted token; time without validations", heads, rows, numbers=True)

    @property
    def _sources(self) -> list[str]:
        """Sources with a validation loss of their own, of all runs."""
        return [*dict.fromkeys(name for run in self.runs for name in run.record.sources)]

    @property
    def settings(self) -> Table | None:
        """The settings that differ; None if there are none."""
        found = differing(self.runs)
        rows = [[key, *values] for key, values in found.items()]
        return (
            Table("As decided for each run", ["", *(run.name for run in self.runs)], rows, numbers=False)
            if rows
            else None
        )

    def _row(self, run: ComparedRun) -> list[str]:
        last, best, speed = run.losses[-1] if run.losses else None, run.best, run.tokens_per_second
        steps = "" if run.record.is_finished else f" of {run.record.steps:,}" if run.record.steps else ", not finished"
        row = [run.name, f"{run.record.step:,}{steps}", number(last[1]) if last else "—"]
        row += [number(best[1]), f"{best[0]:,}"] if best else ["—", "—"]
        newest = run.record.validation[max(run.record.validation)] if run.record.validation else {}
        row += [number(newest[key]) if (key := f"source_{name}_loss") in newest else "—" for name in self._sources]
        if self.by_character:
            row.append(number(last[1] / run.chars_per_token) if last and run.chars_per_token else "—")
        seconds = run.progress[-1][2]
        row += [duration(seconds) if seconds else "—", f"{speed:,.0f}" if speed else "—"]
        if self.price_per_hour is not None:
            row.append(f"{self.price_per_hour * seconds / 3600:.4g}" if seconds else "—")
            row.append(f"{self.price_per_hour / 3600 * 1e6 / speed:.4g}" if speed else "—")
        return row

    def charts(self) -> list[Chart]:
        """Validation and training losses side by side: by step, by tokens and by time."""
        last = max(run.progress[-1][2] for run in self.runs)
        seconds, unit = (3600, "hours") if last > 7200 else (60, "minutes") if last > 120 else (1, "seconds")
        axes = [(0, 1, XAxis()), (1, 1, XAxis("tokens")), (2, seconds, XAxis(unit, lambda value: f"{value:,.4g}"))]
        charts = []
        for of, per, axis in axes:
            for kind, points, group in (("Validation", _validation, "dots"), ("Training", _training, "")):
                lines = [
                    Series(run.name, [(x / per, value) for x, value in points(run, of)], f"p{i % MOST_STYLES}", group)
                    for i, run in enumerate(self.runs)
                ]
                title = f"{kind} loss by {'time' if of == 2 else axis.name}"
                charts.append(chart(title, lines, number, x_axis=axis, has_log=True))
        return [one for one in charts if one is not None]


def _validation(run: ComparedRun, unit: int) -> list[Point]:
    return [(run.at(step, unit), finite(line.get("loss"))) for step, line in run.record.validation.items()]


def _training(run: ComparedRun, unit: int) -> list[Point]:
    losses = (finite(line.get("loss")) for line in run.record.train.values())
    return [(done[unit], loss) for done, loss in zip(run.progress[1:], losses, strict=True)]


def comparison_page(comparison: RunComparison) -> str:
    """The page as HTML; all text is escaped."""
    names = [run.name for run in comparison.runs]
    shown = {"results": comparison.results, "settings": comparison.settings, "curves": comparison.charts()}
    return render(
        "compare.html.jinja",
        **shown,
        title=f"{thousands(len(names))} runs",
        status=", ".join(names),
        reload=None,
        warnings=comparison.notes,
        sections=[(name, title) for name, title in SECTIONS.items() if shown[name]],
        footer=f"mlm_dist {__version__}. Losses are in nats per predicted token.",
    )
