"""What a run trains: its objective, its module with initial weights, and its identity."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from mlm_dist.corpora import Corpora
from mlm_dist.corpus.tokenizer import shared_tokens
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.model.architecture import added_positions, architecture
from mlm_dist.model.build import Head, build
from mlm_dist.model.precision import in_precision
from mlm_dist.objectives import OBJECTIVES
from mlm_dist.objectives.protocol import Objective
from mlm_dist.spec import Spec
from mlm_dist.training.identity import identity

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What a run trains.

    Args:
        objective: The objective.
        module: Its module around the model, with initial weights in fp32 on the CPU.
        corpus: Digest of the corpus.
        num_rows: Its training rows that are used.
        identity: {config key: value} of what a resume must have in common with the run.
        head: Where the initial weights of the model's head come from, see `build.InitialModel`.
    """

    objective: Objective
    module: Any
    corpus: str
    num_rows: int
    identity: dict[str, object]
    head: Head

    @classmethod
    def create(cls, spec: Spec, corpora: Corpora) -> Task:
        """The task of a run; the same on every rank.

        Raises:
            ModelError: The model does not fit the tokenizer or the rows, or its weights cannot be loaded.
        """
        corpus = corpora.main
        config = architecture(
            spec.model,
            spec.corpus.rows.max_length,
            corpus.tokenizer,
            len(corpus.domain_tokens),
            spec.tokenizer_name,
            spec.corpus.tokenizer.add_domain_tokens,
        )
        if added := added_positions(spec.model, spec.corpus.rows.max_length):
            logger.info("rows.max_length: %s", added)
        objective: Objective = OBJECTIVES[spec.objective].create(spec.masking, spec.seed, corpus)
        sources = shared_tokens.sources(spec.model.init_from, corpus.tokenizer)
        start = build(spec.model, config, spec.seed, corpus.domain_tokens, corpus.token_counts, sources)
        with in_precision(spec.launch.trial_precision):
            module = objective.module(start.model, masked_head=spec.model.masked_head, packed=corpus.is_packed)
        if spec.model.checkpointing == "layers":
            checkpoint_layers(module.model)
        parts = corpus.source_rows("train")
        num_rows = sum(len(parts[name]) for name in spec.mix or parts)
        return cls(objective, module, corpus.digest, num_rows, identity(spec, corpus, config), start.head)
