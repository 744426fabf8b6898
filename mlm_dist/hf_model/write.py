"""Write a model so that `from_pretrained` and `pipeline("fill-mask")` load it: weights, tokenizer and model card."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mlm_dist.files import give_modes, temporary_folder
from mlm_dist.hf_model import config_file, reload_check, sentence_transformer, tokenizer_files
from mlm_dist.hf_model.onnx_graph import Output
from mlm_dist.hf_model.sentence_transformer import SentenceFiles
from mlm_dist.spec import ExportSpec
from mlm_dist.system_errors import named
from mlm_dist.terminal import library_messages


@dataclass(frozen=True)
class ModelFiles:
    """What a folder holds besides the weights.

    Args:
        tokenizer: The tokenizer of the rows.
        original: The tokenizer that the run names, whose limit and templates count.
        max_length: Tokens per row; the written tokenizer allows at least as many.
        sentence: The modules after the model in a sentence-transformers model.
        graph_output: What the ONNX graph computes, if there is one.
    """

    tokenizer: Any
    original: Any
    max_length: int
    sentence: SentenceFiles = field(default_factory=SentenceFiles)
    graph_output: Output = "logits"

    def graph(self, export: ExportSpec) -> Output | None:
        """What the ONNX graph of an export computes; None if it has no graph."""
        return self.graph_output if export.format == "onnx" else None


def write_model(model: Any, files: ModelFiles, card: Any, folder: Path, export: ExportSpec) -> None:
    """Write a model to a folder, whole or not at all; an older model in the folder is replaced.

    Args:
        model: A transformers model in fp32 on the CPU; afterwards its weights are rounded to `export.dtype`.
        files: What goes beside it.
        card: Its `huggingface_hub.ModelCard`.
        folder: The folder to write, such as `model/` of the run directory.
        export: Data type, format, and whether the written model is loaded in a new process and compared, before it
            replaces an older one. The ONNX graph is always compared with the model.

    Raises:
        ModelError: The written model does not load, or differs from the one in memory.
        OSError: The folder cannot be written.
    """
    temporary = temporary_folder(folder)
    try:
        with named(folder, temporary):
            write_files(model, files, temporary, export.dtype)
            card.save(temporary / "README.md")
            if export.verify or export.format == "onnx":
                reload_check.check(temporary, model.float(), files.tokenizer, files.graph(export))
            give_modes(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_files(model: Any, files: ModelFiles, folder: Path, dtype: str) -> None:
    """Write weights, config.json, tokenizer and the modules of sentence-transformers; see `write_model`."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with library_messages.silenced("DeepSpeed"):  # saving imports it if it is installed
        model.to(getattr(torch, dtype)).save_pretrained(str(folder))
    config_file.complete(folder)
    limit = tokenizer_files.write(files.tokenizer, files.original, model.config, files.max_length, folder)
    hidden_size = getattr(model.config.get_text_config(), "hidden_size", None)
    if hidden_size is not None:
        sentence_transformer.write(files.sentence, folder, hidden_size, limit, files.max_length)
