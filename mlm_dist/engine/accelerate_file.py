"""Conflicts within an accelerate file, found before it is launched."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlm_dist.engine import missing_gpus
from mlm_dist.engine.conflicts import BESIDE_JSON, FSDP_USE_CPU, USE_CPU
from mlm_dist.engine.device import hides_all
from mlm_dist.errors import ConfigError


def read(file: Path) -> dict[str, Any]:
    """The settings of an accelerate file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no mapping, or gives a key twice, of which YAML would take the last one without a word.
        yaml.YAMLError: It is not YAML.
    """
    text = file.read_text("utf-8")
    _require_unique(yaml.compose(text, Loader=yaml.SafeLoader), ())
    settings = yaml.safe_load(text)
    if not isinstance(settings, dict):
        raise ValueError("it holds no settings")
    return settings


def _require_unique(node: Any, above: tuple[Any, ...]) -> None:
    if not isinstance(node, yaml.MappingNode) or any(node is one for one in above):
        return
    lines: dict[str, int] = {}
    for name, value in node.value:
        line = name.start_mark.line + 1
        if (first := lines.setdefault(str(name.value), line)) != line:
            raise ValueError(f"{name.value} is given twice, in lines {first} and {line}; remove one")
        _require_unique(value, (*above, node))


def check(name: str, settings: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Refuse an accelerate file before it is launched, for conflicts that the launched processes cannot see.

    Args:
        name: The file, for the message.
        settings: What it holds.
        flags: Flags of the launcher, which win over it.

    Raises:
        ConfigError: Names the first contradiction, its two sides and the remedy.
    """
    for conflict in _conflicts(dict(settings), flags):
        raise ConfigError(f"{name}: {conflict}")


def check_gpus(
    settings: Mapping[str, Any], flags: Mapping[str, Any], num_gpus: int, environ: Mapping[str, str] = os.environ
) -> None:
    """Refuse an accelerate file for GPUs on a machine that has too few of them; files for CPUs say so.

    Args:
        settings: What the file holds.
        flags: Flags of the launcher, which win over it.
        num_gpus: GPUs that torch sees on this machine.
        environ: The environment.

    Raises:
        ConfigError: The processes of this machine need more GPUs; the message has CUDA's reason and the remedy.
    """
    setting = _setting(settings, flags)
    ids = str(setting("gpu_ids", "all"))
    if setting("use_cpu") or flags.get("cpu") or hides_all(ids):
        return
    if ids != "all":
        num_gpus = sum(one.strip().isdigit() and int(one) < num_gpus for one in ids.split(","))
    num_processes = max(1, int(setting("num_processes", 1)) // int(setting("num_machines", 1)))
    if num_processes > num_gpus:
        shown = environ if ids == "all" else {**environ, "CUDA_VISIBLE_DEVICES": ids}
        sharding = {"DEEPSPEED": "zero", "FSDP": "fsdp2", "NO": "none"}.get(_kind(settings), "ddp")
        raise ConfigError(missing_gpus.conflict(num_processes, num_gpus, sharding, shown))


def _kind(settings: Mapping[str, Any]) -> str:
    return str(settings.get("distributed_type", "NO")).upper()


def _setting(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> Callable[..., Any]:
    deepspeed: Mapping[str, Any] = settings.get("deepspeed_config") or {}

    def setting(name: str, default: Any = None) -> Any:
        flag = flags.get(name)
        return flag if flag is not None else settings.get(name, deepspeed.get(name, default))

    return setting


def _conflicts(settings: dict[str, Any], flags: Mapping[str, Any]) -> Iterator[str]:
    kind, setting = _kind(settings), _setting(settings, flags)
    deepspeed: Mapping[str, Any] = settings.get("deepspeed_config") or {}
    if flags.get("cpu") and kind != "NO":
        yield "--cpu starts one process without sharding; use --topology cpu, cpu_2, or --gpu_ids=-1,-1"
    if kind in ("NO", "MULTI_CPU") and int(setting("num_processes", 1)) * int(setting("num_machines", 1)) > 1:
        yield (
            f"num_processes: {setting('num_processes', 1)}, but distributed_type {kind} starts one process only; use "
            "MULTI_GPU, on the CPU with use_cpu: true, as configs/accelerate/cpu_2.yaml does"
        )
    if setting("use_cpu") and kind == "DEEPSPEED":
        yield USE_CPU
    if setting("use_cpu") and kind == "FSDP":
        yield FSDP_USE_CPU
    if kind == "DEEPSPEED" and int(setting("num_machines", 1)) > 1:
        launcher = setting("deepspeed_multinode_launcher", "pdsh")
        if launcher != "standard":
            yield (
                f"deepspeed_multinode_launcher: {launcher} logs in to the other machines; write standard, and "
                "start the same command on each"
            )
    beside = sorted(BESIDE_JSON & {*deepspeed, *({"mixed_precision"} & set(settings))})
    if deepspeed.get("deepspeed_config_file") and beside:
        file = deepspeed["deepspeed_config_file"]
        yield f"{', '.join(beside)}: beside deepspeed_config_file; set it in {file} only"
