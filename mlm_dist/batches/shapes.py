"""The shapes of micro-batches: what varies is filled up, so that few shapes occur, or one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

MULTIPLE = 32  # of predicted tokens, and of the starts of chunks
TILE = 128  # tokens that a block of the variable-length kernel computes: shorter chunks cost as much
_DEVIATIONS = 5  # over the mean, which a sum of many random counts exceeds once in millions of times


class RowCounts(Protocol):
    """Counts of rows, see `corpus.row_counts.RowCounts`."""

    @property
    def tokens(self) -> int:
        """Tokens that are not padding."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest chunk."""
        ...

    @property
    def per_row(self) -> Mapping[int, int]:
        """{number of chunks: rows with so many}."""
        ...


class Rows(Protocol):
    """Rows of tokens that can be read at random."""

    @property
    def counts(self) -> RowCounts:
        """Counts of these rows, or of more that they are a part of."""
        ...

    @property
    def groups(self) -> np.ndarray | None:
        """[rows, 2] of pairs of texts, the first two keys of each, see `pairs.Pairs`; else None."""
        ...

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
        rounded_up(max(num_rows, predicted.most_predicted(num_rows * length)), MULTIPLE),
        *_of_chunks(rows.counts, num_rows, length),
    )


def _of_chunks(counts: RowCounts, num_rows: int, length: int) -> tuple[int, int]:
    """Starts of chunks that practically all micro-batches fit into, and tokens of the longest; 0 without packing."""
    most = max(counts.per_row, default=0)
    if most <= 1:
        return 0, 0
    longest = min(rounded_up(counts.longest, TILE), length)
    total = sum(counts.per_row.values())
    mean = sum(number * rows for number, rows in counts.per_row.items()) / total
    deviation = math.sqrt(sum(rows * (number - mean) ** 2 for number, rows in counts.per_row.items()) / total)
    # The padding of a row is one chunk more, and one for each `longest` of its positions.
    mean_padding, most_padding = length - counts.tokens / total, -(-length // longest)
    mean += 1 + (mean_padding / longest if longest < length else 0)
    usual = math.ceil(num_rows * mean + _DEVIATIONS * deviation * math.sqrt(num_rows))
    chunks = min(num_rows * (most + most_padding), usual)
    return rounded_up(chunks + 1, MULTIPLE), longest  # the end of the last chunk is in the list


def _filled(count: int, usual: int) -> int:
    """`usual`, or for a larger count more in steps of an eighth of it."""
    return usual + rounded_up(max(0, count - usual, not usual), rounded_up(max(1, usual // 8), MULTIPLE))


def rounded_up(count: int, multiple: int) -> int:
    """The next multiple, or the count itself if it is one."""
    return -(-count // multiple) * multiple
