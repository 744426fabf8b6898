"""The format of a checkpoint: fp32 weights and moments in safetensors, everything else in JSON; any topology reads it.

A checkpoint is a folder `step-00000100` with model.safetensors, optimizer.safetensors, state.json and manifest.json. It
is written under another name and renamed when all of it is on the disk. No pickle is written or read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlm_dist.checkpoint import contents_check
from mlm_dist.errors import CheckpointError
from mlm_dist.files import sha256_of
from mlm_dist.system_errors import passes
from mlm_dist.terminal.stages import stage

FORMAT = 4
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8,})")


def verify(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and compare every file with it.

    Raises:
        CheckpointError: A file is missing, was added or was changed, or holds what no checkpoint holds; the message
            names it.
        OSError: This process has too many open files, or too little memory.
    """
    try:
        return _verified(folder)
    except OSError as error:
        if passes(error):
            raise  # it is not the checkpoint's fault, so an older one must not take its place
        raise CheckpointError(f"{error.filename or folder} cannot be read ({error.strerror})") from None


def _verified(folder: Path) -> dict[str, Any]:
    try:
        if (folder / "manifest.json").is_symlink():
            raise ValueError
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        promised = manifest.pop("sha256")
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        version = manifest["format"]
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{folder / 'manifest.json'} is missing or not a manifest") from None
    if promised != digest(manifest):
        raise CheckpointError(f"{folder / 'manifest.json'} was changed")
    if version != FORMAT:
        raise CheckpointError(f"{folder} has format {version}; this version reads format {FORMAT}")
    existing = {path.name for path in folder.iterdir()}
    for name in sorted(existing ^ {*files, "manifest.json"}):
        problem = "not part of the checkpoint" if name in existing else "missing"
        raise CheckpointError(f"{folder / name} is {problem}")
    megabytes = {name: size / 1e6 for name, (size, _) in files.items()}
    with stage("verifying checkpoint", sum(megabytes.values()), "MB", leaves_after=2) as shown:
        for name, (size, sha256) in files.items():
            path = folder / name
            if path.is_symlink() or path.stat().st_size != size or sha256_of(path) != sha256:
                raise CheckpointError(f"{path} is damaged: it differs from the manifest")
            shown.advance(megabytes[name])
    for name in sorted(files.keys() ^ {*FILES}):
        raise CheckpointError(f"{folder / 'manifest.json'}: files must be {', '.join(FILES)}, but {name} differs")
    read_state(folder)
    contents_check.tensors(*(folder / name for name in FILES[:2]))
    return manifest


def write_state(folder: Path, state: Mapping[str, Any], identity: Mapping[str, Any], micro_batch: int) -> None:
    """Write state.json.

    Args:
        folder: The checkpoint.
        state: What `TrainState.to_json` gave.
        identity: {config key: value} of what a resume must have in common with the run.
        micro_batch: Rows per process and forward pass.
    """
    content = {**state, "micro_batch": micro_batch, "identity": dict(identity)}
    (folder / "state.json").write_text(json.dumps(content, indent=1), "utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json.

    Raises:
        CheckpointError: It is not what `write_state` has written.
    """
    return contents_check.state(folder / "state.json", step_of(folder) if is_name(folder.name) else None)


def is_name(name: str) -> bool:
    """Whether a folder of this name can be a checkpoint."""
    return _NAME.fullmatch(name) is not None


def name_of(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The step that a checkpoint was saved after, by the name of its folder."""
    return int(path.name.rsplit("-", 1)[1])


def published(folder: Path) -> list[Path]:
    """The folders with a checkpoint's name below a folder, good or damaged."""
    return [path for path in folder.glob("step-*") if path.is_dir() and is_name(path.name)]


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest, kept in it as `sha256`."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
