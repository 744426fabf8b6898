"""Early stopping of a resumed run: the best validation that it knows, and whether its patience is used up already."""

from __future__ import annotations

import logging

from mlm_dist import ranks
from mlm_dist.checkpoint.state import Best, TrainState

logger = logging.getLogger(__name__)


def comparable(best: Best, rows: str) -> Best:
    """The best validation of a run that is resumed, if it can be compared with the next ones.

    Args:
        best: The best one before.
        rows: The rows that validations use from here on, see `ValidationSet.description`.
    """
    found = best.on_rows(rows)
    if best.step is not None and found.step is None and ranks.is_main():
        logger.warning(
            "validation is on %s, before it was on %s: losses of earlier validations are not compared with the next "
            "ones",
            *(rows, best.rows),
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
