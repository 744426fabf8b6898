"""What one process trains and validates on: its micro-batches of every step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mlm_dist import hashing
from mlm_dist.batches import shapes
from mlm_dist.batches.micro_batch import Corruption, MicroBatch, Samples, assemble
from mlm_dist.batches.mixture import Order
from mlm_dist.batches.ramp import Ramp
from mlm_dist.batches.shapes import VARYING, Rows
from mlm_dist.batches.upcoming_blocks import UpcomingBlocks
from mlm_dist.spec import BatchSpec

WIDTH = 8  # what widths of pairs are multiples of
UNBOUNDED = 1 << 60  # samples of a run whose duration is in hours
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Stream:
    """The samples of a phase, in order.

    Args:
        rows: The training rows.
        order: Which row comes when; its seed also determines the dropout of each row.
        num_samples: Samples that the phase consumes; the last step ends there. None if its duration is in hours.
        first_step: Steps of the run before the phase.
        first_sample: Samples of the run before the phase.
        upcoming: Downloads the blocks that the next steps need, if the rows stay in a store.
    """

    rows: Rows
    order: Order
    num_samples: int | None
    first_step: int = 0
    first_sample: int = 0
    upcoming: UpcomingBlocks | None = None


@dataclass(frozen=True)
class Target:
    """What the micro-batches are made for.

    Args:
        rank: The rank.
        device: The device of the model. For a GPU, tensors are put into pinned memory.
        static: Whether all micro-batches have the same shape, see `shapes.fixed`.
    """

    rank: int = 0
    device: torch.device = _CPU
    static: bool = False


class TrainingBatches:
    """The micro-batches of one process, by step. A thread assembles the next step while this one is computed.

    Args:
        stream: The samples of the phase.
        corruption: What the objective does to rows.
        batch: How the global batch is spread.
        ramp: The size of the batch at every step of the phase.
        target: The rank and the device they are for.
    """

    def __init__(
        self,
        stream: Stream,
        corruption: Corruption,
        batch: BatchSpec,
        ramp: Ramp,
        target: Target,
    ) -> None:
        self._filled_to = shapes.fixed(corruption, stream.rows, batch.micro_size) if target.static else VARYING
        self._pinned = target.device.type == "cuda"
        self._stream, self._corruption, self._batch, self._ramp = stream, corruption, batch, ramp
        self._rank = target.rank
        self._num_samples = UNBOUNDED if stream.num_samples is None else stream.num_samples
        self._ahead: dict[int, Future[list[MicroBatch]]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def __getitem__(self, step: int) -> Sequence[MicroBatch]:
        """This process's micro-batches of a step, from 0."""
        ready = self._ahead.pop(step, None)
        self._ahead = {step + 1: self._pool.submit(self._assemble, step + 1)}
        return ready.result() if ready is not None else self._assemble(step)

    def samples_before(self, step: int) -> int:
        """Samples of the run consumed when a step begins."""
        return self._stream.first_sample + self._consumed(step)

    def samples(self, step: int) -> list[int]:
        """The samples of a step's global batch, of all processes."""
        first, last = self._consumed(step), self._consumed(step + 1)
        samples: list[int] = self._stream.order.between(first, last)[1].tolist()
        return samples

    def _consumed(self, step: int) -> int:
        """Samples of the phase consumed when a step begins."""
        return min(self._ramp.samples_before(step - self._stream.first_step), self._num_samples)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)
        if self._stream.upcoming is not None:
            self._stream.upcoming.close()

    def __enter__(self) -> TrainingBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _assemble(self, step: int) -> list[MicroBatch]:
        batch, stream, of_phase = self._batch, self._stream, step - self._stream.first_step
        first, last = self._consumed(step), self._consumed(step + 1)
        if stream.upcoming is not None:
            stream.upcoming.expect(first)
        micro_batches, width = [], self._width(first, last)
        for i in range(batch.accumulation_of(self._ramp.size(of_phase))):
            start = first + (i * batch.world_size + self._rank) * batch.micro_size
            stop = max(start, min(start + batch.micro_size, last))
            positions = np.arange(start, stop)
            row_keys = hashing.key(stream.order.seed, stream.first_sample + positions, hashing.DROPOUT)
            micro = assemble(
                stream.rows,
                self._corruption,
                Samples(*stream.order.between(start, stop), row_keys, positions / self._num_samples),
                batch.micro_size,
                self._filled_to,
                self._ramp.pieces(of_phase),
                width,
            )
            micro_batches.append(micro.map(torch.Tensor.pin_memory) if self._pinned else micro)
        return micro_batches

    def _width(self, first: int, last: int) -> int | None:
        """Positions of the longest row of a global batch of pairs; None for all positions, which other rows fill.

        Dropout depends on it, so it is that of all micro-batches of all ranks.
        """
        if self._stream.rows.groups is None or self._filled_to != VARYING:
            return None
        lengths, _ = self._stream.rows.chunks(self._stream.order.between(first, last)[1])
        return shapes.rounded_up(int(lengths.reshape(-1, 2).sum(1).max()), WIDTH)


def validation_batches(
    rows: Rows,
    corruption: Corruption,
    micro_size: int,
    rank: int = 0,
    world_size: int = 1,
    *,
    span: range | None = None,
    static: bool = False,
) -> Iterator[MicroBatch]:
    """This process's share of the rows of a validation set, or of a span of them, in order.

    Masks depend on the place of a row in the set. Every process gets the same number of micro-batches, because sharded
    models compute together; missing rows predict nothing. With `static` all have one shape, see `shapes.fixed`.
    """
    filled_to = shapes.fixed(corruption, rows, micro_size) if static else VARYING
    span = range(len(rows)) if span is None else span
    for first in range(span.start, span.stop, micro_size * world_size):
        start = first + rank * micro_size
        samples = np.arange(start, max(start, min(start + micro_size, span.stop)))
        yield assemble(rows, corruption, Samples(np.zeros_like(samples), samples), micro_size, filled_to)
