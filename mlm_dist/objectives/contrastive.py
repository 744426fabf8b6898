"""Contrastive learning: bring a query close to its passage, and away from the passages of all other queries of a step.

The loss is that of van den Oord et al. (2018), called MultipleNegativesRankingLoss in sentence-transformers. Its
negatives are in other micro-batches and on other ranks. As Gao et al. (2021, https://arxiv.org/abs/2101.06983) do, all
vectors of the global batch are computed first, without gradients. From them comes the gradient with respect to each
vector, with which each micro-batch is computed again. So neither memory nor loss depends on the size of micro-batches
or on the number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional

from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import Chunks, Corrupted, MicroBatch
from mlm_dist.batches.pairs import NUM_KEYS
from mlm_dist.batches.token_selection import WordStarts
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.protocol import Engine
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.frequency_bands import NO_BANDS, Bands
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.spec import PhaseSpec

TERM = "contrastive"
TEMPERATURE = 0.05
QUERIES = 4096  # that are compared with all passages at a time


class Unchanged:
    """A corruption that changes nothing and predicts nothing; see `micro_batch.Corruption`."""

    needs_words = False
    is_causal = False

    def __call__(
        self,
        input_ids: np.ndarray,
        epochs: np.ndarray,
        samples: np.ndarray,
        progress: np.ndarray | None = None,
        words: WordStarts | None = None,
        chunks: Chunks | None = None,
    ) -> Corrupted:
        """See `micro_batch.Corruption`."""
        return Corrupted(input_ids, np.zeros(input_ids.shape, bool))

    def most_predicted(self, num_tokens: int) -> int:
        """See `micro_batch.Corruption`."""
        return 0


class Contrastive(MaskedLM):
    """See `protocol.Objective`. Its loss is the cross-entropy in nats of the right passage of each query.

    The score of a passage is its cosine similarity to the query, divided by the temperature. The passages to tell it
    from are those of all other pairs of the global batch, but for pairs with the same query or the same passage, and
    for pairs of the same document or a near-duplicate of it. Of these, the sections of the document are told from each
    other if the query is a heading: they are its hardest negatives. Vectors are means of the last hidden states.
    Validation is that of `MaskedLM`; for pairs see `evaluation.pair_validation`.

    Args:
        masker: As of `MaskedLM`.
        bands: As of `MaskedLM`.
        temperature: What similarities are divided by.
    """

    terms: tuple[str, ...] = (TERM,)

    def __init__(self, masker: Masker, bands: Bands = NO_BANDS, temperature: float = TEMPERATURE) -> None:
        super().__init__(masker, bands)
        self.corruption = Unchanged()
        self.temperature = temperature

    @classmethod
    def create(cls, phase: PhaseSpec, seed: int, corpus: PreparedCorpus) -> Self:
        """The objective of a phase, for the tokenizer of a corpus."""
        made = super().create(phase, seed, corpus)
        made.temperature = phase.contrastive.temperature
        return made

    def module(self, model: Any, *, masked_head: bool, packed: bool) -> MaskedLanguageModel:
        """See `Objective`.

        Raises:
            ModelError: The model has no encoder apart from its head.
        """
        made = super().module(model, masked_head=masked_head, packed=packed)
        made.require_vectors()
        return made

    def count(self, batch: MicroBatch) -> Mapping[str, int]:
        """See `Objective`."""
        assert batch.pairs is not None
        counts = {TERM: len(batch.pairs.keys)}
        return {term: counts.get(term, batch.num_predicted) for term in self.terms}

    def prepared(self, engine: Engine, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """See `Objective`: with the gradient of the global batch with respect to each vector."""
        if engine.world_size == 1 and len(batches) == 1:
            return batches  # its loss needs no others
        size, device = len(batches[0].input_ids), engine.device
        found, states = [], []
        with torch.no_grad():
            for batch in batches:
                states.append(_random_state(device))
                found.append(normalized(engine.model(*_without_predictions(batch.to(device)).inputs).vectors))
        # A place for each row of each rank; those without a pair stay empty.
        shape = engine.world_size, len(batches), size
        vectors = torch.zeros(*shape, 2, found[0].shape[-1], device=device)
        keys = torch.zeros(*shape, NUM_KEYS + 1, dtype=torch.int64, device=device)
        for i, (batch, mine) in enumerate(zip(batches, found, strict=True)):
            assert batch.pairs is not None
            vectors[engine.rank, i, : len(mine)] = mine
            keys[engine.rank, i, : len(mine), :-1] = batch.pairs.keys.to(device)
            keys[engine.rank, i, : len(mine), -1] = 1
        vectors, keys = engine.sum(vectors).flatten(0, 2), engine.sum(keys).flatten(0, 2)
        is_pair = keys[:, -1] > 0
        losses, gradient = torch.zeros(len(keys), device=device), torch.zeros_like(vectors)
        losses[is_pair], gradient[is_pair] = self._gradient(vectors[is_pair], keys[is_pair, :-1])
        losses, gradient = losses.view(shape)[engine.rank], gradient.view(*shape, 2, -1)[engine.rank]
        return [
            dataclasses.replace(
                batch,
                pairs=dataclasses.replace(
                    batch.pairs,  # type: ignore[type-var]
                    gradient=gradient[i, : len(found[i])],
                    loss_sum=losses[i].sum(),
                    random_state=states[i],
                ),
            )
            for i, batch in enumerate(batches)
        ]

    def _gradient(self, vectors: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of pairs, [pairs], and the gradient of their sum, [pairs, 2, hidden]."""
        leaf, losses = vectors.detach().requires_grad_(), []
        with torch.enable_grad():
            for first in range(0, len(keys), QUERIES):
                some = pair_losses(leaf, keys, self.temperature, range(first, min(first + QUERIES, len(keys))))
                some.sum().backward()  # type: ignore[no-untyped-call]
                losses.append(some.detach())
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return torch.cat([*losses, leaf.new_zeros(0)]), gradient

    def loss(self, model: Any, batch: MicroBatch) -> Mapping[str, torch.Tensor]:
        """See `Objective`."""
        pairs = batch.pairs
        assert pairs is not None
        if pairs.random_state is not None:
            _set_random_state(batch.input_ids.device, pairs.random_state)  # the dropout of the first pass
        output = model(*batch.inputs)
        vectors = normalized(output.vectors)
        if pairs.gradient is None:
            of_pairs = pair_losses(vectors, pairs.keys, self.temperature, range(len(pairs.keys))).sum()
        else:
            assert pairs.loss_sum is not None
            product = (vectors * pairs.gradient).sum()  # has the gradient of the loss
            of_pairs = product - product.detach() + pairs.loss_sum
        if self.terms == (TERM,):
            return {TERM: of_pairs + output.loss_sum}  # 0; the parameters of the head must have a gradient
        return {TERM: of_pairs, self.terms[1]: output.loss_sum}


class ContrastiveMaskedLM(Contrastive):
    """Contrastive learning and masked language modelling of the same rows, in one forward pass.

    The vectors are those of the masked texts, as in Giorgi et al. (2021, https://arxiv.org/abs/2006.03659). The loss is
    the sum of both means.

    Args:
        masker: The masks of training rows.
        bands: As of `MaskedLM`.
        temperature: As of `Contrastive`.
    """

    terms = (TERM, "masked_lm")

    def __init__(self, masker: Masker, bands: Bands = NO_BANDS, temperature: float = TEMPERATURE) -> None:
        super().__init__(masker, bands, temperature)
        self.corruption = masker


def pair_losses(vectors: torch.Tensor, keys: torch.Tensor, temperature: float, queries: range) -> torch.Tensor:
    """[queries] the loss of some queries in nats.

    Args:
        vectors: [pairs, 2, hidden], fp32, of length 1: of the query and the passage of each pair.
        keys: [pairs, 4] see `batches.pairs.Pairs`.
        temperature: What similarities are divided by.
        queries: Which queries; all passages are compared with them.
    """
    own = torch.arange(queries.start, queries.stop, device=keys.device)
    return functional.cross_entropy(pair_scores(vectors, keys, queries) / temperature, own, reduction="none")


def pair_scores(vectors: torch.Tensor, keys: torch.Tensor, queries: range) -> torch.Tensor:
    """[queries, pairs] cosine similarities of some queries and all passages; -inf for passages that are no negatives.

    Args:
        vectors: See `pair_losses`.
        keys: See `pair_losses`.
        queries: Which queries.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        similarity = vectors[queries.start : queries.stop, 0] @ vectors[:, 1].T
    return similarity.masked_fill(alike(keys, queries), -torch.inf)


def alike(keys: torch.Tensor, queries: range) -> torch.Tensor:
    """[queries, pairs] whether the passage of another pair is no wrong one for a query.

    Args:
        keys: [pairs, 4] see `batches.pairs.Pairs`.
        queries: Which queries.
    """
    group, headings, query, passage = (keys[queries.start : queries.stop, None] == keys[None]).unbind(-1)
    headings &= keys[queries.start : queries.stop, None, 1] != 0
    found = (group & ~headings) | query | passage
    own = torch.arange(len(queries), device=keys.device)
    found[own, own + queries.start] = False
    return found


def normalized(vectors: torch.Tensor) -> torch.Tensor:
    """Vectors of length 1, whose products are cosine similarities."""
    return functional.normalize(vectors, dim=-1)


def _without_predictions(batch: MicroBatch) -> MicroBatch:
    """The same with a head that computes a single position."""
    return dataclasses.replace(batch, positions=batch.positions[:1], labels=batch.labels[:1])


def _random_state(device: torch.device) -> torch.Tensor | None:
    """The state of the generator of a device; None on the CPU, where the dropout of a row has seeds of its own."""
    if device.type == "cpu":
        return None
    state: torch.Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_random_state(device: torch.device, state: torch.Tensor) -> None:
    torch.get_device_module(device).set_rng_state(state, device)
