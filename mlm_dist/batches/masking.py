"""Masks: which tokens are predicted and what is shown in their place, a function of (seed, epoch, sample, position)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlm_dist import hashing
from mlm_dist.batches import token_selection
from mlm_dist.batches.token_selection import Words
from mlm_dist.config import MaskingConfig

_REPLACE, _RANDOM_TOKEN = 0x2E91ACE, 0x70CE4
DEVIATIONS = 5  # standard deviations by which a micro-batch may exceed the mean number of predicted tokens
# Tokens selected together, each counted with the size of its group: the factor of the number's variance.
_TOGETHER = {"token": 1, "word": 4, "span": 20}


@dataclass(frozen=True)
class Masker:
    """BERT's masking (Devlin et al., 2019, section 3.1), with counter-based randomness.

    What is shown is decided for each predicted token, with whole words too, as BERT's whole-word masking does
    (create_pretraining_data.py); for spans it is decided for all tokens of a span together, as SpanBERT does (Joshi et
    al., 2020, section 3.1), each of them with a random token of its own.

    Args:
        config: Probability, unit and shares.
        seed: The run's seed.
        mask_id: The mask token.
        special_ids: Tokens that are never predicted and never shown in another's place.
        vocab_size: Number of tokens.
    """

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
        """Whether it must be told where words begin."""
        return self.config.unit != "token"

    def __call__(
        self,
        input_ids: np.ndarray,
        epochs: np.ndarray,
        samples: np.ndarray,
        progress: np.ndarray | None = None,
        words: Words | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mask some rows.

        Args:
            input_ids: [rows, length] tokens; special tokens, padding among them, are left alone.
            epochs: [rows] epoch of each row.
            samples: [rows] number of each row in the corpus.
            progress: [rows] place of each row in the run, 0 being the first sample and 1 the end, on which a rate that
                changes depends; by default that of the first.
            words: Where words begin, where `needs_words`.

        Returns:
            The rows as the model shall see them, and [rows, length] booleans that say which tokens to predict. A row
            with any ordinary token has at least one to predict.
        """
        config = self.config
        eligible = self._is_ordinary.take(input_ids)  # type: ignore[attr-defined]
        row_keys = hashing.key(self.seed, epochs, samples)[:, None]
        places = hashing.key(row_keys, np.arange(input_ids.shape[1])[None, :])  # [rows, length]

        rates = self._rates(progress)
        deciding = None  # places that decide what is shown, where these are not the predicted ones
        if config.unit == "token":
            predicted = token_selection.tokens(places, eligible, rates)
        else:
            assert words is not None
            if config.unit == "word":
                predicted = token_selection.words(places, eligible, rates, words)
            else:
                predicted, deciding = token_selection.spans(places, eligible, rates, words)

        shown = input_ids.copy()
        where = np.flatnonzero(predicted)
        chosen, tokens = places.reshape(-1).take(where), input_ids.reshape(-1).take(where)
        decisions = chosen if deciding is None else places.reshape(-1).take(deciding)
        action = token_selection.uniform(hashing.mix(decisions ^ np.uint64(_REPLACE)))
        ordinary: np.ndarray = self._ordinary  # type: ignore[attr-defined]
        drawn = token_selection.uniform(hashing.mix(chosen ^ np.uint64(_RANDOM_TOKEN)))
        random = ordinary.take((drawn * len(ordinary)).astype(np.int64))
        tokens = np.where(action < config.mask + config.random, random, tokens)
        shown.reshape(-1)[where] = np.where(action < config.mask, self.mask_id, tokens)
        return shown, predicted

    def _rates(self, progress: np.ndarray | None) -> float | np.ndarray:
        """Chance of a token to be predicted, or [rows] that of each row's tokens."""
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
