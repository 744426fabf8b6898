"""Batches as tensors: what one process feeds its model at a step, masks included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mlm_dist import hashing
from mlm_dist.batches import shapes
from mlm_dist.batches.global_batch import BatchPlan
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.mixture import MixedOrder
from mlm_dist.batches.order import SampleOrder
from mlm_dist.batches.ramp import Ramp
from mlm_dist.batches.shapes import VARYING, Rows, Shapes
from mlm_dist.batches.token_selection import Words

IGNORED = -100
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one process.

    Args:
        input_ids: [rows, length] with masks in place.
        attention_mask: [rows, length], 1 for tokens and 0 for padding; None where nothing is padded or rows are packed.
        positions: [predicted] places of the predicted tokens in the flattened rows.
        labels: [predicted] their true tokens; IGNORED where `positions` only fills up.
        cu_seq_lens: [chunks + 1], int32, where each window begins in the flattened rows, and their end; what is padded
            of a row counts as a window of its own, and chunks of no token fill up. None where no row holds several.
        row_keys: [rows], int64, a random number for each row's dropout; on the CPU alone, and None in validation.
        num_masked: Predicted tokens.
        num_tokens: Tokens that are not padding.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    positions: torch.Tensor
    labels: torch.Tensor
    cu_seq_lens: torch.Tensor | None
    row_keys: torch.Tensor | None
    num_masked: int
    num_tokens: int

    @property
    def inputs(self) -> tuple[torch.Tensor | None, ...]:
        """What the model's `forward` takes, in its order."""
        return self.input_ids, self.attention_mask, self.positions, self.labels, self.cu_seq_lens, self.row_keys

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; what is pinned is copied without waiting."""
        if device.type == "cpu":
            return self
        # A GPU draws its dropout from a generator of its own.
        return replace(self.each(lambda tensor: tensor.to(device, non_blocking=True)), row_keys=None)

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MicroBatch:
        """The same with all its tensors changed."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        return replace(self, **changed)


def assemble(
    rows: Rows,
    masker: Masker,
    epochs: np.ndarray,
    samples: np.ndarray,
    num_rows: int,
    row_keys: np.ndarray | None = None,
    progress: np.ndarray | None = None,
    filled_to: Shapes = VARYING,
    pieces: int = 1,
) -> MicroBatch:
    """Read and mask some rows.

    Args:
        rows: The split.
        masker: The masks.
        epochs: [n] epoch of each row.
        samples: [n] which rows.
        num_rows: Rows the micro-batch shall have, at least n; the missing ones predict nothing and count nothing.
        row_keys: [n], uint64, what the dropout of each row depends on.
        progress: [n] place of each row in the run, from 0 to 1, on which the masks' rate may depend.
        filled_to: How far the lists of predicted tokens and of chunks are filled up.
        pieces: Into how many rows of equal length each row is cut; it must divide their length.
    """
    count = len(samples)
    filled = np.concatenate([samples, np.zeros(num_rows - count, np.int64)])
    input_ids = rows.take(filled)
    lengths, num_chunks = rows.chunks(filled)
    ends = np.cumsum(num_chunks)
    num_tokens = np.add.reduceat(lengths, ends - num_chunks)  # of each row
    width = input_ids.shape[1]
    shown = input_ids.astype(np.int64)
    predicted = np.zeros(shown.shape, bool)
    words = None
    if masker.needs_words:
        row = np.repeat(np.arange(num_rows), num_chunks)
        within = np.cumsum(lengths) - lengths - (np.cumsum(num_tokens) - num_tokens)[row]
        chunks = (row * width + within)[: int(num_chunks[:count].sum())]
        words = Words(rows.word_starts(samples), chunks)
    shown[:count], predicted[:count] = masker(input_ids[:count], epochs, samples, progress, words)

    flat = np.flatnonzero(predicted)
    size = filled_to.num_predicted(len(flat))
    positions, labels = np.zeros(size, np.int64), np.full(size, IGNORED, np.int64)
    positions[: len(flat)], labels[: len(flat)] = flat, input_ids.reshape(-1)[flat]
    attention_mask = cu_seq_lens = None
    if filled_to.chunks or (num_chunks > 1).any():
        starts = np.cumsum(np.concatenate([[0], np.insert(lengths, ends, width - num_tokens)]), dtype=np.int32)
        size = filled_to.num_starts(len(starts)) + num_rows * (pieces - 1)
        if pieces > 1:
            starts = np.union1d(starts, np.arange(0, num_rows * width, width // pieces, dtype=np.int32))
        cu_seq_lens = torch.from_numpy(np.pad(starts, (0, size - len(starts)), mode="edge"))
    elif (num_tokens < width).any():
        is_token = (np.arange(width) < num_tokens[:, None]).reshape(num_rows * pieces, -1)
        is_token[~is_token.any(1)] = True  # a piece of padding must attend to something, and nothing comes of it
        attention_mask = torch.from_numpy(is_token.astype(np.int64))
    if row_keys is not None:
        row_keys = np.pad(row_keys, (0, num_rows - count))
        if pieces > 1:
            row_keys = hashing.key(row_keys[:, None], np.arange(pieces)).reshape(-1)
    return MicroBatch(
        torch.from_numpy(shown.reshape(num_rows * pieces, -1)),
        attention_mask,
        torch.from_numpy(positions),
        torch.from_numpy(labels),
        cu_seq_lens,
        None if row_keys is None else torch.from_numpy(row_keys.view(np.int64)),
        num_masked=len(flat),
        num_tokens=int(num_tokens[:count].sum()),
    )


class TrainingBatches:
    """What one process trains on, by step. The next step is assembled in a thread while this one is computed.

    Args:
        rows: The training rows.
        masker: The masks.
        plan: How the global batch is spread.
        ramp: The batch of each update.
        order: The stream of samples; with its seed comes the dropout of each row.
        num_samples: Samples the whole run consumes; the last batch ends there.
        rank: This process.
        static: Whether all micro-batches shall have one shape, see `shapes.fixed`.
        device: Where they are going. On the way to a GPU the thread leaves them in pinned memory.
    """

    def __init__(
        self,
        rows: Rows,
        masker: Masker,
        plan: BatchPlan,
        ramp: Ramp,
        order: SampleOrder | MixedOrder,
        num_samples: int,
        rank: int,
        *,
        static: bool = False,
        device: torch.device = _CPU,
    ) -> None:
        self._filled_to = shapes.fixed(masker.config, rows, plan.micro_size) if static else VARYING
        self._pinned = device.type == "cuda"
        self._rows, self._masker, self._plan, self._rank = rows, masker, plan, rank
        self._ramp, self._order, self._num_samples = ramp, order, num_samples
        self._ahead: dict[int, Future[list[MicroBatch]]] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")

    def window(self, step: int) -> Sequence[MicroBatch]:
        """This process's micro-batches of a step, from 0."""
        ready = self._ahead.pop(step, None)
        self._ahead = {step + 1: self._pool.submit(self._assemble, step + 1)}
        return ready.result() if ready is not None else self._assemble(step)

    def samples_before(self, step: int) -> int:
        """Samples consumed when a step begins."""
        return min(self._ramp.samples_before(step), self._num_samples)

    def samples(self, step: int) -> list[int]:
        """The samples of a step's global batch, of all processes."""
        samples: list[int] = self._order.between(self.samples_before(step), self.samples_before(step + 1))[1].tolist()
        return samples

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _assemble(self, step: int) -> list[MicroBatch]:
        plan, pieces = self._plan, self._ramp.pieces(step)
        first, last = self.samples_before(step), self.samples_before(step + 1)
        window = []
        for i in range(plan.accumulation_of(self._ramp.size(step))):
            start = first + (i * plan.num_processes + self._rank) * plan.micro_size
            stop = max(start, min(start + plan.micro_size, last))
            positions = np.arange(start, stop)
            epochs, samples = self._order.between(start, stop)
            row_keys = hashing.key(self._order.seed, positions, hashing.DROPOUT)
            progress = positions / self._num_samples
            micro = assemble(
                self._rows, self._masker, epochs, samples, plan.micro_size, row_keys, progress, self._filled_to, pieces
            )
            window.append(micro.each(torch.Tensor.pin_memory) if self._pinned else micro)
        return window


def validation_batches(
    rows: Rows, masker: Masker, micro_size: int, num_processes: int, rank: int, *, static: bool = False
) -> Iterator[MicroBatch]:
    """This process's share of the held-out rows, in order, always with the same masks.

    Every process gets the same number of micro-batches, because sharded models compute together; missing rows predict
    nothing. With `static` all have one shape, see `shapes.fixed`.
    """
    filled_to = shapes.fixed(masker.config, rows, micro_size) if static else VARYING
    per_round = micro_size * num_processes
    for first in range(0, len(rows), per_round):
        start = first + rank * micro_size
        samples = np.arange(start, max(start, min(start + micro_size, len(rows))))
        yield assemble(rows, masker, np.zeros_like(samples), samples, micro_size, filled_to=filled_to)
