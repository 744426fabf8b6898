"""The files with a checkpoint's weights: found, and read without running code."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlm_dist.errors import ModelError, reason
from mlm_dist.files import open_tensors, sha256_of
from mlm_dist.pretrained import Pretrained
from mlm_dist.retries import retry
from mlm_dist.terminal import downloads
from mlm_dist.terminal.stages import stage

Weights = dict[str, Any]  # {name: tensor}

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
NAMES = (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLED, f"{PICKLED}.index.json")
_LFS_POINTER = b"version https://git-lfs"
# {ending of a file: (what it is, what to do)} of weights that are not read.
_OTHERS = {
    ".gguf": ("GGUF weights, which are made for inference", "use the checkpoint that they were converted from"),
    ".onnx": ("an ONNX model, which is made for inference", "use the checkpoint that it was exported from"),
    ".h5": (
        "TensorFlow weights",
        "convert them with transformers 4: AutoModelForMaskedLM.from_pretrained(folder, from_tf=True)"
        ".save_pretrained(folder)",
    ),
    ".msgpack": (
        "Flax weights",
        "convert them with transformers 4: AutoModelForMaskedLM.from_pretrained(folder, from_flax=True)"
        ".save_pretrained(folder)",
    ),
    ".ot": ("Rust weights", "use the PyTorch checkpoint that they were converted from"),
    ".distcp": (
        "a distributed PyTorch checkpoint",
        f"convert it with python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER {PICKLED}",
    ),
    "adapter_model.safetensors": ("a peft adapter", "merge it with merge_and_unload() and save the merged model"),
    "adapter_model.bin": ("a peft adapter", "merge it with merge_and_unload() and save the merged model"),
    "mp_rank_00_model_states.pt": ("a DeepSpeed checkpoint", "convert it with its zero_to_fp32.py"),
    ".ckpt.index": ("a TensorFlow 1 checkpoint", "convert it with transformers 4 to PyTorch"),
}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def read(pretrained: Pretrained) -> Weights:
    """The weights of a checkpoint as they are stored.

    Reads safetensors, and pickles of tensors with `torch.load(weights_only=True)`, both in one file or in shards.

    Raises:
        ModelError: There are no weights, they are in another format, damaged, or a pickle that holds more than tensors.
    """
    if pretrained.is_run_checkpoint:
        _verify(Path(pretrained.path))
    path = _find(pretrained)
    if not path.name.endswith(".index.json"):
        return _read_file(path)
    weights: Weights = {}
    for shard in _shards(pretrained, path):
        weights |= _read_file(shard)
    return weights


def check(pretrained: Pretrained) -> None:
    """Check, without reading them, that the weights of a folder are there; those on the Hub are not fetched.

    Raises:
        ModelError: There are no weights, or some are missing, in another format or truncated.
    """
    if pretrained.folder is None:
        return
    path = _find(pretrained)
    for file in _shards(pretrained, path) if path.name.endswith(".index.json") else [path]:
        _refuse_pointer(file)
        if file.suffix not in _PICKLES:
            _open_safetensors(file)


def _find(pretrained: Pretrained) -> Path:
    """The file with the weights, or the index of their shards."""
    for name in NAMES:
        path = _file(pretrained, name)
        if path is not None:
            return path
    folder = pretrained.folder
    if folder is None:
        raise ModelError(
            f"model.name_or_path: the Hub provides no {SAFETENSORS} and no {PICKLED} for {pretrained.describe()}; "
            "choose another model, or convert its weights"
        )
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    single = [file for file in files if "/" not in file and file.endswith((".safetensors", *_PICKLES))]
    known = [ending for ending in _OTHERS if any(file.endswith(ending) for file in files)]
    weights = [file for file in single if not any(file.endswith(ending) for ending in known)]
    if len(weights) == 1:
        return folder / weights[0]
    if weights:
        listed = ", ".join(weights[:5])
        remedy = f"keep one of them, or name it {SAFETENSORS}"
        raise ModelError(f"model.name_or_path: {pretrained.name} has several files of weights ({listed}); {remedy}")
    if known:
        what, remedy = _OTHERS[known[0]]
        example = next(file for file in files if file.endswith(known[0]))
        raise ModelError(
            f"model.name_or_path: {pretrained.name} has no {SAFETENSORS} and no {PICKLED}; {example} is {what}: "
            f"{remedy}"
        )
    raise ModelError(
        f"model.name_or_path: {pretrained.name} has no weights (no {SAFETENSORS} and no {PICKLED}; it holds "
        f"{', '.join(files[:5]) or 'nothing'}); copy them, or start from random weights with --model.from_scratch true"
    )


def _file(pretrained: Pretrained, name: str) -> Path | None:
    """A file of a checkpoint, fetched if it is on the Hub; None if there is none."""
    if pretrained.folder is not None:
        path = pretrained.folder / name
        return path if path.is_file() else None
    from transformers.utils import cached_file

    options = {key: value for key, value in pretrained.options.items() if key != "trust_remote_code"}
    try:
        with stage(f"downloading {name}", unit="MB", leaves_after=2) as shown:
            fetch = partial(
                cached_file,
                *(pretrained.path, name),
                _raise_exceptions_for_missing_entries=False,
                tqdm_class=downloads.counting(shown),
                **options,
            )
            found = retry(fetch, f"{pretrained.key}: {name} of {pretrained.name}")
    except OSError as error:  # no network, no permission; also if the file is not in the cache and the Hub is offline
        if os.environ.get("HF_HUB_OFFLINE"):
            return None
        raise ModelError(f"model.name_or_path: cannot fetch {name} of {pretrained.name} ({reason(error)})") from None
    return None if found is None else Path(found)


def _shards(pretrained: Pretrained, index: Path) -> Sequence[Path]:
    """The files that an index names."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(
            f"model.name_or_path: {index} is no index of shards ({reason(error)}); copy it again"
        ) from None
    found = {name: _file(pretrained, name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ModelError(
            f"model.name_or_path: {index.name} of {pretrained.name} names {len(names)} files, of which {len(missing)} "
            f"are missing ({', '.join(missing[:3])}); copy them"
        )
    return [path for path in found.values() if path is not None]


def _read_file(path: Path) -> Weights:
    _refuse_pointer(path)
    if path.suffix in _PICKLES:
        return _read_pickle(path)
    with _open_safetensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _refuse_pointer(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise ModelError(f"model.name_or_path: {path} is a Git LFS pointer, not weights; fetch them with git lfs pull")


def _open_safetensors(path: Path) -> Any:
    try:
        return open_tensors(path)
    except OSError:
        raise
    except Exception as error:  # the library has one type for truncated files and broken headers
        size = f"{path.stat().st_size:,} bytes"
        raise ModelError(
            f"model.name_or_path: {path} ({size}) is truncated or damaged ({reason(error)}); copy it again"
        ) from None


def _read_pickle(path: Path) -> Weights:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds
        if "weights_only" not in str(error) and "Weights only" not in str(error):
            raise ModelError(
                f"model.name_or_path: {path} is truncated or damaged ({reason(error)}); copy it again"
            ) from None
        raise ModelError(
            f"model.name_or_path: {path} holds more than tensors, and is not unpickled because that could run code; "
            "where you trust it, take the dict of its tensors out of torch.load(file, weights_only=False), such as "
            f'["state"]["model"] of Composer or ["state_dict"] of Lightning, and save it as {SAFETENSORS} with '
            "safetensors.torch.save_file"
        ) from None
    tensors = _tensors(content)
    if not tensors:
        raise ModelError(f"model.name_or_path: {path} holds no tensors by name; save the model's state_dict()")
    return tensors


def _tensors(content: Any) -> Weights:
    """The tensors of a state dict, or of the one inside the dict that a training framework saves."""
    import torch

    if not isinstance(content, Mapping):
        return {}
    for keys in (("state", "model"), ("state_dict",), ("model_state_dict",), ("model",), ("module",)):
        inner: Any = content
        for key in keys:
            inner = inner.get(key) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping) and any(isinstance(value, torch.Tensor) for value in inner.values()):
            return _tensors(inner)
    return {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _verify(checkpoint: Path) -> None:
    """Compare the weights of a run's checkpoint with its manifest."""
    path = checkpoint / SAFETENSORS
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text("utf-8"))["files"][SAFETENSORS]
        is_good = path.stat().st_size == int(manifest["size"]) and sha256_of(path) == manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        is_good = False
    if not is_good:
        raise ModelError(
            f"model.name_or_path: {path} is damaged: it differs from the manifest; name another checkpoint"
        )
