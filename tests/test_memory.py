"""Memory of a step: the estimate against real allocations, the largest micro-batch that fits, and the memory trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from live_tensors import LiveTensors

from mlm_dist.batches.global_batch import spread
from mlm_dist.batches.masking import Masker
from mlm_dist.config import BatchConfig, MaskingConfig
from mlm_dist.engine import activation_memory, device, memory
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.memory import Settings, Shape
from mlm_dist.engine.start import start
from mlm_dist.errors import TrainingError
from mlm_dist.faults import VARIABLE as FAULT
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.spec import BatchSpec
from mlm_dist.training import fit_memory
from mlm_dist.training.step_time import RandomRows

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


def tiny(name: str, layers: int = 3, **fields: Any) -> Any:
    """The transformers configuration of a narrow model."""
    from transformers import AutoConfig

    sizes = {"hidden_size": 256, "num_hidden_layers": layers, "num_attention_heads": 4, "vocab_size": 1000}
    inside = {"hidden_dim" if name == "distilbert" else "intermediate_size": 384 if name == "modernbert" else 1024}
    return AutoConfig.for_model(name, **sizes, **inside, pad_token_id=0, **fields)


@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert", "modernbert"))]
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_equal_the_storage_a_forward_pass_keeps(name: str, precision: str) -> None:
    """Each storage that autograd keeps counts once; the formula adds a layer and the head's gradients."""
    from transformers import AutoModelForMaskedLM

    found = tiny(name)
    model = MaskedLanguageModel(AutoModelForMaskedLM.from_config(found))
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    input_ids = torch.randint(1000, (4, 128))
    positions = torch.arange(0, 4 * 128, 7)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        graph = model(input_ids, None, positions, input_ids.flatten()[positions], None, torch.arange(4))
    measured = sum(kept.values())
    if precision == "bf16":  # autocast's copies of the weights count as weights
        measured -= 2 * sum(part.weight.numel() for part in model.modules() if isinstance(part, torch.nn.Linear))
    shape = memory.shape_of(found, on_cpu=True)
    estimated = activation_memory.activations(SETTINGS, shape, precision, 4)
    layer = activation_memory.activations(SETTINGS, dataclasses.replace(shape, layers=4), precision, 4) - estimated
    assert measured < estimated - layer < 1.2 * measured, (measured, estimated, layer)
    del graph


LONG = {"modernbert, 2,560 tokens": ("modernbert", 2560)}
SHORT = {"bert, 128 tokens": ("bert", 128), "modernbert, 128 tokens": ("modernbert", 128)}


@pytest.mark.parametrize("checkpointing", ["none", "layers"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("case", [*SHORT, *(pytest.param(case, marks=pytest.mark.slow) for case in LONG)])
def test_estimate_covers_the_tensors_of_a_step(case: str, precision: str, checkpointing: str) -> None:
    """The most that exist at once in a forward and backward pass of packed rows, of dropout 0.1 in BERT."""
    from transformers import AutoModelForMaskedLM

    name, length = (SHORT | LONG)[case]
    found = tiny(name, layers=6, max_position_embeddings=length)
    model = MaskedLanguageModel(AutoModelForMaskedLM.from_config(found), packed=True)
    if checkpointing == "layers":
        checkpoint_layers(model.model)
    rows = max(1, 1024 // length)
    input_ids, positions = torch.randint(5, 1000, (rows, length)), torch.arange(0, rows * length, 7)
    starts = torch.arange(0, rows * length + 1, length // 2, dtype=torch.int32)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    labels = input_ids.flatten()[positions]
    with LiveTensors(model.parameters()) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids, None, positions, labels, starts, torch.arange(rows)).loss_sum
        loss.backward()
    settings = dataclasses.replace(SETTINGS, max_length=length, checkpointing=checkpointing, is_packed=True)
    shape = memory.shape_of(found, on_cpu=True)
    # Autocast's copies of the weights count as weights.
    copies = 2 * sum(parameter.numel() for parameter in model.parameters()) if precision == "bf16" else 0
    estimated = activation_memory.activations(settings, shape, precision, rows) + copies
    assert live.peak < estimated < 1.35 * live.peak, (live.peak, estimated)


def test_checkpointing_is_suggested_where_it_makes_a_step_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(str(1200 << 20), "ascii")
    monkeypatch.setattr(device, "_LIMITS", (str(limit),))
    flags = (
        *(
            f"--output_dir={tmp_path / 'run'}",
            f"--corpus.cache_dir={tmp_path / 'cache'}",
            f"--corpus.source={tmp_path}",
        ),
        *("--model.name_or_path=bert", "--tokenizer.train_vocab_size=1000", "--optim.duration=1 steps"),
        *("--batch.micro_size=64", "--batch.global_size=64", "--rows.max_length=128"),
        "--model.overrides={num_hidden_layers: 24, hidden_size: 64, num_attention_heads: 2, intermediate_size: 128}",
    )
    (tmp_path / "document.txt").write_text("Some text. " * 100, "utf-8")
    plain, layers = (
        " ".join(launching.here("plan", *flags, *more).log.split()) for more in ((), ("--model.checkpointing=layers",))
    )
    assert "may not fit" in plain
    assert "--model.checkpointing layers needs about" in plain
    assert "may not fit" not in layers and "fits: about" in layers
    assert "--model.checkpointing layers" not in layers


def test_micro_batch_grows_with_checkpointing_up_to_65536_tokens() -> None:
    settings = dataclasses.replace(SETTINGS, max_length=512)
    shape = Shape(110_000_000, 12, 768, 3072, 12, 30_522, gated=False, dropout=True, fused=True, on_cpu=False)
    launch = Launch.read({}, T4)
    sizes = [
        spread(
            BatchConfig(1024),
            512,
            1,
            memory.most_rows(dataclasses.replace(settings, checkpointing=how), shape, launch),
        ).micro_size
        for how in ("none", "layers")
    ]
    assert sizes == [32, 128]


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


@pytest.mark.parametrize(("frozen", "ema", "each"), [(False, False, 16), (True, False, 16), (False, True, 20)])
def test_trial_takes_16_bytes_per_trained_parameter_and_leaves_no_gradients(frozen: bool, ema: bool, each: int) -> None:
    """Gradients, two moments, what a step adds, and an average; with one row of 8 tokens, activations are few."""
    from transformers import AutoModelForMaskedLM

    module = MaskedLanguageModel(AutoModelForMaskedLM.from_config(tiny("bert", layers=24)))
    module.model.get_input_embeddings().weight.requires_grad_(not frozen)
    objective = MaskedLM(Masker(MaskingConfig(), 0, 0, (0,), 1000))
    batch = batch_of(1, 1, 1, 1)
    with start(Launch.read({}), batch, 1.0) as engine, LiveTensors(module.parameters()) as live:
        settings = fit_memory.TrialSettings(ema=ema)
        fit_memory.fit_memory(engine, objective, module, batch, RandomRows(1000, 8), settings)
    needed = each * sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    assert needed <= live.peak < 1.05 * needed
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("make", "temporary"),
    [
        (lambda given: torch.optim.AdamW(given, fused=True), 0),
        (lambda given: torch.optim.AdamW(given, foreach=True), 4),
        (torch.optim.Muon, 1),
    ],
    ids=["fused AdamW", "foreach AdamW", "Muon"],
)
def test_step_of_an_optimizer_adds_at_most_4_bytes_per_parameter(make: Any, temporary: int) -> None:
    """What the memory trial assumes of torch, after the first step has made the moments."""
    parameters = [torch.nn.Parameter(torch.randn(64, 64)) for _ in range(16)]
    optimizer = make(parameters)
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    kept = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    with LiveTensors(
        [*parameters, *(parameter.grad for parameter in parameters if parameter.grad is not None), *kept]
    ) as live:
        optimizer.step()
    assert live.peak <= temporary * sum(parameter.numel() for parameter in parameters) + 1024


def test_out_of_memory_error_names_the_remedy() -> None:
    def run_out(batch: BatchSpec, checkpointing: str = "none") -> None:
        with fit_memory.explained([batch], checkpointing):
            torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(TrainingError, match=r"batch\.micro_size: out of memory with 8 rows.*--batch\.micro_size 4"):
        run_out(batch_of(16, 8, 2, 1))
    with pytest.raises(TrainingError, match=r"--model\.checkpointing layers, or shard the model with zero3"):
        run_out(batch_of(16, 1, 16, 1))
    with pytest.raises(TrainingError, match=r"--batch\.micro_size 4 or --model\.checkpointing layers: the run resumes"):
        run_out(batch_of(16, 8, 2, 1))
    with pytest.raises(TrainingError) as raised:
        run_out(batch_of(16, 8, 2, 1), "layers")
    assert "checkpointing" not in str(raised.value)
    with pytest.raises(RuntimeError, match="something else"), fit_memory.explained([batch_of(16, 8, 2, 1)]):
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
