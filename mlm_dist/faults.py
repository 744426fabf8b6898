"""Planned faults, so that tests can see what a run survives. Nothing here acts unless MLM_DIST_FAULT is set.

MLM_DIST_FAULT=POINT@STEP or POINT@STEP@RANK names a moment of a run, and commas separate several: the process kills
itself there, as a lost machine would, or a value becomes NaN.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "MLM_DIST_FAULT"


def planned(point: str, step: int, rank: int = 0) -> bool:
    """Whether a fault is planned for this moment of this process."""
    faults = os.environ.get(VARIABLE)
    return faults is not None and not {f"{point}@{step}", f"{point}@{step}@{rank}"}.isdisjoint(faults.split(","))


def kill_here(point: str, step: int, rank: int = 0) -> None:
    """Die without any chance to clean up, if that is planned for this moment."""
    if planned(point, step, rank):
        os.kill(os.getpid(), signal.SIGKILL)
