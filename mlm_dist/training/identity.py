"""The identity of a run: what a resume must have in common with it; everything else may change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mlm_dist.corpora import Corpora
from mlm_dist.spec import PhaseSpec, Spec

# Fields of a transformers configuration that say nothing about the model's weights.
_NOT_COMPARED = ("transformers_version", "dtype", "_name_or_path", "architectures")


def identity(spec: Spec, corpora: Corpora, architecture: Any) -> dict[str, Any]:
    """{config key: value} of the run, and below `phases` that of each phase, as JSON.

    A phase that has not begun may change, so a resume compares those that have, see `checkpoint.find`.

    Args:
        spec: The run.
        corpora: Its corpora.
        architecture: The model's transformers configuration.
    """
    shape = {
        f"model.overrides.{name}": value for name, value in architecture.to_dict().items() if name not in _NOT_COMPARED
    }
    values = {
        "seed": spec.seed,
        "corpus.source": f"digest {corpora.main.digest}",
        "model.name_or_path": spec.model.name_or_path,
        "model.init_from": spec.model.init_from,
        "model.trainable_layers": spec.model.trainable_layers,
        "model.revision": spec.model.revision,
        "model.freeze_embeddings": spec.model.freeze_embeddings,
        "optim.name": spec.optim.name,
        **shape,
        "phases": [_of_phase(phase, spec, corpora) for phase in spec.phases],
    }
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _of_phase(phase: PhaseSpec, spec: Spec, corpora: Corpora) -> dict[str, Any]:
    batch = phase.batch
    ramp = [batch.initial_size, batch.initial_length, batch.ramp_tokens] if batch.ramp_tokens else None
    replayed = None if corpora.replay is None else f"digest {corpora.replay.digest}, share {spec.replay_share}"
    return {
        "objective": phase.objective,
        **{f"masking.{name}": value for name, value in dataclasses.asdict(phase.masking).items()},
        "rows": f"digest {corpora.of_rows[phase.rows].digest}",
        "corpus.replay_source": replayed,
        "model.freeze_embeddings": phase.freeze_embeddings,
        "model.trainable_layers": phase.trainable_layers,
        "model.rope_theta": phase.rope_theta,
        "batch.global_size": batch.global_size,
        "batch.ramp_tokens": ramp,
    }
