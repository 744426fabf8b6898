"""Conflicts between config, accelerate file, DeepSpeed JSON and machine are refused by name before any work is done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from launching import ROOT

from mlm_dist.batches.global_batch import spread
from mlm_dist.config import BatchConfig
from mlm_dist.engine import accelerate_file, conflicts
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError

H100 = Device("cuda", "H100", 8, 80 << 30, has_bf16=True)
T4 = Device("cuda", "Tesla T4", 1, 16 << 30, has_bf16=False)
CPU = Device("cpu", "CPU", 1, 16 << 30, has_bf16=True)
EIGHT = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}
ZERO = EIGHT | {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
FSDP = EIGHT | {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def check(
    environ: Mapping[str, str], device: Device = H100, settings: Mapping[str, Any] | None = None, folder: Path = ROOT
) -> None:
    """Check a launch with 64 rows per step and 4 per micro-batch, so that 8 processes accumulate 2."""
    if settings is not None:
        file = folder / "deepspeed.json"
        file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | dict(settings)), "utf-8")
        environ = {key: value for key, value in environ.items() if key != "ACCELERATE_DEEPSPEED_ZERO_STAGE"}
        environ = environ | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    launch = Launch.read(environ, device)
    batch = spread(BatchConfig(64, 4), 128, launch.world_size)
    conflicts.check(conflicts.RunSettings(batch, "adamw", 1.0, "none"), launch, environ)


@contextlib.contextmanager
def refused(named: tuple[str, ...]) -> Iterator[None]:
    """Inside, a launch is refused in one line, with these words."""
    with pytest.raises(ConfigError) as caught:
        yield
    assert all(words in str(caught.value) for words in named), str(caught.value)
    assert "\n" not in str(caught.value)


PLANTED: dict[str, tuple[dict[str, str], Device, tuple[str, ...]]] = {
    "accumulation": (
        ZERO | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"},
        H100,
        ("gradient_accumulation_steps: 1", "batch.global_size", "2"),
    ),
    "clipping": (
        ZERO | {"ACCELERATE_GRADIENT_CLIPPING": "0.5"},
        H100,
        ("gradient_clipping: 0.5", "optim.max_grad_norm", "1.0"),
    ),
    "fp16 without a GPU": ({"ACCELERATE_MIXED_PRECISION": "fp16"}, CPU, ("mixed_precision: fp16", "needs a GPU")),
    "bf16 on a T4": ({"ACCELERATE_MIXED_PRECISION": "bf16"}, T4, ("mixed_precision: bf16", "Tesla T4", "fp16")),
    "fp8": ({"ACCELERATE_MIXED_PRECISION": "fp8"}, H100, ("mixed_precision: fp8", "bf16")),
    "dynamo": (EIGHT | {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, H100, ("dynamo_backend: INDUCTOR", "model.compile")),
    "megatron": (EIGHT | {"ACCELERATE_USE_MEGATRON_LM": "true"}, H100, ("distributed_type", "Megatron")),
    "FSDP on use_cpu": (FSDP | {"ACCELERATE_USE_CPU": "true"}, CPU, ("use_cpu: true", "FSDP", "fsdp2_cpu.yaml")),
    "FSDP 1": (FSDP | {"FSDP_VERSION": "1"}, H100, ("fsdp_version", "2")),
    "FSDP checkpoints": (FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, H100, ("model.checkpointing", "false")),
    "FSDP unties": (FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, H100, ("fsdp_cpu_ram_efficient_loading",)),
    "ZeRO off": (ZERO | {"ACCELERATE_USE_CPU": "true"}, CPU, ("use_cpu: true", "DeepSpeed off", "gpu_ids")),
    "stage 0": (ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, H100, ("zero_stage: 0", "ddp.yaml")),
    "weights offloaded at stage 2": (
        ZERO | {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"},
        H100,
        ("offload_param_device", "stage 3"),
    ),
    "offload to a disk": (
        ZERO | {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "nvme"},
        H100,
        ("offload_optimizer_device", "nvme", "cpu"),
    ),
}


@pytest.mark.parametrize("name", list(PLANTED))
def test_contradicting_launch_is_refused_by_name(name: str) -> None:
    environ, device, named = PLANTED[name]
    with refused(named):
        check(environ, device)


PLANTED_IN_JSON: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    "micro-batch": ({"train_micro_batch_size_per_gpu": 16}, {}, ("train_micro_batch_size_per_gpu is 16", "4")),
    "batch": ({"train_batch_size": 16}, {}, ("train_batch_size is 16", "batch.global_size", "64")),
    "accumulation": ({"gradient_accumulation_steps": 4}, {}, ("gradient_accumulation_steps is 4", "2")),
    "clipping": ({"gradient_clipping": 2.0}, {}, ("gradient_clipping is 2.0", "optim.max_grad_norm", "auto")),
    "optimizer": ({"optimizer": {"type": "Lamb"}}, {}, ("section optimizer", "optim.name")),
    "scheduler": ({"scheduler": {"type": "WarmupLR"}}, {}, ("section scheduler", "optim.schedule")),
    "checkpointing": (
        {"activation_checkpointing": {"partition_activations": True}},
        {},
        ("section activation_checkpointing", "model.checkpointing"),
    ),
    "other precision": (
        {"fp16": {"enabled": True}},
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
        ("mixed_precision: bf16", "fp16", "auto"),
    ),
    "no precision": (
        {"bf16": {"enabled": False}},
        {"ACCELERATE_MIXED_PRECISION": "bf16"},
        ("mixed_precision: bf16", "no bf16", "auto"),
    ),
    "both precisions": ({"bf16": {"enabled": True}, "fp16": {"enabled": True}}, {}, ("bf16 and fp16", "auto")),
    "precision in two files": (
        {},
        {"ACCELERATE_CONFIG_DS_FIELDS": "deepspeed_config_file,zero3_init_flag,mixed_precision"},
        ("mixed_precision", "deepspeed_config_file"),
    ),
    "stage": ({"zero_optimization": {"stage": 0}}, {}, ("zero_optimization.stage is 0", "1, 2 or 3")),
    "weights offloaded at stage 2": (
        {"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}},
        {},
        ("zero_optimization.offload_param", "stage 3"),
    ),
}


@pytest.mark.parametrize("name", list(PLANTED_IN_JSON))
def test_contradicting_deepspeed_json_is_refused_by_name(name: str, tmp_path: Path) -> None:
    settings, environ, named = PLANTED_IN_JSON[name]
    with refused(named):
        check(ZERO | environ, settings=settings, folder=tmp_path)


PLANTED_IN_FILE: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "one process for several": ({"distributed_type": "NO"}, {"num_processes": 4}, ("num_processes: 4", "MULTI_GPU")),
    "ZeRO on use_cpu": ({"distributed_type": "DEEPSPEED", "use_cpu": True}, {}, ("use_cpu: true", "DeepSpeed off")),
    "FSDP on use_cpu": ({"distributed_type": "FSDP", "use_cpu": True}, {}, ("use_cpu: true", "FSDP")),
    "one process instead of eight": ({"distributed_type": "MULTI_GPU"}, {"cpu": True}, ("--cpu", "one process")),
    "pdsh": (
        {"distributed_type": "DEEPSPEED", "num_machines": 2, "deepspeed_config": {}},
        {},
        ("deepspeed_multinode_launcher: pdsh", "standard"),
    ),
    "beside a JSON": (
        {
            "distributed_type": "DEEPSPEED",
            "mixed_precision": "bf16",
            "deepspeed_config": {"deepspeed_config_file": "x.json", "zero_stage": 2},
        },
        {},
        ("mixed_precision, zero_stage", "deepspeed_config_file", "x.json"),
    ),
}


@pytest.mark.parametrize("name", list(PLANTED_IN_FILE))
def test_contradicting_accelerate_file_is_refused_by_name(name: str) -> None:
    settings, flags, named = PLANTED_IN_FILE[name]
    with pytest.raises(ConfigError) as caught:
        accelerate_file.check("mine.yaml", settings, flags)
    assert all(words in str(caught.value) for words in ("mine.yaml", *named)), str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_accelerate_files_contradict_nothing(path: Path) -> None:
    accelerate_file.check(path.stem, yaml.safe_load(path.read_text("utf-8")), {})


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "deepspeed").glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_packaged_deepspeed_files_contradict_nothing(path: Path, precision: str, tmp_path: Path) -> None:
    settings = json.loads(path.read_text("utf-8"))
    check(ZERO | {"ACCELERATE_MIXED_PRECISION": precision}, settings=settings, folder=tmp_path)


def test_settings_that_agree_are_accepted(tmp_path: Path) -> None:
    """A quantity given in two files with one value, and weights that DeepSpeed need not gather."""
    check(ZERO | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2", "ACCELERATE_GRADIENT_CLIPPING": "1.0"})
    check(ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false"})
    check(ZERO, settings={"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4}, folder=tmp_path)
    check(FSDP)


def test_launch_is_read_from_the_environment(tmp_path: Path) -> None:
    environ = ZERO | {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
    found = Launch.read(environ, H100)
    assert found.describe() == "8 processes on cuda, ZeRO-2, optimizer offloaded to the host, precision bf16"
    assert Launch.read({}, CPU).describe() == "1 process on cpu, no sharding, precision fp32"
    assert Launch.read(EIGHT, H100).describe() == "8 processes on cuda, DDP, precision fp32"
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"fp16": {"enabled": True}, "zero_optimization": {"stage": 3}}), "utf-8")
    found = Launch.read(ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}, H100)
    assert (found.stage, found.precision) == (3, "fp16")
    for text, problem in (
        ("{", ""),
        ('{"fp16": {"enabled": true, "enabled": false}}', r".*enabled is given twice"),
        ('{"gradient_clipping": NaN}', ".*NaN is not JSON"),
    ):
        file.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=f"deepspeed_config_file: cannot read{problem}"):
            Launch.read(ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}, H100)


def test_key_that_an_accelerate_file_gives_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text("num_processes: 2\ndeepspeed_config:\n  zero_stage: 2\n  zero_stage: 3\n", "utf-8")
    with pytest.raises(ValueError, match="zero_stage is given twice, in lines 3 and 4"):
        accelerate_file.read(file)
    file.write_text("num_processes: 2\nuse_cpu: &all [1, *all]\n", "utf-8")
    assert accelerate_file.read(file)["num_processes"] == 2
    file.write_text("", "utf-8")
    with pytest.raises(ValueError, match="no settings"):
        accelerate_file.read(file)
