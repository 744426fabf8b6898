"""Messages of libraries that say nothing about a run, silenced by name; all others are shown."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator

# {logger: how its message begins}
LOGGED = {
    # The accelerate file of a topology leaves to the launcher what is the same for all runs.
    "accelerate.commands.launch": "The following values were not passed to `accelerate launch`",
    # Threads are divided among the processes when the engine starts.
    "torch.distributed.run": "Setting OMP_NUM_THREADS environment variable for each process",
    # `mlm_dist.engine.missing_gpus` warns if there is a GPU that is not used.
    "DeepSpeed": "Setting accelerator to CPU. If you have GPU or other accelerator",
}
# How FutureWarnings begin about calls that accelerate and DeepSpeed make.
WARNED = (
    "`broadcast_buffers` is deprecated",
    "`torch.distributed.all_gather_into_tensor` is deprecated",
    "`torch.distributed.reduce_scatter_tensor` is deprecated",
)
# Progress bars of libraries, which would run into the stages of a job.
BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def silence() -> None:
    """Silence them in this process; for programs, not for libraries."""
    for name in LOGGED:
        logging.getLogger(name).addFilter(_is_shown)
    for beginning in WARNED:
        warnings.filterwarnings("ignore", re.escape(beginning), FutureWarning)
    for variable in BARS:
        os.environ.setdefault(variable, "1")


@contextlib.contextmanager
def silenced(name: str) -> Iterator[None]:
    """Silence the message of one logger inside; for libraries."""
    logger = logging.getLogger(name)
    is_new = _is_shown not in logger.filters
    logger.addFilter(_is_shown)
    try:
        yield
    finally:
        if is_new:
            logger.removeFilter(_is_shown)


def _is_shown(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip("\n*").startswith(LOGGED[record.name])
