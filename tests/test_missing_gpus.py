"""A launch for GPUs is refused where torch sees too few of them, with CUDA's reason; files for CPUs say so."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
import yaml
from launching import ACCELERATE
from test_cli import mlm_dist
from test_conflicts import CPU, EIGHT, FSDP, ZERO, check, refused

from mlm_dist.engine import accelerate_file, missing_gpus
from mlm_dist.engine.device import Device, device_here, hides_all, wants_cpu
from mlm_dist.errors import ConfigError

GPUS = Device("cuda", "H100", 4, 80 << 30, has_bf16=True)
ARC = Device("xpu", "Arc", 2, 16 << 30, has_bf16=True)
APPLE = Device("mps", "Apple GPU", 1, 16 << 30, has_bf16=True)
BF16 = {"ACCELERATE_MIXED_PRECISION": "bf16"}
HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1,-1"}
NO_GPU = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")


REFUSED: dict[str, tuple[dict[str, str], Device, tuple[str, ...]]] = {
    "DDP": (EIGHT, CPU, ("8 processes", "torch sees none", "--topology cpu_2")),
    "ZeRO": (ZERO, CPU, ("8 processes", "torch sees none", "--gpu_ids=-1,-1")),
    "ZeRO in one process": (
        {"ACCELERATE_USE_DEEPSPEED": "true"},
        CPU,
        ("the process needs a GPU", "torch sees none", "--gpu_ids=-1,-1"),
    ),
    "FSDP2": (FSDP, CPU, ("8 processes", "torch sees none", "--gpu_ids=-1,-1")),
    "one process in bf16": (
        BF16 | {"ACCELERATE_USE_CPU": "False"},
        CPU,
        ("the process needs a GPU", "torch sees none", "configs/accelerate/cpu.yaml"),
    ),
    "GPUs hidden by a scheduler": (EIGHT | {"CUDA_VISIBLE_DEVICES": ""}, CPU, ("torch sees none",)),
    "too few GPUs": (EIGHT, GPUS, ("8 processes", "torch sees 4;", "--num_processes 4")),
    "too few visible GPUs": (
        EIGHT | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"},
        GPUS,
        ("torch sees 4 (CUDA_VISIBLE_DEVICES=0,1,2,3)", "--num_processes 4"),
    ),
    "several Intel GPUs": (
        {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        ARC,
        ("several processes", "NVIDIA or AMD", "Arc", "xpu.yaml"),
    ),
    "FSDP2 on an Apple GPU": (FSDP | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, APPLE, ("sharding", "mps.yaml")),
    "another accelerator": ({}, Device("npu", "npu", 1, 16 << 30, has_bf16=True), ("npu", "not supported")),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_launch_is_refused_in_one_line(name: str) -> None:
    environ, device, named = REFUSED[name]
    with refused(named):
        check(environ, device)


@pytest.mark.parametrize(
    ("environ", "device"),
    [
        (EIGHT | HIDDEN, CPU),
        (ZERO | HIDDEN, CPU),
        (EIGHT | {"ACCELERATE_USE_CPU": "true"}, CPU),
        (BF16 | {"ACCELERATE_USE_CPU": "True"}, CPU),
        ({"ACCELERATE_USE_CPU": "False"}, CPU),  # `accelerate launch` without a file
        (BF16, CPU),  # no launcher
        ({"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, GPUS),
        ({}, ARC),
        ({}, APPLE),
    ],
)
def test_launch_that_has_its_devices_is_accepted(environ: dict[str, str], device: Device) -> None:
    check(environ, device)


@pytest.mark.parametrize("gpu_ids", ["-1", "-1,-1", "-1, -1"])
def test_hidden_gpus_ask_for_the_cpu(gpu_ids: str) -> None:
    assert wants_cpu({"CUDA_VISIBLE_DEVICES": gpu_ids}) and wants_cpu({"ZE_AFFINITY_MASK": gpu_ids})
    assert device_here({"CUDA_VISIBLE_DEVICES": gpu_ids}).kind == "cpu"


@pytest.mark.parametrize("gpu_ids", [None, "", "0", "0,-1", "NoDevFiles", "all"])
def test_other_values_do_not_ask_for_the_cpu(gpu_ids: str | None) -> None:
    assert not hides_all(gpu_ids)


# What torch.cuda.init raises, by PyTorch's source (torch/csrc/cuda/Module.cpp and c10/cuda/CUDAFunctions.cpp).
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver from "
    "http://www.nvidia.com/Download/index.aspx"
)
OLD_DRIVER = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading "
    "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: "
    "https://pytorch.org to install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NOT_READY = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error 802: system not yet initialized"
)
REASONS = {
    "a CPU build": ("Torch not compiled with CUDA enabled", {}, None, "torch 2.13.0 is a build without CUDA or ROCm"),
    "no driver": (NO_DRIVER, {}, "13.0", "Found no NVIDIA driver on your system (torch 2.13.0 is built for CUDA 13.0)"),
    "an old driver": (
        OLD_DRIVER,
        {"CUDA_VISIBLE_DEVICES": "0"},
        "13.0",
        "The NVIDIA driver on your system is too old (found version 12.2) (torch 2.13.0 is built for CUDA 13.0)",
    ),
    "hidden GPUs": (
        "No CUDA GPUs are available",
        {"CUDA_VISIBLE_DEVICES": ""},
        "13.0",
        "CUDA_VISIBLE_DEVICES='' hides them",
    ),
    "hidden AMD GPUs": (
        "No HIP GPUs are available",
        {"ROCR_VISIBLE_DEVICES": "7"},
        "6.4",
        "ROCR_VISIBLE_DEVICES='7' hides them",
    ),
    "no GPU": (
        "No CUDA GPUs are available",
        {},
        "13.0",
        "No CUDA GPUs are available (torch 2.13.0 is built for CUDA 13.0)",
    ),
    "fabric manager": (
        NOT_READY,
        {},
        "13.0",
        "Unexpected error from cudaGetDeviceCount(). Error 802: system not yet initialized (torch 2.13.0 is built for "
        "CUDA 13.0)",
    ),
}


@pytest.mark.parametrize("name", list(REASONS))
def test_reason_is_that_of_cuda_in_one_line(name: str) -> None:
    error, environ, toolkit, expected = REASONS[name]
    assert missing_gpus.explained(error, environ, "2.13.0", toolkit) == expected


@NO_GPU
def test_reason_of_this_machine_names_the_build_of_torch() -> None:
    if torch.version.cuda is None and torch.version.hip is None:
        assert missing_gpus.reason() == f"torch {torch.__version__} is a build without CUDA or ROCm"
    else:
        assert torch.__version__ in missing_gpus.reason({})


FILES = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted(ACCELERATE.glob("*.yaml"))}


@pytest.mark.parametrize("name", list(FILES))
def test_only_files_that_say_cpu_are_accepted_without_gpus(name: str) -> None:
    accelerate_file.check_gpus(FILES[name], {}, 8, {})
    if "cpu" in name:
        accelerate_file.check_gpus(FILES[name], {}, 0, {})
    else:
        with pytest.raises(ConfigError, match="torch sees none"):
            accelerate_file.check_gpus(FILES[name], {}, 0, {})


FLAGS: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "fewer processes": ({"num_processes": 4}, 4, None),
    "GPUs hidden by a flag": ({"gpu_ids": "-1,-1"}, 0, None),
    "--cpu": ({"cpu": True}, 0, None),
    "too few GPUs": ({}, 4, "8 processes on this machine need a GPU each, and torch sees 4; use --num_processes 4"),
    "too few chosen": ({"num_processes": 4, "gpu_ids": "0,1,9"}, 8, "torch sees 2 (CUDA_VISIBLE_DEVICES=0,1,9)"),
    "several machines": ({"num_processes": 16, "num_machines": 2}, 8, None),
    "machines with too few": ({"num_processes": 32, "num_machines": 2}, 8, "16 processes"),
}


@pytest.mark.parametrize("name", list(FLAGS))
def test_flags_of_the_launcher_count(name: str) -> None:
    flags, num_gpus, refused = FLAGS[name]
    if refused is None:
        accelerate_file.check_gpus(FILES["ddp"], flags, num_gpus, {})
    else:
        with pytest.raises(ConfigError, match=re.escape(refused)):
            accelerate_file.check_gpus(FILES["ddp"], flags, num_gpus, {})


@NO_GPU
@pytest.mark.parametrize("topology", ["ddp", "gpu", "zero2", "fsdp2"])
def test_topology_without_its_gpus_starts_no_process(topology: str, tmp_path: Path) -> None:
    ended = mlm_dist("train", "--topology", topology, f"--output_dir={tmp_path / 'run'}")
    assert ended.returncode == 2, ended.output
    (line,) = ended.stderr.splitlines()
    assert "torch sees none: torch " in line and "on the CPU" in line
    assert not ended.stdout and not (tmp_path / "run").exists()


@NO_GPU
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["ddp", "zero2", "gpu", "fsdp2", "colab"])
def test_plain_accelerate_is_refused_once(topology: str, tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(yaml.safe_dump(FILES[topology]), "utf-8")
    several = () if topology in ("gpu", "colab") else ("--num_processes=2",)
    start = ("-m", "accelerate.commands.launch", f"--config_file={file}", "--main_process_port=0", *several)
    run = tmp_path / "run"
    ended = launching.run([sys.executable, *start, "mlm_dist/train.py", f"--output_dir={run}"])
    assert ended.returncode != 0
    assert ended.stderr.count("and torch sees none: torch ") == 1, ended.stderr
    assert not run.exists()
