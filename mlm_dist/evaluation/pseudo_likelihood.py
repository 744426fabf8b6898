"""Sentences of which each token is masked in turn: what a pseudo-log-likelihood is taken from.

The pseudo-log-likelihood of a sentence is the sum over its tokens of the log-probability that the model gives to each
when it sees all the others (Salazar et al., 2020, https://aclanthology.org/2020.acl-main.240). `validation.evaluate` on
these batches gives its negative per token, in nats; e to that is the paper's pseudo-perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mlm_dist.batches.loader import IGNORED, MicroBatch
from mlm_dist.batches.shapes import MULTIPLE


@dataclass(frozen=True)
class PseudoLikelihood:
    """What a model makes of sentences.

    Args:
        num_sentences: The sentences.
        num_tokens: Their tokens, special tokens left out.
        per_token: The sum of their pseudo-log-likelihoods in nats, divided by the number of their tokens.
    """

    num_sentences: int
    num_tokens: int
    per_token: float

    @property
    def perplexity(self) -> float:
        """The pseudo-perplexity; infinite where that is too large for a float."""
        return math.exp(-self.per_token) if self.per_token > -700 else math.inf

    def figures(self) -> dict[str, Any]:
        """{name: number}, as JSON takes them; None stands for what is not finite."""
        values = {"pseudo_log_likelihood": self.per_token, "pseudo_perplexity": self.perplexity}
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return finite | {"sentences": self.num_sentences, "sentence_tokens": self.num_tokens}

    def describe(self) -> str:
        """The same for people."""
        return (
            f"pseudo-log-likelihood of {self.num_sentences:,} held-out sentences, each of their {self.num_tokens:,} "
            f"tokens masked in turn: {self.per_token:.4f} nats per token, pseudo-perplexity {self.perplexity:.4f}"
        )


def one_by_one(
    sentences: Sequence[Sequence[int]],
    special_ids: Sequence[int],
    mask_id: int,
    pad_id: int,
    micro_size: int,
    num_processes: int,
    rank: int,
) -> Iterator[MicroBatch]:
    """This process's share of all rows in which one token of a sentence is masked.

    Every process gets the same number of micro-batches, because sharded models compute together; missing rows predict
    nothing.

    Args:
        sentences: Their ids, with special tokens around them.
        special_ids: Tokens that are never masked.
        mask_id: What stands in the place of the masked token.
        pad_id: What fills up a row.
        micro_size: Rows at a time.
        num_processes: Processes.
        rank: This one.
    """
    special = set(special_ids)
    by_length = sorted(range(len(sentences)), key=lambda i: (len(sentences[i]), i))  # so that little is padded
    rows = [(i, place) for i in by_length for place, token in enumerate(sentences[i]) if token not in special]
    for first in range(0, len(rows), micro_size * num_processes):
        start = first + rank * micro_size
        yield _batch(sentences, rows[start : start + micro_size], mask_id, pad_id, micro_size)


def _batch(
    sentences: Sequence[Sequence[int]], rows: Sequence[tuple[int, int]], mask_id: int, pad_id: int, micro_size: int
) -> MicroBatch:
    shown = [sentences[i] for i, _ in rows] + [sentences[0]] * (micro_size - len(rows))
    lengths = np.array([len(ids) for ids in shown])
    width = int(lengths.max())
    input_ids = np.full((micro_size, width), pad_id, np.int64)
    for row, ids in zip(input_ids, shown, strict=True):
        row[: len(ids)] = ids
    size = -(-micro_size // MULTIPLE) * MULTIPLE
    positions, labels = np.zeros(size, np.int64), np.full(size, IGNORED, np.int64)
    places = np.array([row * width + place for row, (_, place) in enumerate(rows)], np.int64)
    positions[: len(rows)], labels[: len(rows)] = places, input_ids.reshape(-1)[places]
    input_ids.reshape(-1)[places] = mask_id
    attention_mask = torch.from_numpy((np.arange(width) < lengths[:, None]).astype(np.int64))
    return MicroBatch(
        torch.from_numpy(input_ids),
        attention_mask if (lengths < width).any() else None,
        torch.from_numpy(positions),
        torch.from_numpy(labels),
        cu_seq_lens=None,
        row_keys=None,
        num_masked=len(rows),
        num_tokens=int(lengths[: len(rows)].sum()),
    )
