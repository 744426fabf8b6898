"""The identity of a run: what a resume must have in common with it; everything else may change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mlm_dist.spec import Spec

# Fields of a transformers configuration that say nothing about the model's weights.
_NOT_COMPARED = ("transformers_version", "dtype", "_name_or_path", "architectures")


def identity(spec: Spec, corpus: str, replayed: str | None, architecture: Any) -> dict[str, object]:
    """{config key: value}, as JSON.

    Args:
        spec: The run.
        corpus: Digest of the corpus.
        replayed: Digest of the replayed corpus; None without one.
        architecture: The model's transformers configuration.
    """
    batch, grows = spec.batch, spec.batch.ramp_tokens > 0
    ramp = [batch.initial_size, batch.initial_length, batch.ramp_tokens] if grows else None
    shape = {
        f"model.overrides.{name}": value for name, value in architecture.to_dict().items() if name not in _NOT_COMPARED
    }
    values = {
        "objective": spec.objective,
        "seed": spec.seed,
        "corpus.source": f"digest {corpus}",
        "corpus.replay_source": replayed and f"digest {replayed}, share {spec.replay_share}",
        "batch.global_size": batch.global_size,
        "batch.ramp_tokens": ramp,
        "model.name_or_path": spec.model.name_or_path,
        "model.init_from": spec.model.init_from,
        "model.trainable_layers": spec.model.trainable_layers,
        "model.freeze_embeddings": spec.model.freeze_embeddings,
        "optim.name": spec.optim.name,
    }
    masking = {f"masking.{name}": value for name, value in dataclasses.asdict(spec.masking).items()}
    plain: dict[str, object] = json.loads(json.dumps(masking | values | shape, default=str))
    return plain
