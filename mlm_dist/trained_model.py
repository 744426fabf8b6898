"""The models of a run: trained, from its exported folder or from a checkpoint, and as it was before training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import ModelConfig
from mlm_dist.corpus import cached as in_cache
from mlm_dist.corpus.pipeline import prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import shared_tokens
from mlm_dist.errors import CheckpointError
from mlm_dist.model import rotary
from mlm_dist.model.architecture import architecture
from mlm_dist.model.build import build
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.spec import Spec
from mlm_dist.system_errors import named


def cached_corpus(cache_dir: Path, digest: str) -> PreparedCorpus | None:
    """A corpus of a cache, which this process then uses; None if it is not there."""
    folder = cache_dir / digest
    if not (folder / "manifest.json").is_file():
        return None
    in_cache.use(folder)
    return PreparedCorpus(folder)


def load_exported(folder: Path) -> tuple[Any, Any]:
    """The model, in fp32 on the CPU, and the tokenizer of an exported folder; no pickle of it is read."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with named(folder):
        model = AutoModelForMaskedLM.from_pretrained(
            folder, dtype="float32", trust_remote_code=False, use_safetensors=True
        )
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_checkpoint(spec: Spec, saved: SavedWeights) -> tuple[Any, PreparedCorpus, int]:
    """The model of saved weights, in fp32 on the CPU; the corpus it was trained on; and its step.

    Raises:
        CheckpointError: It is of another model, or its corpus is not in the cache and the documents have changed.
    """
    path = saved.newest
    digest = format.read_state(path)["identity"].get("corpus")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]+", digest):
        raise CheckpointError(f"{path / 'state.json'}: identity has no digest of a corpus")
    corpus = _corpus(spec, digest, path)
    model, step = load_model(spec, corpus, saved)
    return model, corpus, step


def load_model(spec: Spec, corpus: PreparedCorpus, saved: SavedWeights) -> tuple[Any, int]:
    """The model of saved weights, in fp32 on the CPU, and its step.

    Raises:
        CheckpointError: They are of another model.
    """
    from transformers import AutoModelForMaskedLM

    config = architecture(spec.model, spec.corpus.longest_row, corpus.tokenizer, len(corpus.domain_tokens))
    module = MaskedLanguageModel(AutoModelForMaskedLM.from_config(config, dtype=torch.float32), masked_head=False)
    saved.load(module)
    module.model.tie_weights()
    rotary.set_theta(module.model, saved.rope_theta)
    return module.model, saved.step


def build_start(config: ModelConfig, spec: Spec, corpus: PreparedCorpus) -> Any:
    """The model as a run begins with it, in fp32 on the CPU.

    Args:
        config: What it is built from.
        spec: The run.
        corpus: Its corpus.

    Raises:
        ModelError: It cannot be loaded, or does not fit the corpus.
    """
    model = build_model(config, spec, corpus, is_start=True)
    rotary.set_theta(model, spec.phases[0].rope_theta)
    return model


def build_model(config: ModelConfig, spec: Spec, corpus: PreparedCorpus, *, is_start: bool) -> Any:
    """A model for the tokens of a corpus, in fp32 on the CPU; see `build_start`.

    Args:
        config: What it is built from.
        spec: The run.
        corpus: Its corpus.
        is_start: Whether it needs the domain tokens; the folder of an exported model has them.
    """
    added = corpus.domain_tokens if is_start else {}
    found = architecture(config, spec.corpus.longest_row, corpus.tokenizer, len(added), spec.tokenizer_name)
    sources = shared_tokens.sources(config.init_from, corpus.tokenizer)
    return build(config, found, spec.seed, added, corpus.token_counts, sources).model


def _corpus(spec: Spec, digest: str, path: Path) -> PreparedCorpus:
    """The corpus a checkpoint was trained on, from the cache; if it is not there, it is prepared again."""
    cached = cached_corpus(Path(spec.corpus.documents.cache_dir).expanduser(), digest)
    if cached is not None:
        return cached
    corpus = prepare(spec.corpus, spec.launch.rank, spec.launch.world_size)
    if corpus.digest != digest:
        raise CheckpointError(
            f"corpus.source: {path} was trained on corpus {digest}, which is not in corpus.cache_dir, and the "
            f"documents now give corpus {corpus.digest}; restore the cache or the documents"
        )
    return corpus
