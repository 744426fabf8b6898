"""The identity of a run: what a resume must have in common with it; everything else may change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mlm_dist.checkpoint import same_run
from mlm_dist.corpora import Corpora
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.spec import PhaseSpec, Spec

# Fields of a transformers configuration that say nothing about the model's weights.
_NOT_COMPARED = ("transformers_version", "dtype", "_name_or_path", "architectures")


def identity(spec: Spec, corpora: Corpora, architecture: Any) -> dict[str, Any]:
    """{config key: value} of the run, and below `phases` that of each phase, as JSON.

    A phase that has not begun may change, so a resume compares those that have, see `checkpoint.same_run`. Of the
    corpus a phase has the training rows of each source that it trains on, with their place in the table, on which masks
    depend. So with a mix, another source can be added behind the others.

    Args:
        spec: The run.
        corpora: Its corpora.
        architecture: The model's transformers configuration.
    """
    shape = {
        f"model.overrides.{name}": value for name, value in architecture.to_dict().items() if name not in _NOT_COMPARED
    }
    digest, is_trained = loading.digest(corpora.main.tokenizer)[:16], spec.corpus.tokenizer.path is None
    phases = [_of_phase(phase, corpora.of_rows[phase.rows]) for phase in spec.phases]
    tokenizer = f"digest {digest}" + (", trained on the documents" if is_trained else "")
    values = {
        "corpus": corpora.main.digest,  # where to find it; not compared
        "corpus.rows_from": spec.corpus.documents.rows_from,  # which decides the order of the rows
        "seed": spec.seed,
        "model.name_or_path": spec.model.name_or_path,
        "model.init_from": spec.model.init_from,
        "model.trainable_layers": spec.model.trainable_layers,
        "model.revision": spec.model.revision,
        "model.freeze_embeddings": spec.model.freeze_embeddings,
        "optim.name": spec.optim.name,
    }
    key = "tokenizer.train_vocab_size" if is_trained else "tokenizer.path"
    # The first difference is named. A tokenizer that is trained on several sources explains why the rows of all of them
    # change; of a single source, the rows say more.
    is_single = len(corpora.main.source_rows("train")) == 1
    phases = [phase | {key: tokenizer} if is_single else {key: tokenizer} | phase for phase in phases]
    plain: dict[str, Any] = json.loads(json.dumps(values | shape | {"phases": phases}, default=str))
    return plain


def _of_phase(phase: PhaseSpec, corpus: PreparedCorpus) -> dict[str, Any]:
    rows, digests = corpus.source_rows("train"), corpus.source_digests
    sources = {
        f"corpus.sources.{name}" if name else "corpus.source": f"rows {rows[name].start} to {rows[name].stop}, {digest}"
        for name, digest in digests.items()
        if not phase.mix or name in phase.mix
    }
    batch = phase.batch
    ramp = [batch.initial_size, batch.initial_length, batch.ramp_tokens] if batch.ramp_tokens else None
    return {
        same_run.NAME: phase.name,
        same_run.DURATION: str(phase.duration),
        **{f"masking.{name}": value for name, value in dataclasses.asdict(phase.masking).items()},
        "objective": phase.objective,
        **({"contrastive.temperature": phase.contrastive.temperature} if phase.rows.mode == "pairs" else {}),
        "corpus.mix": dict(phase.mix) or None,
        "corpus.sources": None if phase.mix else list(digests),  # without a mix, one order is over the rows of all
        **sources,
        "model.freeze_embeddings": phase.freeze_embeddings,
        "model.trainable_layers": phase.trainable_layers,
        "model.rope_theta": phase.rope_theta,
        "batch.global_size": batch.global_size,
        "batch.ramp_tokens": ramp,
    }
