"""What a run trains: its objective, its module with initial weights, and its identity."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from mlm_dist.corpora import Corpora
from mlm_dist.model.architecture import added_positions, architecture
from mlm_dist.model.build import build
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
        num_rows: Its training rows, without replayed ones.
        identity: {config key: value} of what a resume must have in common with the run.
    """

    objective: Objective
    module: Any
    corpus: str
    num_rows: int
    identity: dict[str, object]

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
        model = build(spec.model, config, spec.seed, corpus.domain_tokens)
        module = objective.module(model, masked_head=spec.model.masked_head, packed=corpus.is_packed)
        replayed = None if corpora.replay is None else corpora.replay.digest
        num_rows = int(corpus.manifest["rows"]["train"])
        return cls(objective, module, corpus.digest, num_rows, identity(spec, corpus.digest, replayed, config))
