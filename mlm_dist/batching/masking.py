"""Masks: which tokens are predicted and what is shown in their place, a function of (seed, epoch, sample, position)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlm_dist.batching import hashing
from mlm_dist.config import MaskingConfig

_SELECT, _REPLACE, _RANDOM_TOKEN = 0x5E1EC7, 0x2E91ACE, 0x70CE4


@dataclass(frozen=True)
class Masker:
    """BERT's masking (Devlin et al., 2019, section 3.1), with counter-based randomness.

    Args:
        config: Probability and shares.
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

    def __call__(self, input_ids: np.ndarray, epochs: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mask some rows.

        Args:
            input_ids: [rows, length] tokens; special tokens, padding among them, are left alone.
            epochs: [rows] epoch of each row.
            samples: [rows] number of each row in the corpus.

        Returns:
            The rows as the model shall see them, and [rows, length] booleans that say which tokens to predict. A row
            with any ordinary token has at least one to predict.
        """
        config = self.config
        eligible = self._is_ordinary.take(input_ids)  # type: ignore[attr-defined]
        row_keys = hashing.key(self.seed, epochs, samples)[:, None]
        places = hashing.key(row_keys, np.arange(input_ids.shape[1])[None, :])  # [rows, length]

        draw = hashing.mix(places ^ np.uint64(_SELECT))
        # Words below this are those whose uniform number is below the probability; both are exact.
        predicted = draw < np.uint64(math.ceil(config.probability * 2**53) << 11)
        predicted &= eligible
        bare = ~predicted.any(1)
        bare &= eligible.any(1)
        if bare.any():
            lowest = np.where(eligible[bare], _uniform(draw[bare]), 2.0).argmin(1)
            predicted[bare, lowest] = True

        shown = input_ids.copy()
        where = np.flatnonzero(predicted)
        chosen, tokens = places.reshape(-1).take(where), input_ids.reshape(-1).take(where)
        action = _uniform(hashing.mix(chosen ^ np.uint64(_REPLACE)))
        ordinary: np.ndarray = self._ordinary  # type: ignore[attr-defined]
        drawn = _uniform(hashing.mix(chosen ^ np.uint64(_RANDOM_TOKEN)))
        random = ordinary.take((drawn * len(ordinary)).astype(np.int64))
        tokens = np.where(action < config.mask + config.random, random, tokens)
        shown.reshape(-1)[where] = np.where(action < config.mask, self.mask_id, tokens)
        return shown, predicted


def _uniform(words: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), made of the first 53 bits of random words."""
    return (words >> np.uint64(11)) * 2.0**-53
