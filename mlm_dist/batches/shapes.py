"""The shapes of micro-batches: what varies is filled up, so that few shapes occur, or one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MULTIPLE = 32  # of predicted tokens, and of the starts of chunks
TILE = 128  # tokens that a block of the variable-length kernel computes: shorter chunks cost as much
_DEVIATIONS = 5  # over the mean, which a sum of many random counts exceeds once in millions of times
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
        chunks: Starts of chunks, in the same way; 0 if no row holds several.
        longest: Tokens of the longest chunk, or more; longer padding is several chunks. 0 for the length of a row.
    """

    predicted: int = 0
    chunks: int = 0
    longest: int = 0

    def num_predicted(self, count: int) -> int:
        """The length of a list of `count` predicted tokens, a multiple of 32 and at least 32."""
        return _filled(count, self.predicted)

    def num_starts(self, count: int) -> int:
        """The length of a list of `count` starts of chunks, a multiple of 32."""
        return _filled(count, self.chunks)


VARYING = Shapes()  # to the next multiple


def fixed(predicted: PredictedTokens, rows: Rows, num_rows: int) -> Shapes:
    """Shapes that practically all micro-batches of `num_rows` rows fit into, from objective and rows alone."""
    length = rows.take(np.zeros(1, np.int64)).shape[1]
    return Shapes(
        _up(max(num_rows, predicted.most_predicted(num_rows * length)), MULTIPLE), *_of_chunks(rows, num_rows, length)
    )


def _of_chunks(rows: Rows, num_rows: int, length: int) -> tuple[int, int]:
    """Starts of chunks that practically all micro-batches fit into, and tokens of the longest; 0 without packing."""
    most = longest = 0
    for lengths, counts in _blocks(rows):
        most, longest = max(most, int(counts.max())), max(longest, int(lengths.max()))
    if most <= 1:
        return 0, 0
    longest = min(_up(longest, TILE), length)
    most = total = squares = 0
    for lengths, counts in _blocks(rows):
        padding = length - np.add.reduceat(lengths, np.cumsum(counts) - counts)
        pieces = counts + -(-padding // longest)  # of padding, each of them a chunk
        most = max(most, int(pieces.max()))
        total, squares = total + int(pieces.sum()), squares + int((pieces * pieces).sum())
    mean = total / len(rows)
    deviation = math.sqrt(max(0.0, squares / len(rows) - mean * mean))
    chunks = min(num_rows * most, math.ceil(num_rows * mean + _DEVIATIONS * deviation * math.sqrt(num_rows)))
    return _up(chunks + 1, MULTIPLE), longest  # the end of the last chunk is in the list


def _blocks(rows: Rows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `Rows.chunks` gives for all rows, some of them at a time."""
    for i in range(0, len(rows), _BLOCK):
        lengths, counts = rows.chunks(np.arange(i, min(i + _BLOCK, len(rows))))
        yield lengths.astype(np.int64), counts


def _filled(count: int, usual: int) -> int:
    """`usual`, or for a larger count more in steps of an eighth of it."""
    return usual + _up(max(0, count - usual, not usual), _up(max(1, usual // 8), MULTIPLE))


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
