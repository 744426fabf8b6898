"""What is decided for a GPU that this machine need not have: model.compile, and the memory of masks."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from mlm_dist.engine import compiler
from mlm_dist.engine.activation_memory import activations
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.memory import Settings, Shape

H100 = Device("cuda", "H100", 8, 80 << 30, has_bf16=True)
T4 = Device("cuda", "Tesla T4", 1, 16 << 30, has_bf16=False)
CPU = Device("cpu", "CPU", 1, 16 << 30, has_bf16=True)
SHAPE = Shape(1000, 12, 768, 3072, 12, 30522, False, True, True, False, attention_dropout=True, slides=True)
SETTINGS = Settings(1024, predicted=0.15, optimizer="adamw", freeze_embeddings=False, is_packed=True)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment with a C compiler, and a package named triton."""
    (tmp_path / "gcc").touch(mode=0o755)
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return {"PATH": str(tmp_path)}


def launch(device: Device, stage: int = 0, precision: str = "bf16") -> Launch:
    sharding = "zero" if stage else "none"
    return dataclasses.replace(Launch.read({}), device=device, sharding=sharding, stage=stage, precision=precision)


def test_layers_are_compiled_by_default_on_cuda(tools: dict[str, str]) -> None:
    assert compiler.default(launch(H100), tools, fused=True) == "regional"
    assert compiler.default(launch(H100, stage=2), tools, fused=True) == "regional"
    assert compiler.default(launch(T4, precision="fp16"), tools, fused=True) == "regional"


def test_nothing_is_compiled_by_default_where_it_is_not_safe(tools: dict[str, str]) -> None:
    assert compiler.default(launch(CPU), tools, fused=True) == "none"
    assert compiler.default(launch(H100), tools, fused=False) == "none"
    assert compiler.default(launch(H100, stage=3), tools, fused=True) == "none"
    assert compiler.default(launch(H100), {"PATH": "/nowhere"}, fused=True) == "none", "there is no C compiler"


def test_triton_and_a_compiler_are_asked_for(tools: dict[str, str]) -> None:
    assert compiler.missing("cuda", tools) is None
    assert "C compiler for triton" in str(compiler.missing("cuda", {"PATH": "/nowhere"}))
    assert "C++ compiler" in str(compiler.missing("cpu", {"PATH": "/nowhere"}))


@pytest.mark.parametrize(
    ("device", "precision", "has_kernel"),
    [(H100, "bf16", True), (H100, "fp16", True), (H100, "fp32", False), (T4, "fp16", False), (CPU, "bf16", False)],
)
def test_the_kernel_is_expected_where_it_exists(device: Device, precision: str, has_kernel: bool) -> None:
    assert launch(device, precision=precision).has_variable_length_kernel == has_kernel


def test_masks_on_a_gpu_are_counted_where_they_are_built() -> None:
    """Per token without the kernel: a byte, and a number in fp16 that layers share, twice with sliding attention."""
    without, with_kernel = (
        activations(SETTINGS, dataclasses.replace(SHAPE, kernel=kernel), "fp16", 1) for kernel in (False, True)
    )
    assert without - with_kernel == 1024 * 1024 * 3 * 2
    shallow = dataclasses.replace(SHAPE, layers=6)
    without_shallow, with_shallow = (
        activations(SETTINGS, dataclasses.replace(shallow, kernel=kernel), "fp16", 1) for kernel in (False, True)
    )
    assert without_shallow - with_shallow == without - with_kernel, "a mask for each layer"
