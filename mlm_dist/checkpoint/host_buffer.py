"""A host buffer: memory that takes the values of a checkpoint from a GPU, so that training continues at once."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import torch

from mlm_dist.engine.device import host_memory
from mlm_dist.engine.protocol import Engine

logger = logging.getLogger(__name__)

BLOCK = 1 << 26  # fp32 values of a block, 256 MiB; torch rounds pinned memory up to a power of two
_SHARE = 0.5  # of the free host memory, at most


class HostBuffer:
    """Host memory for the values of one checkpoint, used again for the next one.

    A copy is a part of the device's work, in order: a step that begins after `add` cannot change what was added.

    Args:
        count: fp32 values that one checkpoint has. The memory is 4 bytes for each, in whole blocks.
        pinned: Whether the memory is pinned; otherwise copies from a GPU hold the process.
    """

    def __init__(self, count: int, *, pinned: bool) -> None:
        self._blocks = [torch.empty(min(BLOCK, count), pin_memory=pinned) for _ in range(0, count, BLOCK)]
        self._used = 0
        self._copied = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]

    @classmethod
    def of(cls, engine: Engine) -> HostBuffer | None:
        """Pinned memory for the checkpoints of an engine that is set up: 12 bytes a parameter with AdamW, on rank 0.

        None where it has no use: on other ranks, and without a GPU, where values are written from where they are. Also
        None, with a log line, if it would take more than half of the free host memory.
        """
        if not engine.is_main or engine.device.type != "cuda":
            return None
        moments = engine.moment_names()
        count = sum((1 + len(moments.get(name, ()))) * math.prod(shape) for name, shape in engine.shapes().items())
        size = f"{4 * count / 2**30:.1f} GiB"
        if 4 * count > _SHARE * _free_memory():
            logger.info(
                "the free host memory does not hold a checkpoint (%s): training waits while it is written", size
            )
            return None
        try:
            return cls(count, pinned=True)
        except RuntimeError:  # the system has a limit on pinned memory
            logger.info("%s of host memory cannot be pinned: training waits while a checkpoint is written", size)
            return None

    def clear(self) -> None:
        """Begin another checkpoint, once the last one has been read."""
        self._used = 0

    def add(self, values: torch.Tensor) -> range:
        """Copy values, rounded to fp32 if necessary, without waiting for the device; returns where they are."""
        rest, first = values.detach().reshape(-1), self._used
        while rest.numel():
            block, start = divmod(self._used, BLOCK)
            part = rest[: len(self._blocks[block]) - start]
            self._blocks[block][start : start + len(part)].copy_(part, non_blocking=True)
            self._used, rest = self._used + len(part), rest[len(part) :]
        if self._copied is not None:
            self._copied.record()
        return range(first, self._used)

    def read(self, where: range) -> Iterator[torch.Tensor]:
        """The values at a place that `add` returned, block by block; waits for the device."""
        if self._copied is not None:
            self._copied.synchronize()
        first = where.start
        while first < where.stop:
            block, start = divmod(first, BLOCK)
            part = self._blocks[block][start : start + where.stop - first]
            first += len(part)
            yield part


def _free_memory() -> int:
    import psutil

    return min(int(psutil.virtual_memory().available), host_memory())
