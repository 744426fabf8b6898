"""Faults on demand, so that tests can see what a run survives. Nothing here acts unless MLM_DIST_FAULT is set.

MLM_DIST_FAULT=POINT@STEP or POINT@STEP@RANK names one moment of a run: the process kills itself there, as a lost
machine would, or reports a value as not a number.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "MLM_DIST_FAULT"


def planned(point: str, step: int, rank: int = 0) -> bool:
    """Whether the fault of this process is planned for here and now."""
    fault = os.environ.get(VARIABLE)
    return fault is not None and fault in (f"{point}@{step}", f"{point}@{step}@{rank}")


def kill_here(point: str, step: int, rank: int = 0) -> None:
    """Die without any chance to clean up, if that is planned for here and now."""
    if planned(point, step, rank):
        os.kill(os.getpid(), signal.SIGKILL)
