"""The files that make an exported model a sentence-transformers model, as text-embeddings-inference also reads them.

A start that has such files keeps its pooling, its normalization and its prompts; others pool the mean. The names of
classes and keys are those of sentence-transformers 2 to 6.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_dist.files import write_json
from mlm_dist.hf_model.config_file import without_private

MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}
KEPT = ("Pooling", "Normalize", "Dense")  # kinds of modules that a folder describes without code of its own

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SentenceFiles:
    """What comes after the model in a sentence-transformers model.

    Args:
        modes: Modes of pooling.
        include_prompt: Whether the tokens of a prompt are pooled.
        modules: (kind, folder of its files, if it has some) of the modules after the pooling.
        max_seq_length: The limit of the start; None if it has none.
        settings: Content of config_sentence_transformers.json, such as prompts.
    """

    modes: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    modules: tuple[tuple[str, Path | None], ...] = ()
    max_seq_length: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def of_search_model(max_length: int) -> SentenceFiles:
    """The files of a model that learnt from pairs of texts: mean pooling, and vectors whose cosine is compared.

    Args:
        max_length: Tokens per row.
    """
    return SentenceFiles(
        modules=(("Normalize", None),), max_seq_length=max_length, settings={"similarity_fn_name": "cosine"}
    )


def read(name: str | None) -> SentenceFiles:
    """The files of a start: those of a sentence-transformers model, or mean pooling.

    Args:
        name: Folder or Hub name; None for a model from random weights.
    """
    listed = None if name is None else _file(name, "modules.json")
    if name is None or listed is None:
        return SentenceFiles()
    modes: tuple[str, ...] = ("mean",)
    include_prompt, kept = True, []
    for module in json.loads(listed.read_text("utf-8")):
        kind, path = module["type"].rsplit(".", 1)[-1], module["path"]
        if kind == "Transformer":
            continue
        file = _file(name, f"{path}/config.json")
        if kind not in KEPT or (kind == "Dense" and _file(name, f"{path}/model.safetensors") is None):
            logger.warning("model.name_or_path: the module %s of %s is not exported", kind, name)
        elif kind == "Pooling":
            values = {} if file is None else json.loads(file.read_text("utf-8"))
            modes, include_prompt = _modes(values), bool(values.get("include_prompt", True))
        else:
            kept.append((kind, listed.parent / path))
    limits, settings = _file(name, "sentence_bert_config.json"), _file(name, "config_sentence_transformers.json")
    return SentenceFiles(
        modes,
        include_prompt,
        tuple(kept),
        None if limits is None else json.loads(limits.read_text("utf-8")).get("max_seq_length"),
        {} if settings is None else json.loads(settings.read_text("utf-8")),
    )


def write(files: SentenceFiles, folder: Path, hidden_size: int, limit: int, max_length: int) -> None:
    """Write modules.json and the modules to the folder of a model.

    Args:
        files: The modules.
        folder: The folder.
        hidden_size: Width of the model.
        limit: Tokens that the exported tokenizer allows.
        max_length: Tokens per row.
    """
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    for i, (kind, source) in enumerate(files.modules, 2):
        modules.append((kind, f"{i}_{kind}"))
        target = folder / f"{i}_{kind}"
        target.mkdir()
        for file in ("config.json", "model.safetensors"):
            if source is not None and (source / file).is_file():
                shutil.copyfile(source / file, target / file)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    (folder / "1_Pooling").mkdir()
    pooling: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    pooling |= {f"pooling_mode_{key}": mode in files.modes for mode, key in MODES.items()}
    write_json(folder / "modules.json", listed, indent=2, durable=False)
    write_json(
        folder / "1_Pooling" / "config.json",
        pooling | {"include_prompt": files.include_prompt},
        indent=2,
        durable=False,
    )
    own = limit if files.max_seq_length is None else min(limit, max(files.max_seq_length, max_length))
    if own < 1e9:  # without the file there is no limit
        write_json(
            folder / "sentence_bert_config.json",
            {"max_seq_length": own, "do_lower_case": False},
            indent=2,
            durable=False,
        )
    kept = {name: value for name, value in files.settings.items() if name not in ("__version__", "model_type")}
    if kept:
        write_json(folder / "config_sentence_transformers.json", without_private(kept), indent=2, durable=False)


def _modes(values: dict[str, Any]) -> tuple[str, ...]:
    """The modes of a pooling: sentence-transformers 6 lists their names, earlier ones have a key for each."""
    named = values.get("pooling_mode")
    if named is not None:
        return (named,) if isinstance(named, str) else tuple(named)
    return tuple(mode for mode, key in MODES.items() if values.get(f"pooling_mode_{key}")) or ("mean",)


def _file(name: str, path: str) -> Path | None:
    """A file of a folder or of a model on the Hub; None if it does not exist."""
    from transformers.utils import cached_file

    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder / path if (folder / path).is_file() else None
    found = cached_file(
        name,
        path,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)
