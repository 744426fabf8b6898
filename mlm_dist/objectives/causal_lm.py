"""Causal language modelling: predict each token from those before it (Radford et al., 2018)."""

from __future__ import annotations

from typing import Any

from mlm_dist.batches.masking import Masker
from mlm_dist.batches.next_tokens import NextTokens
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.frequency_bands import NO_BANDS, Bands
from mlm_dist.objectives.masked_lm import MaskedLM


class CausalLM(MaskedLM):
    """See `protocol.Objective`. All positions but the last of each chunk predict the next token, see `NextTokens`.

    The model and its head are those of masked LM; its mask lets each token attend to itself and those before it only.
    Validation is that of `MaskedLM`, so that the losses of both can be compared. Its loss starts high and may rise: the
    model is not trained to see the tokens behind a mask.

    Args:
        masker: As of `MaskedLM`; training masks nothing.
        bands: As of `MaskedLM`.
    """

    terms = ("causal_lm",)

    def __init__(self, masker: Masker, bands: Bands = NO_BANDS) -> None:
        super().__init__(masker, bands)
        self.corruption = NextTokens()

    def module(self, model: Any, *, masked_head: bool, packed: bool) -> MaskedLanguageModel:
        """See `Objective`.

        Raises:
            ModelError: Attention of the architecture cannot be made causal.
        """
        made = super().module(model, masked_head=masked_head, packed=packed)
        made.require_causal()
        return made
