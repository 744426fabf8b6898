"""The launch: processes, device, precision and sharding, read from the environment without a process group."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlm_dist import ranks
from mlm_dist.engine.device import Device, device_here, is_on
from mlm_dist.errors import ConfigError, reason

if TYPE_CHECKING:
    from mlm_dist.model.precision import Precision

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}  # of a number in matrix products
_NAMES = {"none": "no sharding", "ddp": "DDP", "fsdp2": "FSDP2"}
_CAN_BE_OFFLOADED = ("optimizer", "param")


@dataclass(frozen=True)
class Launch:
    """A launch, as its environment describes it.

    Args:
        world_size: Number of processes on all machines.
        local_world_size: Number of processes on this machine.
        device: What they compute on.
        rank: This process.
        precision: fp32, bf16, fp16 or fp8.
        sharding: none, ddp, zero or fsdp2.
        stage: What ZeRO shards: 1 moments, 2 gradients too, 3 weights too; 0 without ZeRO.
        offload: What DeepSpeed keeps in host memory: any of optimizer, param.
        deepspeed_file: The DeepSpeed JSON, if one is used.
        deepspeed: Its content.
        is_restarted: Whether a launcher or a cluster started the job again, with the flags of the first time.
    """

    world_size: int
    local_world_size: int
    device: Device
    rank: int = 0
    precision: str = "fp32"
    sharding: str = "none"
    stage: int = 0
    offload: frozenset[str] = frozenset()
    deepspeed_file: str | None = None
    deepspeed: Mapping[str, Any] = field(default_factory=dict)
    is_restarted: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process has rank 0."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether no process holds the whole model and its optimizer."""
        return self.sharding in ("zero", "fsdp2")

    @property
    def sharding_name(self) -> str:
        """none, ddp, fsdp2, zero1, zero2 or zero3."""
        return f"zero{self.stage}" if self.sharding == "zero" else self.sharding

    @property
    def trial_precision(self) -> Precision:
        """What models are tried in before they are trained."""
        from mlm_dist.model.precision import Precision

        return Precision(self.precision, rounds_weights=self.is_sharded)

    @property
    def has_variable_length_kernel(self) -> bool:
        """Whether the GPU computes attention of chunks of any length in the precision of the run, without a mask."""
        # The kernel needs compute capability 8.0, as bf16 does.
        return self.device.kind == "cuda" and self.device.has_bf16 and self.precision in ("bf16", "fp16")

    def describe(self) -> str:
        """Processes, sharding, device and precision, for people."""
        count = f"{self.world_size} process" + ("es" if self.world_size > 1 else "")
        sharding = _NAMES.get(self.sharding, f"ZeRO-{self.stage}")
        offload = f", {' and '.join(sorted(self.offload))} offloaded to the host" if self.offload else ""
        return f"{count} on {self.device.kind}, {sharding}{offload}, precision {self.precision}"

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ, device: Device | None = None) -> Launch:
        """Read what `accelerate launch` leaves in the environment of each process.

        Args:
            environ: The environment.
            device: What this machine computes on; detected by default.

        Raises:
            ConfigError: The DeepSpeed JSON cannot be read.
        """
        precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
        common: dict[str, Any] = {
            "world_size": ranks.world_size(environ),
            "local_world_size": ranks.local_world_size(environ),
            "rank": ranks.rank(environ),
            "is_restarted": ranks.is_restarted(environ),
            "device": device or device_here(environ),
            "precision": "fp32" if precision == "no" else precision,
        }
        if is_on("ACCELERATE_USE_FSDP", environ):
            return cls(**common, sharding="fsdp2")
        if not is_on("ACCELERATE_USE_DEEPSPEED", environ):
            return cls(**common, sharding="ddp" if common["world_size"] > 1 else "none")
        return cls(**common | _read_deepspeed(environ), sharding="zero")


def _read_deepspeed(environ: Mapping[str, str]) -> dict[str, Any]:
    """ZeRO's fields of a `Launch`, from a DeepSpeed JSON or the launcher's own variables."""
    file = environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if file is None:
        variable = "ACCELERATE_DEEPSPEED_OFFLOAD_{}_DEVICE"
        devices = {part: environ.get(variable.format(part.upper())) for part in _CAN_BE_OFFLOADED}
        return {"stage": int(environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")), "offload": _offloaded(devices)}
    try:
        text = Path(file).read_text("utf-8")
        settings = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        zero = settings.get("zero_optimization", {})
        stage = zero.get("stage", 0)
        devices = {part: zero.get(f"offload_{part}", {}).get("device") for part in _CAN_BE_OFFLOADED}
        enabled = [kind for kind in ("bf16", "fp16") if settings.get(kind, {}).get("enabled") is True]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"deepspeed_config_file: cannot read {file} ({reason(error)})") from None
    fields = {"stage": stage, "offload": _offloaded(devices), "deepspeed_file": file, "deepspeed": settings}
    return fields | ({"precision": enabled[0]} if enabled else {})


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object of a JSON file; of two values for a key, Python would take the last one without a word."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice; remove one")
    return dict(pairs)


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON; write a number")


def _offloaded(devices: Mapping[str, str | None]) -> frozenset[str]:
    return frozenset(part for part, device in devices.items() if device not in (None, "none"))
