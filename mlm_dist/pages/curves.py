"""The charts of a run: loss, accuracy, learning rate, gradient norm, speed and skipped steps."""

from __future__ import annotations

from collections.abc import Sequence

from mlm_dist.optim.schedule import learning_rate
from mlm_dist.pages.charts import MOST_STYLES, Chart, Mark, Point, Series, chart
from mlm_dist.pages.formats import finite, number, percent, small, thousands
from mlm_dist.pages.record import Record
from mlm_dist.pages.resolved import PlannedRate

MAX_SPIKES = 12  # loss spikes that are named
PLANNED_POINTS = 200  # of the schedule


def curves(record: Record, rates: Sequence[PlannedRate] = ()) -> list[Chart]:
    """All charts for which values are recorded.

    Args:
        record: The run.
        rates: The learning rates of its phases, as far as they are known.
    """
    marks = _marks(record)
    charts = [
        chart("Loss", _losses(record), number, marks=marks, has_log=True),
        chart("Validation accuracy", [_accuracy(record)], percent, marks=marks),
        chart("Learning rate", _learning_rates(record, rates), small, marks=marks),
        chart("Gradient norm", [_train_series(record, "grad_norm")], number, marks=marks, has_log=True),
        chart("Tokens per second", [_train_series(record, "tokens_per_second")], thousands, marks=marks),
    ]
    skipped = _train_series(record, "skipped_steps")
    if any(value for _, value in skipped.points):
        charts.append(chart("Skipped steps, in total", [skipped], thousands, marks=marks))
    return [one for one in charts if one is not None]


def _marks(record: Record) -> list[Mark]:
    resumed = [Mark(step, f"resumed at step {step:,}") for step in record.resumed]
    return [
        *resumed,
        *(Mark(step, f"phase {name}, from step {step:,}") for name, step in record.phases.items() if step),
    ]


def notes_on_curves(record: Record) -> str:
    """Resumes, loss spikes and skipped steps in words."""
    notes = []
    if record.resumed:
        notes.append("A dotted vertical line marks a step at which the run was resumed.")
    if len(record.phases) > 1:
        notes.append("Dotted vertical lines mark where phases begin: " + ", ".join(record.phases) + ".")
    spikes = [step for step, line in record.train.items() if line.get("spike")]
    if spikes:
        more = ", ..." if len(spikes) > MAX_SPIKES else ""
        notes.append(f"The loss spiked at step {', '.join(f'{step:,}' for step in spikes[:MAX_SPIKES])}{more}.")
    if record.train and not any(line.get("skipped_steps") for line in record.train.values()):
        notes.append("No step was skipped: all values were finite.")
    return " ".join(notes)


def _losses(record: Record) -> list[Series]:
    train, validation = record.train, record.validation
    losses = [
        Series("training", [(step, finite(line["loss"])) for step, line in train.items()], "a"),
        Series("validation", [(step, finite(line["loss"])) for step, line in validation.items()], "b"),
    ]
    for i, (name, title) in enumerate(record.sources.items()):
        points = [(step, finite(line.get(f"source_{name}_loss"))) for step, line in validation.items()]
        losses.append(Series(title, points, f"p{(i + 2) % MOST_STYLES}", "dots"))  # p0 and p1 are as a, b
    unigram_loss = record.unigram_loss
    if unigram_loss is not None and (train or validation):
        losses.append(Series("unigram baseline", [(0, unigram_loss), (max(record.step, 1), unigram_loss)], "c"))
    return losses


def _accuracy(record: Record) -> Series:
    return Series("accuracy", [(step, finite(line["accuracy"])) for step, line in record.validation.items()], "b")


def _learning_rates(record: Record, rates: Sequence[PlannedRate]) -> list[Series]:
    """The schedule over the whole run, from step 0, and the rates that were used; at x, the rate of the next step."""
    used = [(step - 1, finite(line.get("learning_rate"))) for step, line in record.train.items()]
    planned = _schedule(rates, record.steps) if record.steps and used else []
    return [*([Series("schedule", planned, "c")] if planned else []), Series("used", used, "a")]


def _schedule(rates: Sequence[PlannedRate], total: int) -> Sequence[Point]:
    """The planned rates, up to a phase whose length is not known; the last one takes what is left of the run."""
    stride, points, first = -(-total // PLANNED_POINTS), list[Point](), 0
    for i, (rate, known) in enumerate(rates):
        steps = total - first if i == len(rates) - 1 else known
        if steps is None:
            break
        points += [(first + step, learning_rate(step, rate, steps)) for step in [*range(0, steps, stride), steps]]
        first += steps
    return points


def _train_series(record: Record, key: str) -> Series:
    return Series(key.replace("_", " "), [(step, finite(line.get(key))) for step, line in record.train.items()])
