"""This process among those of its launch, as the launcher says; no process group is needed."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """The rank of this process."""
    return int(environ.get("RANK", "0"))


def world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Number of processes on all machines."""
    return int(environ.get("WORLD_SIZE", "1"))


def local_world_size(environ: Mapping[str, str] = os.environ) -> int:
    """Number of processes on this machine."""
    return int(environ.get("LOCAL_WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process has rank 0: it logs, and writes the files of a run."""
    return rank() == 0


def is_restarted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher or a cluster started this job again, with the flags of the first time."""
    return any(int(environ.get(name) or 0) > 0 for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))


def launch_name(world_size: int, purpose: str) -> str:
    """A name that is the same on all ranks of a launch, and different for launches that share a disk."""
    address = os.environ.get("MASTER_ADDR", "")
    if address in ("", "localhost", "127.0.0.1", "::1"):
        address = socket.gethostname()
    job = [os.environ.get(name, "") for name in ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID")]
    return hashlib.sha256("\0".join([address, *job, str(world_size), purpose]).encode()).hexdigest()[:16]
