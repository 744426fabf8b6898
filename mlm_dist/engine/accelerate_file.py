"""Conflicts within an accelerate file, found before it is launched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlm_dist.engine.conflicts import BESIDE_JSON, FSDP_USE_CPU, USE_CPU
from mlm_dist.errors import ConfigError


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


def _conflicts(settings: dict[str, Any], flags: Mapping[str, Any]) -> Iterator[str]:
    kind = str(settings.get("distributed_type", "NO")).upper()
    deepspeed: Mapping[str, Any] = settings.get("deepspeed_config") or {}

    def setting(name: str, default: Any = None) -> Any:
        flag = flags.get(name)
        return flag if flag is not None else settings.get(name, deepspeed.get(name, default))

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
