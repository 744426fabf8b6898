"""Portable checkpoints: fp32 weights and moments in safetensors, the rest in JSON; any topology reads any other's.

A checkpoint is a folder `step-00000100` with model.safetensors, optimizer.safetensors, state.json and manifest.json. It
is written under another name and appears under its own in one step, when all of it is on the disk. No pickle is written
or read, and no random state is kept: what a run needs besides these follows from (seed, step).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mlm_dist.checkpoint.best import Best
from mlm_dist.engine import distributed
from mlm_dist.errors import CheckpointError
from mlm_dist.files import sha256_of

FORMAT = 1
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8,})")
# What runs were whose checkpoints do not say it, because they are older than the key.
_BEFORE: dict[str, Any] = {
    "masking.unit": "token",
    "masking.final_probability": None,
    "model.freeze_embeddings": False,
    "optim.name": "adamw",
    "batch.ramp_tokens": [None, None, None],
}


@dataclass(frozen=True)
class RunState:
    """How far a run is.

    Args:
        step: Updates done, left-out ones included.
        samples: Samples consumed.
        tokens: Tokens consumed.
        skipped_steps: Updates left out because a number was not finite.
        loss_scale: fp16's scale and the updates since it last changed; None in other precisions.
        seconds: With `optim.hours`, time used from the first update on, else 0.
        horizon: With `optim.hours`, these and the updates they were last estimated to hold.
        best: The validation with the lowest held-out loss so far.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    loss_scale: tuple[float, int] | None = None
    seconds: float = 0.0
    horizon: tuple[float, int] | None = None
    best: Best = field(default_factory=Best)


def verify(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and hold every file against it.

    Raises:
        CheckpointError: Something is missing, added or changed; the message names the file.
    """
    try:
        if (folder / "manifest.json").is_symlink():
            raise ValueError
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        promised = manifest.pop("sha256")
        files = {name: (int(file["size"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        version = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder / 'manifest.json'} is missing or not a manifest") from None
    if promised != digest(manifest):
        raise CheckpointError(f"{folder / 'manifest.json'} was changed")
    if version != FORMAT:
        raise CheckpointError(f"{folder} has format {version}; this version reads format {FORMAT}")
    there = {path.name for path in folder.iterdir()}
    for name in sorted(there ^ {*files, "manifest.json"}):
        raise CheckpointError(f"{folder / name} is {'not part of the checkpoint' if name in there else 'missing'}")
    for name, (size, sha256) in files.items():
        path = folder / name
        try:
            good = not path.is_symlink() and path.stat().st_size == size and sha256_of(path) == sha256
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
        if not good:
            raise CheckpointError(f"{path} is damaged: it is not what the manifest says")
    return manifest


def read_state(folder: Path) -> tuple[RunState, dict[str, Any]]:
    """How far a verified checkpoint is, and the identity of its run."""
    found = json.loads((folder / "state.json").read_text("utf-8"))
    identity: dict[str, Any] = found.pop("identity")
    pairs = {name: found.pop(name, None) for name in ("loss_scale", "horizon")}
    read: dict[str, Any] = {name: pair and (float(pair[0]), int(pair[1])) for name, pair in pairs.items()}
    seen = Best(**found.pop("best", {}))  # older checkpoints do not know
    return RunState(**found, **read, best=seen), identity


def require_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on from a run of another identity.

    Raises:
        CheckpointError: Names the first key that differs, and the flag that starts anew.
    """
    theirs = {**_BEFORE, **theirs}
    for key in ours:
        if key.startswith("model.overrides.") and key not in theirs:
            continue  # a field that a newer library has added to its configurations
        if theirs.get(key) != ours[key]:
            raise CheckpointError(
                f"{key}: {folder} was made with {theirs.get(key)}, now it is {ours[key]}; set it back, name another "
                "output_dir, or start anew with --checkpoint.resume never"
            )


def load_weights(folder: Path, core: nn.Module) -> None:
    """Put a checkpoint's weights into a model that is not prepared yet."""
    from safetensors import safe_open

    with safe_open(str(folder / "model.safetensors"), framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        for name, parameter in core.named_parameters():
            if name not in names:
                raise CheckpointError(f"{folder / 'model.safetensors'} has no {name}; it is of another model")
            value = file.get_tensor(name)
            if value.shape != parameter.shape:
                raise CheckpointError(f"{folder / 'model.safetensors'}: {name} is of another shape; of another model")
            parameter.copy_(value)


def load_moments(folder: Path, accelerator: Accelerator, core: nn.Module, optimizer: Any, state: RunState) -> None:
    """Put a checkpoint's fp32 weights and moments where the prepared optimizer keeps them; a collective."""
    from safetensors import safe_open

    with (
        safe_open(str(folder / "model.safetensors"), framework="pt") as weights,
        safe_open(str(folder / "optimizer.safetensors"), framework="pt") as moments,
    ):
        distributed.set_full_state(
            accelerator,
            core,
            optimizer,
            weights=weights.get_tensor,
            # A copy: what the library gives is a view of the file, which would keep a removed checkpoint on the disk.
            moments=lambda key, name: moments.get_tensor(f"{key}/{name}").clone(),
            num_steps=state.step - state.skipped_steps,
            loss_scale=state.loss_scale,
        )


def is_name(name: str) -> bool:
    """Whether a folder of this name can be a checkpoint."""
    return _NAME.fullmatch(name) is not None


def name_of(step: int) -> str:
    """The folder name of an update's checkpoint."""
    return f"step-{step:08d}"


def step_of(path: Path) -> int:
    """The update that a checkpoint was written after, by its folder's name."""
    return int(path.name.rsplit("-", 1)[1])


def published(folder: Path) -> list[Path]:
    """What stands below a folder under a checkpoint's name, good or damaged."""
    return [path for path in folder.glob("step-*") if path.is_dir() and is_name(path.name)]


def digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of what a manifest says, kept in it as `sha256`."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
