"""How far what varies from one micro-batch to the next is filled up, so that few shapes occur, or one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mlm_dist.config import MaskingConfig

MULTIPLE = 32  # of predicted tokens, and of the beginnings of chunks
DEVIATIONS = 5  # by which a micro-batch may have more predicted tokens than most
# Tokens that are predicted together, each counted with the size of its group: what the number's variance grows by.
TOGETHER = {"token": 1, "word": 4, "span": 20}
_BLOCK = 1 << 16  # rows looked at at once


class Rows(Protocol):
    """Rows of tokens that can be read at random."""

    def __len__(self) -> int: ...

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices`: [len(indices), length], int32."""
        ...

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each window of the rows at `indices`, row after row; and how many chunks each row has."""
        ...

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """Which tokens of the rows at `indices` begin a word: [len(indices), length], booleans."""
        ...


@dataclass(frozen=True)
class Shapes:
    """What the lists of a micro-batch are filled up to.

    Args:
        predicted: Predicted tokens. The rare micro-batch with more is filled up in steps of an eighth of this, which
            depends on nothing but itself: a run that goes on meets the same shapes as one that was not interrupted.
        chunks: Beginnings of chunks; 0 where no row holds several.
    """

    predicted: int = 0
    chunks: int = 0

    def num_predicted(self, count: int) -> int:
        """The length of a list of `count` predicted tokens, a multiple of 32 and at least 32."""
        step = _up(max(1, self.predicted // 8), MULTIPLE)
        return self.predicted + _up(max(0, count - self.predicted, not self.predicted), step)

    def num_starts(self, count: int) -> int:
        """The length of a list of `count` beginnings of chunks, a multiple of 32."""
        return _up(max(count, self.chunks), MULTIPLE)


VARYING = Shapes()  # to the next multiple


def fixed(masking: MaskingConfig, rows: Rows, num_rows: int) -> Shapes:
    """Shapes that practically all micro-batches of `num_rows` rows fit into, from the config and the rows alone.

    The number of predicted tokens is binomial where they are chosen one by one: its mean at the largest rate, and
    DEVIATIONS standard deviations, which one in three million micro-batches exceeds. Of chunks there is room for as
    many as `num_rows` rows can have.
    """
    num_tokens, p = num_rows * rows.take(np.zeros(1, np.int64)).shape[1], masking.highest_probability
    most = num_tokens * p + DEVIATIONS * math.sqrt(num_tokens * p * (1 - p) * TOGETHER[masking.unit])
    chunks = _most_chunks(rows)
    # Each row's padding counts as a window too, and the end of the last is in the list.
    starts = _up(num_rows * (chunks + 1) + 1, MULTIPLE) if chunks > 1 else 0
    return Shapes(_up(max(num_rows, min(num_tokens, math.ceil(most))), MULTIPLE), starts)


def _most_chunks(rows: Rows) -> int:
    starts = range(0, len(rows), _BLOCK)
    return max((int(rows.chunks(np.arange(i, min(i + _BLOCK, len(rows))))[1].max()) for i in starts), default=0)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
