"""What a run trains: its objective, its module with initial weights, and its identity."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlm_dist.config import MaskingConfig
from mlm_dist.corpora import Corpora
from mlm_dist.corpus.tokenizer import shared_tokens
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.model.architecture import added_positions, architecture
from mlm_dist.model.build import Head, build
from mlm_dist.model.frozen import frozen_parameters
from mlm_dist.model.precision import in_precision
from mlm_dist.objectives import OBJECTIVES, is_contrastive, masks
from mlm_dist.objectives.protocol import Objective
from mlm_dist.spec import PhaseSpec, Spec
from mlm_dist.training.identity import identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What a run trains.

    Args:
        objectives: The objective of each phase.
        module: Their module around the model, with initial weights in fp32 on the CPU.
        corpus: Digest of the corpus.
        num_rows: Its training rows that are used.
        frozen: For each phase, the names in the transformers model of the parameters that keep their values.
        identity: What a resume must have in common with the run.
        head: Where the initial weights of the model's head come from, see `build.InitialModel`.
    """

    objectives: tuple[Objective, ...]
    module: Any
    corpus: str
    num_rows: int
    frozen: tuple[frozenset[str], ...]
    identity: dict[str, object]
    head: Head

    @property
    def validated(self) -> Objective:
        """The objective that validates, the same in all phases."""
        return self.objectives[0]

    @classmethod
    def create(cls, spec: Spec, corpora: Corpora) -> Task:
        """The task of a run; the same on every rank.

        Raises:
            ModelError: The model does not fit the tokenizer or the rows, or its weights cannot be loaded.
        """
        corpus = corpora.main
        config = architecture(
            spec.model,
            spec.corpus.longest_row,
            corpus.tokenizer,
            len(corpus.domain_tokens),
            spec.tokenizer_name,
            spec.corpus.tokenizer.add_domain_tokens,
        )
        if added := added_positions(spec.model, spec.corpus.longest_row):
            logger.info("rows.max_length: %s", added)
        for phase in _without_use_for_masking(spec.phases):
            where = f" in phase {phase.name}" if phase.name else ""
            logger.info(
                "masking is not used%s: %s masks nothing in training, and validation is always the same",
                *(where, phase.objective),
            )
        if any(is_contrastive(phase.objective) for phase in spec.phases) and not corpus.is_searched:
            logger.warning(
                "near-duplicates were not searched, so pairs of texts that mean the same may be told apart; "
                "corpus.deduplicate near searches them, or a validation set with corpus.keep_together near"
            )
        objectives = [OBJECTIVES[phase.objective].create(phase, spec.seed, corpus) for phase in spec.phases]
        sources = shared_tokens.sources(spec.model.init_from, corpus.tokenizer)
        start = build(spec.model, config, spec.seed, corpus.domain_tokens, corpus.token_counts, sources)
        with in_precision(spec.launch.trial_precision):
            maker = next((one for one in objectives if one.corruption.is_causal), objectives[0])
            module = maker.module(start.model, masked_head=spec.model.masked_head, packed=corpora.is_packed)
            if any(is_contrastive(phase.objective) for phase in spec.phases):
                module.require_vectors()
        if spec.model.checkpointing == "layers":
            checkpoint_layers(module.model)
        frozen = tuple(
            frozenset(
                frozen_parameters(
                    module.model,
                    freeze_embeddings=phase.freeze_embeddings,
                    trainable_layers=phase.trainable_layers,
                )
            )
            for phase in spec.phases
        )
        parts = corpus.source_rows("train")
        num_rows = sum(len(parts[name]) for name in spec.trained_on or parts)
        shared = identity(spec, corpora, config)
        return cls(tuple(objectives), module, corpus.digest, num_rows, frozen, shared, start.head)


def _without_use_for_masking(phases: Sequence[PhaseSpec]) -> Iterator[PhaseSpec]:
    """The phases that mask nothing, with keys of masking that no other phase has."""
    used = [MaskingConfig(), *(phase.masking for phase in phases if masks(phase.objective))]
    return (phase for phase in phases if not masks(phase.objective) and phase.masking not in used)
