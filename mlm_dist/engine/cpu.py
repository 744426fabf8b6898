"""Threads and memory of a process that computes on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

import torch

from mlm_dist import ranks
from mlm_dist.engine.device import num_cores

# Parameters of glibc's mallopt (see its manual page).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -2, -3, -4, -8
_LARGE = 32 << 20  # the largest threshold that mallopt takes


@contextlib.contextmanager
def cpu_settings(*, keep_large: bool = True) -> Iterator[None]:
    """Give this process its share of the machine's cores inside, and let it keep the memory it frees.

    Args:
        keep_large: Whether it keeps blocks over 32 MiB as well. Long rows have masks of hundreds of MiB: free blocks of
            that size are soon split by smaller ones, and the process grows to twice the memory that it uses.
    """
    threads = torch.get_num_threads()
    # The launcher sets one OpenMP thread per process.
    torch.set_num_threads(max(1, num_cores() // ranks.local_world_size()))
    _keep_freed_memory(keep_large)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _keep_freed_memory(keep_large: bool) -> None:
    """Ask glibc not to return large blocks to the system.

    Every step frees what the next one needs. If it is returned, it comes back as pages that the system must clear
    first, which takes a tenth to a third of a step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # not on Windows, macOS or musl
        mapped = ((_MMAP_MAX, 0),) if keep_large else ((_MMAP_MAX, 1 << 16), (_MMAP_THRESHOLD, _LARGE))
        for parameter, value in ((_ARENA_MAX, 1), *mapped, (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 << 20)):
            mallopt(parameter, value)
