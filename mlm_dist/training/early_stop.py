"""Early stopping of a resumed run: the best validation that it knows, and whether its patience is used up already."""

from __future__ import annotations

import logging

from mlm_dist import ranks
from mlm_dist.checkpoint.state import Best, TrainState

logger = logging.getLogger(__name__)


def comparable(best: Best, rows: int, total: int) -> Best:
    """The best validation of a run that is resumed, if it can be compared with the next ones.

    Args:
        best: The best one before.
        rows: Rows that validations use from here on.
        total: Rows of the whole validation set.
    """
    found = best.on_rows(rows, total)
    if best.step is not None and found.step is None and ranks.is_main():
        logger.warning(
            "validation.max_rows: %s of %s validation rows are used, before it was %s: losses of earlier "
            "validations are not compared with the next ones",
            *(f"{rows:,}", f"{total:,}", f"{best.rows or total:,}"),
        )
    return found


def report(state: TrainState, patience: int | None) -> None:
    """Say why a run that its patience ended before trains no steps."""
    if state.best.ends_training(patience) and ranks.is_main():
        logger.info(
            "the run is finished: validation.patience %s ended it at step %s; the model is exported again. To train "
            "on, raise validation.patience or set it to null",
            *(f"{patience:,}", f"{state.step:,}"),
        )
