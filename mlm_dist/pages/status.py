"""One sentence about the state of a run."""

from __future__ import annotations

from mlm_dist.pages.formats import duration, plural
from mlm_dist.pages.record import Record
from mlm_dist.training.result import describe_average


def status(record: Record, *, is_running: bool = False) -> str:
    """Whether the run is finished, stopped or still running, and at which step.

    Args:
        record: The run.
        is_running: Whether it is known to be running.
    """
    if not record.start and record.steps is None:
        return "Nothing is recorded yet."
    parts = [_progress(record, is_running=is_running)]
    best = None if record.end is None else record.end.get("best_step")
    if record.is_finished and best is not None:
        parts.append(f"the exported model is that of step {best:,}, which has the lowest validation loss")
    if (average := record.exported_average) is not None:
        parts.append(f"the exported model is the {describe_average(average)}")
    if record.resumed:
        parts.append(f"resumed at step {', '.join(f'{step:,}' for step in record.resumed)}")
    return f"{record.start.get('model', 'The model')}: {'; '.join(parts)}."


def _progress(record: Record, *, is_running: bool) -> str:
    of_steps = "" if record.steps is None else f" of {record.steps:,}"
    if is_running:
        return f"still running, step {record.step:,}{of_steps}; this page is written again at each validation"
    if record.end is None:
        return f"at step {record.step:,}{of_steps}, running or interrupted"
    step = record.end.get("step", record.step)
    if not record.is_finished:
        return f"stopped at step {step:,}{of_steps}"
    time = f" in {duration(record.end['seconds'])}" if "seconds" in record.end and not record.resumed else ""
    if record.end.get("stopped_early"):
        return f"stopped early at step {step:,}{of_steps}{time}, because the validation loss no longer improved"
    return f"finished after {plural(step, 'step')}{time}"
