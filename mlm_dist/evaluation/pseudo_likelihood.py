"""Pseudo-log-likelihood: sentences in which each token is masked in turn.

The pseudo-log-likelihood of a sentence is the sum over its tokens of the log-probability that the model assigns to each
token given all others (Salazar et al., 2020, https://aclanthology.org/2020.acl-main.240). `validation.evaluate` on
these batches gives its negative per token, in nats; e to that is the paper's pseudo-perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlm_dist.batches.micro_batch import IGNORED, MicroBatch
from mlm_dist.batches.shapes import MULTIPLE
from mlm_dist.corpus.tokenizer.loading import SpecialTokens


@dataclass(frozen=True)
class PseudoLikelihood:
    """The pseudo-log-likelihood of sentences.

    Args:
        num_sentences: Number of sentences.
        num_tokens: Number of their tokens, without special tokens.
        per_token: The sum of their pseudo-log-likelihoods in nats, divided by the number of tokens.
    """

    num_sentences: int
    num_tokens: int
    per_token: float

    @property
    def perplexity(self) -> float:
        """The pseudo-perplexity; infinite if that is too large for a float."""
        return math.exp(-self.per_token) if self.per_token > -700 else math.inf

    def figures(self) -> dict[str, Any]:
        """{name: number}, as JSON takes them; None for values that are not finite."""
        values = {"pseudo_log_likelihood": self.per_token, "pseudo_perplexity": self.perplexity}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return finite | {"sentences": self.num_sentences, "sentence_tokens": self.num_tokens}

    def describe(self) -> str:
        """The result for people."""
        return (
            f"pseudo-log-likelihood of {self.num_sentences:,} sentences of the validation set ({self.num_tokens:,} "
            f"tokens): {self.per_token:.4f} nats per token, pseudo-perplexity {self.perplexity:.4f}"
        )


def one_by_one(
    sentences: Sequence[Sequence[int]], special: SpecialTokens, micro_size: int, rank: int, world_size: int
) -> Iterator[MicroBatch]:
    """This rank's share of all rows in which one token of a sentence is masked.

    Every rank gets the same number of micro-batches, because sharded models compute together; missing rows predict
    nothing.

    Args:
        sentences: Token ids of each, special tokens included.
        special: The special tokens, which are not masked.
        micro_size: Rows per micro-batch.
        rank: This rank.
        world_size: Number of ranks.
    """
    fixed = set(special.all)
    by_length = sorted(range(len(sentences)), key=lambda i: (len(sentences[i]), i))  # so that little is padded
    rows = [(i, position) for i in by_length for position, token in enumerate(sentences[i]) if token not in fixed]
    for first in range(0, len(rows), micro_size * world_size):
        start = first + rank * micro_size
        yield _batch(sentences, rows[start : start + micro_size], special, micro_size)


def _batch(
    sentences: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]], special: SpecialTokens, micro_size: int
) -> MicroBatch:
    shown = [sentences[i] for i, _ in rows] + [sentences[0]] * (micro_size - len(rows))
    lengths = np.array([len(ids) for ids in shown])
    width = int(lengths.max())
    input_ids = np.full((micro_size, width), special.pad, np.int64)
    for row, ids in zip(input_ids, shown, strict=True):
        row[: len(ids)] = ids
    size = -(-micro_size // MULTIPLE) * MULTIPLE
    positions, labels = np.zeros(size, np.int64), np.full(size, IGNORED, np.int64)
    masked = np.array([row * width + position for row, (_, position) in enumerate(rows)], np.int64)
    positions[: len(rows)], labels[: len(rows)] = masked, input_ids.reshape(-1)[masked]
    input_ids.reshape(-1)[masked] = special.mask
    attention_mask = torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64))
    return MicroBatch(
        torch.from_numpy(input_ids),
        attention_mask if (lengths < width).any() else None,
        torch.from_numpy(positions),
        torch.from_numpy(labels),
        cu_seq_lens=None,
        row_keys=None,
        num_predicted=len(rows),
        num_tokens=int(lengths[: len(rows)].sum()),
    )
