"""Making good use of the processor where there is no GPU: its cores, and memory that is used again."""

from __future__ import annotations

import ctypes
import os

import torch

from mlm_dist.engine import topology

# Parameters of glibc's mallopt (see its manual page).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def settle() -> None:
    """Give this process its share of the machine's cores, and let it keep the memory that it frees."""
    # The launcher sets one OpenMP thread per process; the cores are there to be used.
    torch.set_num_threads(max(1, topology.num_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Ask glibc not to give large blocks back to the system.

    Every update frees what the next one needs. Given back, it comes again as pages that the system must clear first,
    which takes a tenth to a third of an update.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # not on Windows, macOS or musl
        for parameter, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20)):
            mallopt(parameter, value)
