"""Micro-batches: rows as tensors, with what the model sees and what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from mlm_dist import hashing
from mlm_dist.batches.pairs import Pairs
from mlm_dist.batches.shapes import VARYING, Rows, Shapes
from mlm_dist.batches.token_selection import WordStarts

IGNORED = -100


class Chunks(NamedTuple):
    """Where chunks are in rows.

    Args:
        starts: [num_chunks] first position of each chunk in the flattened rows, ascending.
        lengths: [num_chunks] their tokens; what no chunk covers is padding.
    """

    starts: np.ndarray
    lengths: np.ndarray


class Corrupted(NamedTuple):
    """Rows as an objective has them.

    Args:
        shown: [rows, length] tokens that the model sees.
        predicted: [rows, length] booleans: the positions that predict a token.
        targets: [rows, length] the token that each of these predicts; None for its own in the rows.
    """

    shown: np.ndarray
    predicted: np.ndarray
    targets: np.ndarray | None = None


class Corruption(Protocol):
    """How an objective corrupts rows: what the model sees, and which tokens it predicts."""

    @property
    def needs_words(self) -> bool:
        """Whether it must know where words begin."""
        ...

    @property
    def is_causal(self) -> bool:
        """Whether each position attends to itself and the positions before it only."""
        ...

    def __call__(
        self,
        input_ids: np.ndarray,
        epochs: np.ndarray,
        samples: np.ndarray,
        progress: np.ndarray | None = None,
        words: WordStarts | None = None,
        chunks: Chunks | None = None,
    ) -> Corrupted:
        """Corrupt rows, as a function of its seed and the epoch and number of each row.

        Args:
            input_ids: [rows, length] tokens.
            epochs: [rows] epoch of each row.
            samples: [rows] number of each row in the corpus.
            progress: [rows] position of each row in the run, from 0 to 1.
            words: Where words and chunks begin, if `needs_words`.
            chunks: Where chunks are.
        """
        ...

    def most_predicted(self, num_tokens: int) -> int:
        """A number of predicted tokens that practically no micro-batch of `num_tokens` positions exceeds."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one process.

    Args:
        input_ids: [rows, length] what the model sees.
        attention_mask: [rows, length], 1 for tokens and 0 for padding; None if nothing is padded or rows are packed.
        positions: [predicted] positions of the predicted tokens in the flattened rows.
        labels: [predicted] their true tokens; IGNORED where `positions` is filled up.
        cu_seq_lens: [chunks + 1], int32, where each chunk begins in the flattened rows, and their end. The padding of a
            row counts as a chunk, and empty chunks fill up. None if no row holds several chunks.
        row_keys: [rows], int64, a random number for the dropout of each row; on the CPU only, None in validation.
        num_predicted: Predicted tokens.
        num_tokens: Tokens that are not padding.
        longest: Tokens of the longest chunk, or more; padding counts. One number for all micro-batches of a shape; None
            for the length of the rows.
        is_causal: Whether each position attends to itself and the positions before it only.
        pairs: Where the texts of each row are, if rows are pairs of texts; else None.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor | None
    positions: torch.Tensor
    labels: torch.Tensor
    cu_seq_lens: torch.Tensor | None
    row_keys: torch.Tensor | None
    num_predicted: int
    num_tokens: int
    longest: int | None = None
    is_causal: bool = False
    pairs: Pairs | None = None

    @property
    def inputs(self) -> tuple[torch.Tensor | int | None, ...]:
        """The arguments of the model's `forward`, in its order."""
        tensors = self.input_ids, self.attention_mask, self.positions, self.labels, self.cu_seq_lens, self.row_keys
        spans = () if self.pairs is None else (self.pairs.spans,)
        return *tensors, self.longest, self.is_causal, *spans

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; pinned memory is copied without waiting."""
        if device.type == "cpu":
            return self
        # A GPU draws its dropout from a generator of its own.
        return replace(self.map(lambda tensor: tensor.to(device, non_blocking=True)), row_keys=None)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> MicroBatch:
        """The same with all tensors changed."""
        changed: dict[str, Any] = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        pairs = None if self.pairs is None else self.pairs.map(change)
        return replace(self, **changed, pairs=pairs)


@dataclass(frozen=True)
class Samples:
    """Which rows a micro-batch holds.

    Args:
        epochs: [n] epoch of each row.
        samples: [n] number of each row.
        row_keys: [n], uint64, what the dropout of each row depends on.
        progress: [n] position of each row in the run, from 0 to 1, on which the masking rate may depend.
    """

    epochs: np.ndarray
    samples: np.ndarray
    row_keys: np.ndarray | None = None
    progress: np.ndarray | None = None


def assemble(
    rows: Rows,
    corruption: Corruption,
    wanted: Samples,
    num_rows: int,
    filled_to: Shapes = VARYING,
    pieces: int = 1,
    width: int | None = None,
) -> MicroBatch:
    """Read and corrupt rows.

    Args:
        rows: The split.
        corruption: What the objective does to rows.
        wanted: Which rows.
        num_rows: Rows of the micro-batch, at least the number wanted; the others predict nothing and count nothing.
        filled_to: How far the lists of predicted tokens and of chunks are filled up.
        pieces: Into how many rows of equal length each row is cut; it must divide their length.
        width: Positions of each row to use, behind which all are padding; None for all.
    """
    count = len(wanted.samples)
    # The first row stands for missing ones, because it fits the width.
    indices = np.concatenate([wanted.samples, np.full(num_rows - count, wanted.samples[0] if count else 0)])
    input_ids = rows.take(indices)[:, : width if count else None]
    lengths, num_chunks = rows.chunks(indices)
    ends = np.cumsum(num_chunks)
    num_tokens = np.add.reduceat(lengths, ends - num_chunks)  # of each row
    width = input_ids.shape[1]
    row = np.repeat(np.arange(num_rows), num_chunks)
    within = np.cumsum(lengths) - lengths - (np.cumsum(num_tokens) - num_tokens)[row]
    of_wanted = slice(int(num_chunks[:count].sum()))
    chunks = Chunks((row * width + within)[of_wanted], lengths[of_wanted])
    words = None
    if corruption.needs_words:
        words = WordStarts(rows.word_starts(wanted.samples)[:, :width], chunks.starts)
    corrupted = corruption(input_ids[:count], wanted.epochs, wanted.samples, wanted.progress, words, chunks)
    shown = input_ids.astype(np.int64)
    shown[:count] = corrupted.shown
    targets = input_ids if corrupted.targets is None else corrupted.targets

    flat = np.flatnonzero(corrupted.predicted)  # the wanted rows come first
    size = filled_to.num_predicted(len(flat))
    # Positions that fill up are spread, because a GPU adds gradients of one position one after the other.
    filler = np.arange(size - len(flat)) * shown.size // max(1, size - len(flat))
    positions, labels = np.concatenate([flat, filler]), np.full(size, IGNORED, np.int64)
    labels[: len(flat)] = targets.reshape(-1)[flat]
    attention_mask = cu_seq_lens = None
    longest = min(filled_to.longest or width, width // pieces)
    if filled_to.chunks or (num_chunks > 1).any():
        padding = width - num_tokens
        starts = np.cumsum(np.concatenate([[0], np.insert(lengths, ends, padding)]), dtype=np.int32)
        if filled_to.longest and padding.max() > filled_to.longest:
            starts = np.union1d(starts, _starts_of_padding(padding, width, filled_to.longest))
        size = filled_to.num_starts(len(starts)) + num_rows * (pieces - 1)
        if pieces > 1:
            starts = np.union1d(starts, np.arange(0, num_rows * width, width // pieces, dtype=np.int32))
        cu_seq_lens = torch.from_numpy(np.pad(starts, (0, size - len(starts)), mode="edge"))
    elif (num_tokens < width).any():
        is_token = (np.arange(width) < num_tokens[:, None]).reshape(num_rows * pieces, -1)
        is_token[~is_token.any(1)] = True  # a piece of padding must attend to something; nothing depends on it
        attention_mask = torch.from_numpy(is_token.astype(np.int64))
    return MicroBatch(
        torch.from_numpy(shown.reshape(num_rows * pieces, -1)),
        attention_mask,
        torch.from_numpy(positions),
        torch.from_numpy(labels),
        cu_seq_lens,
        _row_keys(wanted.row_keys, num_rows, pieces),
        num_predicted=len(flat),
        num_tokens=int(num_tokens[:count].sum()),
        longest=longest,
        is_causal=corruption.is_causal,
        pairs=None if rows.groups is None else Pairs.of(input_ids, *chunks, rows.groups[wanted.samples]),
    )


def _starts_of_padding(padding: np.ndarray, width: int, longest: int) -> np.ndarray:
    """Where the padding of each row is cut, so that none of its pieces is longer than `longest`."""
    cuts = np.arange(longest, int(padding.max()), longest)
    of_rows: np.ndarray = (np.arange(1, len(padding) + 1) * width - padding)[:, None] + cuts
    return of_rows[cuts < padding[:, None]].astype(np.int32)


def _row_keys(keys: np.ndarray | None, num_rows: int, pieces: int) -> torch.Tensor | None:
    if keys is None:
        return None
    keys = np.pad(keys, (0, num_rows - len(keys)))
    if pieces > 1:
        keys = hashing.key(keys[:, None], np.arange(pieces)).reshape(-1)
    return torch.from_numpy(keys.view(np.int64))
