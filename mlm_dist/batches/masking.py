"""Masks: which tokens are predicted and what the model sees instead, a function of (seed, epoch, sample, position)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlm_dist import hashing
from mlm_dist.batches import token_selection
from mlm_dist.batches.micro_batch import Chunks, Corrupted
from mlm_dist.batches.token_selection import WordStarts
from mlm_dist.config import MaskingConfig

_REPLACE, _RANDOM_TOKEN = 0x2E91ACE, 0x70CE4
DEVIATIONS = 5  # standard deviations by which a micro-batch may exceed the mean number of predicted tokens
# Tokens selected together, each counted with the size of its group: the factor of the number's variance.
_TOGETHER = {"token": 1, "word": 4, "span": 20}


@dataclass(frozen=True)
class Masker:
    """BERT's masking (Devlin et al., 2019, section 3.1), with counter-based random numbers.

    Whether a predicted token is shown as the mask token, a random one or unchanged is decided for each token, also for
    whole words, as in BERT's whole-word masking (create_pretraining_data.py). For spans it is decided once for all
    tokens of a span, as in SpanBERT (Joshi et al., 2020, section 3.1); random tokens are drawn for each token.

    Args:
        config: Probabilities and unit.
        seed: The run's seed.
        mask_id: The mask token.
        special_ids: Tokens that are never predicted and never drawn as random tokens.
        vocab_size: Number of tokens.
    """

    is_causal: ClassVar[bool] = False

    config: MaskingConfig
    seed: int
    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int

    def __post_init__(self) -> None:
        is_ordinary = ~np.isin(np.arange(self.vocab_size), self.special_ids)
        object.__setattr__(self, "_is_ordinary", is_ordinary)
        object.__setattr__(self, "_ordinary", np.flatnonzero(is_ordinary).astype(np.int32))

    @property
    def needs_words(self) -> bool:
        """Whether calls need to know where words begin."""
        return self.config.unit != "token"

    def __call__(
        self,
        input_ids: np.ndarray,
        epochs: np.ndarray,
        samples: np.ndarray,
        progress: np.ndarray | None = None,
        words: WordStarts | None = None,
        chunks: Chunks | None = None,
    ) -> Corrupted:
        """Mask rows.

        Args:
            input_ids: [rows, length] tokens; special tokens, including padding, stay the same.
            epochs: [rows] epoch of each row.
            samples: [rows] index of each row in the corpus.
            progress: [rows] fraction of the run before each row, from 0 to 1, for a probability that changes; None uses
                the first probability.
            words: Where words and chunks begin, if `needs_words`.
            chunks: Unused.

        Returns:
            Rows with at least one predicted token where there is an ordinary one.
        """
        config = self.config
        eligible = self._is_ordinary.take(input_ids)  # type: ignore[attr-defined]
        row_keys = hashing.key(self.seed, epochs, samples)[:, None]
        keys = hashing.key(row_keys, np.arange(input_ids.shape[1])[None, :])  # [rows, length]

        rates = self._rates(progress)
        deciding = None  # positions whose keys decide what is shown, if not the predicted ones
        if config.unit == "token":
            predicted = token_selection.tokens(keys, eligible, rates)
        else:
            assert words is not None
            if config.unit == "word":
                predicted = token_selection.words(keys, eligible, rates, words)
            else:
                predicted, deciding = token_selection.spans(keys, eligible, rates, words)

        shown = input_ids.copy()
        positions = np.flatnonzero(predicted)
        chosen, tokens = keys.reshape(-1).take(positions), input_ids.reshape(-1).take(positions)
        decisions = chosen if deciding is None else keys.reshape(-1).take(deciding)
        action = token_selection.uniform(hashing.mix(decisions ^ np.uint64(_REPLACE)))
        ordinary: np.ndarray = self._ordinary  # type: ignore[attr-defined]
        drawn = token_selection.uniform(hashing.mix(chosen ^ np.uint64(_RANDOM_TOKEN)))
        random = ordinary.take((drawn * len(ordinary)).astype(np.int64))
        tokens = np.where(action < config.mask + config.random, random, tokens)
        shown.reshape(-1)[positions] = np.where(action < config.mask, self.mask_id, tokens)
        return Corrupted(shown, predicted)

    def _rates(self, progress: np.ndarray | None) -> float | np.ndarray:
        """Probability of a token to be predicted, or [rows] that of each row's tokens."""
        first, last = self.config.probability, self.config.final_probability
        if progress is None or last is None:
            return first
        return first + (last - first) * progress

    def most_predicted(self, num_tokens: int) -> int:
        """A number of predicted tokens that practically no micro-batch of `num_tokens` positions exceeds.

        The number is binomial if tokens are selected one by one: its mean at the largest rate plus DEVIATIONS standard
        deviations, which one micro-batch in three million exceeds. Tokens selected together raise the variance.
        """
        p = self.config.highest_probability
        deviation = math.sqrt(num_tokens * p * (1 - p) * _TOGETHER[self.config.unit])
        return min(num_tokens, math.ceil(num_tokens * p + DEVIATIONS * deviation))
