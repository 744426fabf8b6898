"""Masked language modelling: predict the tokens that a mask hides (Devlin et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch

from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import Corruption, MicroBatch
from mlm_dist.config import MaskingConfig
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine.protocol import Engine
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.figures import BandAccuracy, Validation
from mlm_dist.objectives.frequency_bands import NO_BANDS, Bands, by_frequency
from mlm_dist.spec import PhaseSpec

# Of every run, whatever it trains with, so that validation losses can be compared: single tokens, 80/10/10, as BERT.
VALIDATION_MASKING = MaskingConfig(probability=0.15, final_probability=None, unit="token", mask=0.8, random=0.1)
VALIDATION_SEED = 0


class MaskedLM:
    """See `protocol.Objective`. Its loss is the cross-entropy in nats, summed over the predicted tokens.

    Validation masks depend neither on the seed of the run nor on any key of `masking`, so that runs that differ in
    these can be compared: fewer masks, and masks of single tokens, are easier to predict.

    Args:
        masker: The masks of training rows.
        bands: Frequency bands of tokens, for the accuracy of a validation.
    """

    terms: tuple[str, ...] = ("masked_lm",)

    def __init__(self, masker: Masker, bands: Bands = NO_BANDS) -> None:
        self.corruption: Corruption = masker
        self.validation_corruption = replace(masker, seed=VALIDATION_SEED, config=VALIDATION_MASKING)
        self._bands = bands
        self._membership = torch.from_numpy(bands.membership)  # [vocabulary, bands]
        self.num_sums = 3 + 2 * len(bands.names)

    @classmethod
    def create(cls, phase: PhaseSpec, seed: int, corpus: PreparedCorpus) -> Self:
        """The objective of a phase, for the tokenizer of a corpus."""
        return cls.with_masks(phase.masking, seed, corpus)

    @classmethod
    def with_masks(cls, masking: MaskingConfig, seed: int, corpus: PreparedCorpus) -> Self:
        """The objective with some masks, for the tokenizer of a corpus."""
        special = loading.special_tokens(corpus.tokenizer)
        masker = Masker(masking, seed, special.mask, special.all, len(corpus.tokenizer))
        return cls(masker, by_frequency(corpus.token_counts, corpus.domain_tokens))

    def module(self, model: Any, *, masked_head: bool, packed: bool) -> MaskedLanguageModel:
        """See `Objective`."""
        return MaskedLanguageModel(model, masked_head=masked_head, packed=packed)

    def count(self, batch: MicroBatch) -> Mapping[str, int]:
        """See `Objective`."""
        return {self.terms[0]: batch.num_predicted}

    def prepared(self, engine: Engine, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """See `Objective`; the loss of a token depends on no other micro-batch."""
        return batches

    def loss(self, model: Any, batch: MicroBatch) -> Mapping[str, torch.Tensor]:
        """See `Objective`."""
        return {self.terms[0]: model(*batch.inputs).loss_sum}

    def evaluate(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """See `Objective`: summed loss, correct and predicted tokens, then correct and predicted tokens by band."""
        device = batch.input_ids.device
        # Apple's GPUs have no double precision; elsewhere a sum of a million terms is as precise as its terms.
        wide = torch.float32 if device.type == "mps" else torch.float64
        output = model(*batch.inputs)
        counted = torch.tensor([batch.num_predicted], dtype=wide, device=device)
        sums = [output.loss_sum.to(wide)[None], output.correct.sum(dtype=wide)[None], counted]
        if self._bands.names:
            self._membership = self._membership.to(device)
            # [predicted, bands]
            inside = self._membership[batch.labels.clamp(min=0)] & (batch.labels >= 0)[:, None]
            sums += [(inside & output.correct[:, None]).sum(0, dtype=wide), inside.sum(0, dtype=wide)]
        return torch.cat(sums)

    def figures(self, sums: list[float]) -> Validation:
        """See `Objective`."""
        loss_sum, num_correct, num_masked, *of_bands = sums
        count, half = max(num_masked, 1.0), len(self._bands.names)
        numbers = zip(self._bands.names, map(int, of_bands[:half]), map(int, of_bands[half:]), strict=True)
        bands = tuple(BandAccuracy(*one) for one in numbers)
        return Validation(loss_sum / count, num_correct / count, int(num_masked), bands)
