"""Next tokens: every position predicts the token that follows it in its chunk."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mlm_dist.batches.micro_batch import Chunks, Corrupted
from mlm_dist.batches.token_selection import WordStarts


class NextTokens:
    """Shows rows as they are; all positions but the last of each chunk predict the token behind them.

    Special tokens are predicted like any other: the first token of a chunk, such as [CLS], predicts the first word, and
    the last word predicts [SEP]. This is the loss of transformers' causal models (`ForCausalLMLoss`) on each chunk
    alone: labels are the tokens of the chunk, shifted by one, and padding is ignored.
    """

    needs_words: ClassVar[bool] = False
    is_causal: ClassVar[bool] = True

    def __call__(
        self,
        input_ids: np.ndarray,
        epochs: np.ndarray,
        samples: np.ndarray,
        progress: np.ndarray | None = None,
        words: WordStarts | None = None,
        chunks: Chunks | None = None,
    ) -> Corrupted:
        """See `micro_batch.Corruption`; needs `chunks` and nothing else besides the rows."""
        assert chunks is not None
        # One more where a chunk begins and one less at its last token, whose target is in no chunk.
        edges = np.zeros(input_ids.size + 1, np.int8)
        np.add.at(edges, chunks.starts, 1)
        np.add.at(edges, chunks.starts + np.maximum(chunks.lengths - 1, 0), -1)
        predicted = np.cumsum(edges[:-1], dtype=np.int8).astype(bool).reshape(input_ids.shape)
        targets = np.roll(input_ids.reshape(-1), -1).reshape(input_ids.shape)
        return Corrupted(input_ids, predicted, targets)

    def most_predicted(self, num_tokens: int) -> int:
        """See `micro_batch.Corruption`."""
        return num_tokens
