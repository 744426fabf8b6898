"""Masks: which tokens are predicted and what is shown in their place, a function of (seed, epoch, sample, position)."""

from __future__ import annotations

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
        ordinary = np.setdiff1d(np.arange(self.vocab_size), self.special_ids).astype(np.int32)
        object.__setattr__(self, "_ordinary", ordinary)
        object.__setattr__(self, "_is_special", np.isin(np.arange(self.vocab_size), self.special_ids))

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
        eligible = ~self._is_special[input_ids]  # type: ignore[attr-defined]
        row_keys = hashing.key(self.seed, epochs, samples)[:, None]
        places = hashing.key(row_keys, np.arange(input_ids.shape[1])[None, :])  # [rows, length]

        draw = _uniform(places, _SELECT)
        draw[~eligible] = 2.0
        predicted = draw < config.probability
        bare = ~predicted.any(1) & eligible.any(1)
        predicted[bare, draw[bare].argmin(1)] = True

        shown = input_ids.copy()
        chosen = places[predicted]
        action = _uniform(chosen, _REPLACE)
        tokens = input_ids[predicted]
        ordinary: np.ndarray = self._ordinary  # type: ignore[attr-defined]
        random = ordinary[(_uniform(chosen, _RANDOM_TOKEN) * len(ordinary)).astype(np.int64)]
        tokens = np.where(action < config.mask + config.random, random, tokens)
        shown[predicted] = np.where(action < config.mask, self.mask_id, tokens)
        return shown, predicted


def _uniform(keys: np.ndarray, stream: int) -> np.ndarray:
    """Numbers in [0, 1) with 53 random bits, one stream for each purpose."""
    return (hashing.mix(keys ^ np.uint64(stream)) >> np.uint64(11)) * 2.0**-53
