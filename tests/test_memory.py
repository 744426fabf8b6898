"""Memory of a step: the estimate against real allocations, the largest micro-batch that fits, and the memory trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launching
import pytest
import torch

from mlm_dist.batches.global_batch import spread
from mlm_dist.config import BatchConfig
from mlm_dist.engine import memory
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.memory import Settings, Shape
from mlm_dist.errors import TrainingError
from mlm_dist.faults import VARIABLE as FAULT
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.spec import BatchSpec
from mlm_dist.training import fit_memory

H100 = Device("cuda", "H100", 8, 80 << 30, has_bf16=True)
T4 = Device("cuda", "Tesla T4", 1, 16 << 30, has_bf16=False)
CPU = Device("cpu", "CPU", 1, 16 << 30, has_bf16=True)
SETTINGS = Settings(max_length=128, predicted=0.15, optimizer="adamw", freeze_embeddings=False)


def batch_of(global_size: int, micro_size: int, accumulation: int, world_size: int) -> BatchSpec:
    """A batch that does not grow."""
    return BatchSpec(global_size, micro_size, accumulation, world_size, global_size, 128)


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_equal_those_of_the_zero_paper(stage: int, gigabytes: float) -> None:
    """7.5 billion parameters on 64 GPUs: figure 1 of https://arxiv.org/abs/1910.02054."""
    shape = Shape(7_500_000_000, 36, 4096, 16384, 32, 30_522, gated=False, dropout=False, fused=True, on_cpu=False)
    settings = {"zero_optimization": {"reduce_bucket_size": 0}}
    launch = Launch(64, 8, H100, precision="bf16", sharding="zero", stage=stage, deepspeed=settings)
    weights, gradients, moments, host = memory.states(SETTINGS, shape, launch)
    assert (weights + gradients + moments) / 1e9 == pytest.approx(gigabytes, abs=0.06)
    assert host == 0
    offloaded = memory.states(SETTINGS, shape, dataclasses.replace(launch, offload=frozenset({"optimizer"})))
    assert sum(offloaded[:3]) < weights + gradients + moments
    assert sum(offloaded) == weights + gradients + moments


def test_plain_states_equal_the_allocation_of_adamw() -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    tensors = [model.weight, model.weight.grad, *optimizer.state[model.weight].values()]
    allocated = sum(t.numel() * t.element_size() for t in tensors if t is not None and t.ndim)
    shape = Shape(1_000_000, 1, 1000, 1000, 1, 1000, gated=False, dropout=False, fused=True, on_cpu=False)
    assert sum(memory.states(SETTINGS, shape, Launch.read({}, CPU))) == allocated


@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert", "modernbert"))]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_equal_the_storage_a_forward_pass_keeps(name: str, precision: str) -> None:
    """Each storage that autograd keeps counts once; the formula adds a layer and the head's gradients."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    found = AutoConfig.for_model(
        name,
        **{"hidden_size": 256, "num_hidden_layers": 12, "num_attention_heads": 4, "vocab_size": 2000},
        **{"hidden_dim" if name == "distilbert" else "intermediate_size": 384 if name == "modernbert" else 1024},
        pad_token_id=0,
    )
    model = MaskedLanguageModel(AutoModelForMaskedLM.from_config(found))
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    input_ids = torch.randint(2000, (8, 128))
    positions = torch.arange(0, 8 * 128, 7)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        graph = model(input_ids, None, positions, input_ids.flatten()[positions], None, torch.arange(8))
    measured = sum(kept.values())
    if precision == "bf16":  # autocast's copies of the weights count as weights
        measured -= 2 * sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    shape = memory.shape_of(found, on_cpu=True)
    estimated = memory.activations(SETTINGS, shape, precision, 8)
    assert measured < estimated < 1.2 * measured, (measured, estimated)
    del graph


def test_micro_batch_is_the_largest_that_fits() -> None:
    settings = dataclasses.replace(SETTINGS, max_length=512)
    shape = Shape(110_000_000, 12, 768, 3072, 12, 30_522, gated=False, dropout=True, fused=True, on_cpu=False)
    for gigabytes in (3, 4, 6, 8, 16):
        launch = Launch.read({}, dataclasses.replace(T4, memory=gigabytes << 30))
        batch = spread(BatchConfig(96), 512, 1, memory.most_rows(settings, shape, launch))
        available = memory.available(launch)
        larger = next((size for size in range(batch.micro_size + 1, 97) if 96 % size == 0), None)
        fits = memory.estimate(settings, shape, launch, batch.micro_size).total <= available
        assert fits or batch.micro_size == 1
        assert larger is None or memory.estimate(settings, shape, launch, larger).total > available
        assert batch.micro_size * batch.accumulation == 96
    launches = [Launch.read({}, dataclasses.replace(T4, memory=n << 30)) for n in (1, 80)]
    sizes = [memory.most_rows(settings, shape, launch) for launch in launches]
    assert sizes[0] == 1
    assert sizes[1] > 96


def test_out_of_memory_error_names_the_remedy() -> None:
    def run_out(batch: BatchSpec) -> None:
        with fit_memory.explained(batch):
            torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(TrainingError, match=r"batch\.micro_size: out of memory with 8 rows.*--batch\.micro_size 4"):
        run_out(batch_of(16, 8, 2, 1))
    with pytest.raises(TrainingError, match="zero3"):
        run_out(batch_of(16, 1, 16, 1))
    with pytest.raises(RuntimeError, match="something else"), fit_memory.explained(batch_of(16, 8, 2, 1)):
        raise RuntimeError("something else")


def train(folder: Path, cache: Path, launch: Callable[..., launching.Ended], **environ: str) -> tuple[list[Any], str]:
    """A short run; its losses and its output."""
    ended = launch(
        "train.py",
        f"--corpus.cache_dir={cache}",
        f"--output_dir={folder}",
        *("--optim.duration=6 steps", "--logging.every=1", "--checkpoint.every=null", "--export.verify=false"),
        *launching.TINY,
        **environ,
    )
    assert ended.returncode == 0, ended.output
    return [line["loss"] for line in launching.metrics(folder, "train")], ended.stdout


def two_processes(*arguments: str, **options: Any) -> launching.Ended:
    """A launch of two processes."""
    return launching.accelerate("cpu_2", *arguments, **options)


def shape_of(run: Path) -> tuple[int, int, int]:
    """Micro-batch, accumulation and processes of a run."""
    start = launching.metrics(run, "start")[0]
    return start["micro_batch"], start["accumulation"], start["world_size"]


@pytest.mark.slow
def test_too_large_micro_batch_is_halved_without_changing_the_losses(tmp_path: Path, prepared_cache: Path) -> None:
    """Only the second process runs out of memory; both halve the micro-batch."""
    expected, _ = train(tmp_path / "plain", prepared_cache, launching.python)
    assert shape_of(tmp_path / "plain") == (16, 1, 1)
    found, printed = train(tmp_path / "two", prepared_cache, two_processes, **{FAULT: "memory@8@1"})
    assert "out of memory with a micro-batch of 8 rows; trying 16 rows per step = 4 x 2 x 2" in printed
    assert shape_of(tmp_path / "two") == (4, 2, 2)
    assert found == pytest.approx(expected, abs=1e-4)
