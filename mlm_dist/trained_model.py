"""The trained model of a run: from its exported folder or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlm_dist.checkpoint import find, format
from mlm_dist.config import Config
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import CheckpointError
from mlm_dist.model.build import architecture
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.pages.record import Record
from mlm_dist.prepare import prepare


def load_trained_model(config: Config, run: Path, record: Record) -> tuple[Any, Any, int] | None:
    """Model, tokenizer and step: the exported model of a finished run, else the newest good checkpoint, if any."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = run / "model"
    if record.is_finished and (folder / "config.json").is_file():
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype="float32", trust_remote_code=False)
        return model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False), record.exported_step
    point, _ = find.newest(run / "checkpoints")
    if point is None:
        return None
    model, corpus, step = load_checkpoint(config, point)
    return model, corpus.tokenizer, step


def load_checkpoint(config: Config, point: Path) -> tuple[Any, PreparedCorpus, int]:
    """The model of a verified checkpoint, in fp32 on the CPU; the corpus it was trained on; and its step.

    Raises:
        CheckpointError: It is of another model, or its corpus is not in the cache and the documents have changed.
    """
    _, identity = format.read_state(point)
    corpus = _corpus(config, str(identity["corpus.source"]).removeprefix("digest "), point)
    model, step = load_model(config, corpus, point)
    return model, corpus, step


def load_model(config: Config, corpus: PreparedCorpus, point: Path) -> tuple[Any, int]:
    """The model of a verified checkpoint, in fp32 on the CPU, and its step.

    Raises:
        CheckpointError: It is of another model.
    """
    from transformers import AutoModelForMaskedLM

    shape = architecture(config, corpus.tokenizer, len(corpus.domain_tokens))
    core = MaskedLanguageModel(AutoModelForMaskedLM.from_config(shape, dtype=torch.float32), masked_head=False)
    format.load_weights(point, core)
    core.model.tie_weights()
    return core.model, format.read_state(point)[0].step


def _corpus(config: Config, digest: str, point: Path) -> PreparedCorpus:
    """The corpus a checkpoint was trained on, from the cache; if it is not there, it is prepared again."""
    cached = PreparedCorpus(Path(config.corpus.cache_dir).expanduser() / digest)
    if (cached.folder / "manifest.json").is_file():
        return cached
    corpus = prepare(config)
    if corpus.digest != digest:
        raise CheckpointError(
            f"corpus.source: {point} was trained on corpus {digest}, which is not in corpus.cache_dir, and the "
            f"documents now give corpus {corpus.digest}; restore the cache or the documents"
        )
    return corpus
