"""The identity of a run: what a resume must have in common with it; everything else may change."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.spec import Spec

# Fields of a transformers configuration that say nothing about the model's weights.
_NOT_COMPARED = ("transformers_version", "dtype", "_name_or_path", "architectures")


def identity(spec: Spec, corpus: PreparedCorpus, architecture: Any) -> dict[str, object]:
    """{config key: value}, as JSON.

    Of the corpus it holds the tokenizer and the training rows of each source that is trained on, with their place in
    the table, on which masks depend. So with a mix, a source that is in no mix can be added behind the others.

    Args:
        spec: The run.
        corpus: The corpus to train on.
        architecture: The model's transformers configuration.
    """
    rows, digests = corpus.source_rows("train"), corpus.source_digests()
    trained_on = {name: digest for name, digest in digests.items() if not spec.mix or name in spec.mix}
    sources = {
        f"corpus.sources.{name}" if name else "corpus.source": f"rows {rows[name].start} to {rows[name].stop}, {digest}"
        for name, digest in trained_on.items()
    }
    batch, grows = spec.batch, spec.batch.ramp_tokens > 0
    ramp = [batch.initial_size, batch.initial_length, batch.ramp_tokens] if grows else None
    shape = {
        f"model.overrides.{name}": value for name, value in architecture.to_dict().items() if name not in _NOT_COMPARED
    }
    digest, is_trained = loading.digest(corpus.tokenizer)[:16], spec.corpus.tokenizer.path is None
    about = f"digest {digest}" + (", trained on the documents" if is_trained else "")
    tokenizer = {"tokenizer.train_vocab_size" if is_trained else "tokenizer.path": about}
    values = {
        "objective": spec.objective,
        "seed": spec.seed,
        "corpus.mix": dict(spec.mix) or None,
        # A tokenizer that is trained on several sources explains why the rows of all of them change.
        **(sources | tokenizer if len(rows) == 1 else tokenizer | sources),
        "corpus.sources": None if spec.mix else list(trained_on),  # without a mix, one order is over the rows of all
        "batch.global_size": batch.global_size,
        "batch.ramp_tokens": ramp,
        "model.name_or_path": spec.model.name_or_path,
        "model.init_from": spec.model.init_from,
        "model.trainable_layers": spec.model.trainable_layers,
        "model.revision": spec.model.revision,
        "model.freeze_embeddings": spec.model.freeze_embeddings,
        "optim.name": spec.optim.name,
    }
    masking = {f"masking.{name}": value for name, value in dataclasses.asdict(spec.masking).items()}
    plain: dict[str, object] = json.loads(json.dumps(masking | values | shape, default=str))
    return plain
