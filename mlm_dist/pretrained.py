"""Where the configuration, the tokenizer and the weights of a named model are."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.errors import ModelError
from mlm_dist.hub import require

KEY = "model.name_or_path"
# The files of a checkpoint of a run, see `checkpoint.format`. They hold no configuration and no tokenizer.
_OF_A_CHECKPOINT = ("manifest.json", "model.safetensors", "state.json")


@dataclass(frozen=True)
class Pretrained:
    """A named model.

    Args:
        name: What the config says.
        key: The config key that says it, for messages.
        path: Folder or Hub name of its configuration and weights.
        tokenizer: Folder or Hub name of its tokenizer.
        subfolder: Where configuration and weights are in `path`, and on the Hub the tokenizer too; empty for `path`.
        revision: Branch, tag or commit on the Hub; None for the default branch.
        is_run_checkpoint: Whether it is a checkpoint of a run of mlm_dist.
    """

    name: str
    key: str
    path: str
    tokenizer: str
    subfolder: str = ""
    revision: str | None = None
    is_run_checkpoint: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder of its configuration and weights; None if it is on the Hub."""
        return Path(self.path) / self.subfolder if os.path.isdir(self.path) else None

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of `from_pretrained(path, ...)`."""
        options: dict[str, Any] = {"trust_remote_code": False}
        if self.subfolder:
            options["subfolder"] = self.subfolder
        if self.revision is not None:
            options["revision"] = self.revision
        return options

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """Further arguments of `AutoTokenizer.from_pretrained(tokenizer, ...)`."""
        return self.options if self.folder is None else {"trust_remote_code": False}

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Let the errors inside name the key of this model instead of `model.name_or_path`."""
        try:
            yield
        except ModelError as error:
            raise ModelError(str(error).replace(KEY, self.key)) from None

    def describe(self) -> str:
        """What was taken for it, for the log; its name if nothing needs to be said."""
        if self.is_run_checkpoint:
            return f"{self.name}, a checkpoint of a run, with step 0 and new moments"
        taken = os.path.join(self.path, self.subfolder) if self.subfolder else self.path
        name = self.name if self.revision is None else f"{self.name}, revision {self.revision}"
        return name if taken == os.path.expanduser(self.name) else taken


def locate(name: str, key: str, revision: str | None = None) -> Pretrained:
    """Find what a name means: a model on the Hub, a folder of one, or a run of mlm_dist or a checkpoint of it.

    Args:
        name: Folder or Hub name.
        key: The config key that holds it, for messages.
        revision: Branch, tag or commit on the Hub.

    Raises:
        ModelError: There is no such folder or repository, it is a run without a model, or a checkpoint without a
            tokenizer; or there is a revision of a folder.
    """
    if os.path.isfile(os.path.expanduser(name)):
        raise ModelError(
            f"{key}: {name} is a file; name a folder that holds it with its config.json and tokenizer, such as those "
            "of the model that it was trained from"
        )
    path = require(name, key, revision)
    folder = Path(path)
    if not folder.is_dir():
        return Pretrained(name, key, path, path, _transformer_on_hub(name, revision), revision)
    if revision is not None:
        raise ModelError(f"model.revision: {name} is a folder, which has no revisions; remove model.revision")
    if (folder / "checkpoints").is_dir() and not (folder / "config.json").is_file():
        return _of_a_run(name, folder, key)
    if not (folder / "config.json").is_file() and all((folder / file).is_file() for file in _OF_A_CHECKPOINT):
        return Pretrained(name, key, path, str(_tokenizer_of(folder, key)), is_run_checkpoint=True)
    subfolder = _transformer(folder)
    in_subfolder = any((folder / subfolder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json"))
    return Pretrained(name, key, path, str(folder / subfolder) if subfolder and in_subfolder else path, subfolder)


def _of_a_run(name: str, run: Path, key: str) -> Pretrained:
    """The exported model of a run directory."""
    if (run / "model" / "config.json").is_file():
        return Pretrained(name, key, str(run / "model"), str(run / "model"))
    saved = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    remedy = f"name its checkpoint {run / 'checkpoints' / saved[-1]}" if saved else "finish the run"
    raise ModelError(
        f"{key}: the run {name} has no exported model; export one with mlm-dist export {name}, or {remedy}"
    )


def _tokenizer_of(checkpoint: Path, key: str) -> Path:
    """The tokenizer of a run's checkpoint: that of its corpus in the cache, or that of the run's exported model."""
    import yaml

    run = checkpoint.resolve().parent.parent
    candidates = [run / "model"]
    try:
        state = json.loads((checkpoint / "state.json").read_text("utf-8"))
        digest = str(state["identity"]["corpus"])
        cache_dir = yaml.safe_load((run / "config.yaml").read_text("utf-8"))["corpus"]["cache_dir"]
        candidates.insert(0, Path(cache_dir).expanduser() / digest / "tokenizer")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        pass  # a checkpoint that was moved out of its run
    for folder in candidates:
        if (folder / "tokenizer_config.json").is_file():
            return folder
    places = " nor ".join(map(str, candidates))
    raise ModelError(
        f"{key}: the checkpoint {checkpoint} needs the tokenizer of its corpus, which is not in {places}; export the "
        "checkpoint with mlm-dist export and name that folder"
    )


def _transformer(folder: Path) -> str:
    """The subfolder with the transformer of a sentence-transformers folder; empty for every other folder."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        paths = [str(module["path"]) for module in modules if str(module["type"]).endswith("Transformer")]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return next((path for path in paths if path and (folder / path / "config.json").is_file()), "")


def _transformer_on_hub(name: str, revision: str | None) -> str:
    """As `_transformer`, for a repository whose config.json is not that of a transformers model."""
    from transformers.utils import cached_file

    def fetched(file: str) -> Any:
        path = cached_file(
            name,
            file,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if path is None else json.loads(Path(path).read_text("utf-8"))

    try:
        config = fetched("config.json")
        if config is None or "model_type" in config:
            return ""
        modules = fetched("modules.json") or []
        return next((str(module["path"]) for module in modules if str(module["type"]).endswith("Transformer")), "")
    except (OSError, ValueError, KeyError, TypeError):
        return ""
