"""The charts of a run: loss, accuracy, learning rate, gradient norm, speed and skipped steps."""

from __future__ import annotations

from mlm_dist.pages.charts import Series, chart
from mlm_dist.pages.formats import finite, number, percent, small, thousands
from mlm_dist.pages.record import Record
from mlm_dist.pages.tables import paragraph

MAX_SPIKES = 12  # loss spikes that are named


def curves(record: Record) -> str:
    """All charts for which values are recorded; nothing if there are none."""
    charts = [
        chart("Loss", _losses(record), number, resumed=record.resumed),
        chart("Validation accuracy", [_accuracy(record)], percent, resumed=record.resumed),
        chart("Learning rate", [_train_series(record, "learning_rate")], small, resumed=record.resumed),
        chart("Gradient norm", [_train_series(record, "grad_norm")], number, resumed=record.resumed, may_be_log=True),
        chart("Tokens per second", [_train_series(record, "tokens_per_second")], thousands, resumed=record.resumed),
    ]
    skipped = _train_series(record, "skipped_steps")
    if any(value for _, value in skipped.points):
        charts.append(chart("Skipped steps, in total", [skipped], thousands, resumed=record.resumed))
    return f'{paragraph(_notes(record))}<div class="grid">{"".join(charts)}</div>' if any(charts) else ""


def _losses(record: Record) -> list[Series]:
    train, validation = record.train, record.validation
    losses = [
        Series("training", [(step, finite(line["loss"])) for step, line in train.items()], "a"),
        Series("validation", [(step, finite(line["loss"])) for step, line in validation.items()], "b"),
    ]
    if any("second_loss" in line for line in validation.values()):
        points = [(step, finite(line.get("second_loss"))) for step, line in validation.items()]
        losses.append(Series(f"second source: {record.start.get('second_source', '')}", points, "d"))
    unigram_loss = record.start.get("unigram_loss")
    if unigram_loss is not None and (train or validation):
        losses.append(Series("unigram baseline", [(0, unigram_loss), (max(record.step, 1), unigram_loss)], "c"))
    return losses


def _accuracy(record: Record) -> Series:
    return Series("accuracy", [(step, finite(line["accuracy"])) for step, line in record.validation.items()], "b")


def _train_series(record: Record, key: str) -> Series:
    return Series(key.replace("_", " "), [(step, finite(line.get(key))) for step, line in record.train.items()])


def _notes(record: Record) -> str:
    notes = []
    if record.resumed:
        notes.append("A dotted vertical line marks a step at which the run was resumed.")
    spikes = [step for step, line in record.train.items() if line.get("spike")]
    if spikes:
        more = ", ..." if len(spikes) > MAX_SPIKES else ""
        notes.append(f"The loss spiked at step {', '.join(f'{step:,}' for step in spikes[:MAX_SPIKES])}{more}.")
    if record.train and not any(line.get("skipped_steps") for line in record.train.values()):
        notes.append("No step was skipped: all values were finite.")
    return " ".join(notes)
