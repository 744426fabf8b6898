"""The shapes of micro-batches: what varies is filled up, so that few shapes occur, or one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

MULTIPLE = 32  # of predicted tokens, and of the starts of chunks
_BLOCK = 1 << 16  # rows whose chunks are counted at a time


class Rows(Protocol):
    """Rows of tokens that can be read at random."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices`: [len(indices), length], int32."""
        ...

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each chunk of the rows at `indices`, row after row; and how many chunks each row has."""
        ...

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """Which tokens of the rows at `indices` begin a word: [len(indices), length], booleans."""
        ...


class PredictedTokens(Protocol):
    """The part of `micro_batch.Corruption` that shapes depend on."""

    def most_predicted(self, num_tokens: int) -> int:
        """A number of predicted tokens that practically no micro-batch of `num_tokens` positions exceeds."""
        ...


@dataclass(frozen=True)
class Shapes:
    """The lengths that the lists of a micro-batch are filled up to.

    Args:
        predicted: Predicted tokens. The rare micro-batch with more is filled up in steps of an eighth of this, which
            depends on nothing else: a resumed run sees the same shapes as one that was not interrupted.
        chunks: Starts of chunks; 0 if no row holds several.
    """

    predicted: int = 0
    chunks: int = 0

    def num_predicted(self, count: int) -> int:
        """The length of a list of `count` predicted tokens, a multiple of 32 and at least 32."""
        step = _up(max(1, self.predicted // 8), MULTIPLE)
        return self.predicted + _up(max(0, count - self.predicted, not self.predicted), step)

    def num_starts(self, count: int) -> int:
        """The length of a list of `count` starts of chunks, a multiple of 32."""
        return _up(max(count, self.chunks), MULTIPLE)


VARYING = Shapes()  # to the next multiple


def fixed(predicted: PredictedTokens, rows: Rows, num_rows: int) -> Shapes:
    """Shapes that practically all micro-batches of `num_rows` rows fit into, from objective and rows alone."""
    num_tokens = num_rows * rows.take(np.zeros(1, np.int64)).shape[1]
    chunks = _most_chunks(rows)
    # The padding of each row counts as a chunk, and the end of the last chunk is in the list.
    starts = _up(num_rows * (chunks + 1) + 1, MULTIPLE) if chunks > 1 else 0
    return Shapes(_up(max(num_rows, predicted.most_predicted(num_tokens)), MULTIPLE), starts)


def _most_chunks(rows: Rows) -> int:
    starts = range(0, len(rows), _BLOCK)
    return max((int(rows.chunks(np.arange(i, min(i + _BLOCK, len(rows))))[1].max()) for i in starts), default=0)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
