"""What is known before a run: contradictions by name, memory against what is there, and the plan job's one screen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
import yaml
from launching import ROOT

from mlm_dist.batches.global_batch import BatchPlan, batch_plan
from mlm_dist.config import BatchConfig, Config, RowsConfig
from mlm_dist.engine import conflicts, memory, topology
from mlm_dist.engine.memory import Shape
from mlm_dist.engine.topology import Device
from mlm_dist.errors import ConfigError, TrainingError
from mlm_dist.faults import VARIABLE as FAULT
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.training import fit_memory

CONFIG = dataclasses.replace(Config(), batch=BatchConfig(64, 4))
H100 = Device("cuda", "H100", 8, 80 << 30, has_bf16=True)
T4 = Device("cuda", "Tesla T4", 1, 16 << 30, has_bf16=False)
CPU = Device("cpu", "CPU", 1, 16 << 30, has_bf16=True)
EIGHT = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}
ZERO = EIGHT | {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
FSDP = EIGHT | {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def check(
    environ: Mapping[str, str], device: Device = H100, settings: Mapping[str, Any] | None = None, folder: Path = ROOT
) -> None:
    """Check a launch with 64 rows per update, 4 at once, so that 8 processes accumulate 2."""
    if settings is not None:
        file = folder / "deepspeed.json"
        file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | dict(settings)), "utf-8")
        environ = {key: value for key, value in environ.items() if key != "ACCELERATE_DEEPSPEED_ZERO_STAGE"}
        environ = environ | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}
    launch = topology.read(environ, device)
    conflicts.check(CONFIG, batch_plan(CONFIG, launch.num_processes), launch, environ)


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
    "more processes than GPUs": (
        {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"},
        dataclasses.replace(H100, count=4),
        ("num_processes: 8", "--num_processes 4"),
    ),
    "dynamo": (EIGHT | {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, H100, ("dynamo_backend: INDUCTOR", "model.compile")),
    "megatron": (EIGHT | {"ACCELERATE_USE_MEGATRON_LM": "true"}, H100, ("distributed_type", "Megatron")),
    "FSDP on the CPU": (FSDP, CPU, ("FSDP", "needs GPUs", "cpu_2")),
    "FSDP 1": (FSDP | {"FSDP_VERSION": "1"}, H100, ("fsdp_version", "2")),
    "FSDP unties": (FSDP | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, H100, ("fsdp_cpu_ram_efficient_loading",)),
    "ZeRO off": (ZERO | {"ACCELERATE_USE_CPU": "true"}, CPU, ("use_cpu: true", "DeepSpeed off")),
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
def test_launch_that_contradicts_is_refused_by_name(name: str) -> None:
    environ, device, said = PLANTED[name]
    with pytest.raises(ConfigError) as caught:
        check(environ, device)
    assert all(words in str(caught.value) for words in said), str(caught.value)
    assert "\n" not in str(caught.value)


PLANTED_IN_JSON: dict[str, tuple[dict[str, Any], dict[str, str], tuple[str, ...]]] = {
    "micro-batch": ({"train_micro_batch_size_per_gpu": 16}, {}, ("train_micro_batch_size_per_gpu is 16", "4")),
    "batch": ({"train_batch_size": 16}, {}, ("train_batch_size is 16", "batch.global_size", "64")),
    "accumulation": ({"gradient_accumulation_steps": 4}, {}, ("gradient_accumulation_steps is 4", "2")),
    "clipping": ({"gradient_clipping": 2.0}, {}, ("gradient_clipping is 2.0", "optim.max_grad_norm", "auto")),
    "optimizer": ({"optimizer": {"type": "Lamb"}}, {}, ("section optimizer", "optim.name")),
    "scheduler": ({"scheduler": {"type": "WarmupLR"}}, {}, ("section scheduler", "optim.schedule")),
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
    "said twice": (
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
def test_deepspeed_json_that_contradicts_is_refused_by_name(name: str, tmp_path: Path) -> None:
    settings, environ, said = PLANTED_IN_JSON[name]
    with pytest.raises(ConfigError) as caught:
        check(ZERO | environ, settings=settings, folder=tmp_path)
    assert all(words in str(caught.value) for words in said), str(caught.value)
    assert "\n" not in str(caught.value)


PLANTED_IN_FILE: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "one process for several": ({"distributed_type": "NO"}, {"num_processes": 4}, ("num_processes: 4", "MULTI_GPU")),
    "ZeRO on use_cpu": ({"distributed_type": "DEEPSPEED", "use_cpu": True}, {}, ("use_cpu: true", "DeepSpeed off")),
    "FSDP on use_cpu": ({"distributed_type": "FSDP", "use_cpu": True}, {}, ("use_cpu: true", "FSDP")),
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
def test_accelerate_file_that_contradicts_itself_is_refused_by_name(name: str) -> None:
    settings, flags, said = PLANTED_IN_FILE[name]
    with pytest.raises(ConfigError) as caught:
        conflicts.check_file("mine.yaml", settings, flags)
    assert all(words in str(caught.value) for words in ("mine.yaml", *said)), str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_accelerate_files_contradict_nothing(path: Path) -> None:
    conflicts.check_file(path.stem, yaml.safe_load(path.read_text("utf-8")), {})


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "deepspeed").glob("*.json")), ids=lambda path: path.stem)
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_packaged_deepspeed_files_contradict_nothing(path: Path, precision: str, tmp_path: Path) -> None:
    settings = json.loads(path.read_text("utf-8"))
    check(ZERO | {"ACCELERATE_MIXED_PRECISION": precision}, settings=settings, folder=tmp_path)


def test_what_agrees_is_accepted(tmp_path: Path) -> None:
    """The same quantity said twice with one value, and weights that DeepSpeed would not gather: we gather them."""
    check(ZERO | {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2", "ACCELERATE_GRADIENT_CLIPPING": "1.0"})
    check(ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "false"})
    check(ZERO, settings={"train_batch_size": 64, "train_micro_batch_size_per_gpu": 4}, folder=tmp_path)
    check(FSDP)


def test_topology_is_read_from_the_launch(tmp_path: Path) -> None:
    environ = ZERO | {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
    found = topology.read(environ, H100)
    assert found.describe() == "8 processes on cuda, ZeRO-2, optimizer offloaded to the host, precision bf16"
    assert topology.read({}, CPU).describe() == "1 process on cpu, no sharding, precision fp32"
    assert topology.read(EIGHT, H100).describe() == "8 processes on cuda, DDP, precision fp32"
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"fp16": {"enabled": True}, "zero_optimization": {"stage": 3}}), "utf-8")
    found = topology.read(ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}, H100)
    assert (found.stage, found.precision) == (3, "fp16")
    file.write_text("{", "utf-8")
    with pytest.raises(ConfigError, match="deepspeed_config_file: cannot read"):
        topology.read(ZERO | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(file)}, H100)


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_states_are_those_of_the_zero_paper(stage: int, gigabytes: float) -> None:
    """7.5 billion parameters on 64 GPUs: figure 1 of https://arxiv.org/abs/1910.02054."""
    shape = Shape(7_500_000_000, 36, 4096, 16384, 32, 30_522, gated=False, dropout=False, fused=True, on_cpu=False)
    settings = {"zero_optimization": {"reduce_bucket_size": 0}}
    launch = topology.Topology(64, 8, H100, "bf16", "zero", stage, deepspeed=settings)
    weights, gradients, moments, host = memory.states(Config(), shape, launch)
    assert (weights + gradients + moments) / 1e9 == pytest.approx(gigabytes, abs=0.06)
    assert host == 0
    offloaded = memory.states(Config(), shape, dataclasses.replace(launch, offload=frozenset({"optimizer"})))
    assert sum(offloaded[:3]) < weights + gradients + moments
    assert sum(offloaded) == weights + gradients + moments


def test_plain_states_are_what_adamw_allocates() -> None:
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 1000)).sum().backward()
    optimizer.step()
    tensors = [model.weight, model.weight.grad, *optimizer.state[model.weight].values()]
    allocated = sum(t.numel() * t.element_size() for t in tensors if t is not None and t.ndim)
    shape = Shape(1_000_000, 1, 1000, 1000, 1, 1000, gated=False, dropout=False, fused=True, on_cpu=False)
    assert sum(memory.states(Config(), shape, topology.read({}, CPU))) == allocated


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", pytest.param("modernbert", marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_a_forward_pass_keeps(name: str, precision: str) -> None:
    """Every storage that autograd keeps is counted once; the formula adds a layer and the head's gradients."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = Config()
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
    estimated = memory.activations(config, shape, precision, 8)
    assert measured < estimated < 1.2 * measured, (measured, estimated)
    del graph


def test_micro_batch_is_the_largest_that_fits() -> None:
    config = dataclasses.replace(Config(), batch=BatchConfig(96), rows=RowsConfig(max_length=512))
    shape = Shape(110_000_000, 12, 768, 3072, 12, 30_522, gated=False, dropout=True, fused=True, on_cpu=False)
    for gigabytes in (3, 4, 6, 8, 16):
        launch = topology.read({}, dataclasses.replace(T4, memory=gigabytes << 30))
        plan = batch_plan(config, 1, memory.most_rows(config, shape, launch))
        there = memory.available(launch)
        larger = next((size for size in range(plan.micro_size + 1, 97) if 96 % size == 0), None)
        fits = memory.estimate(config, shape, launch, plan.micro_size).total <= there
        assert fits or plan.micro_size == 1
        assert larger is None or memory.estimate(config, shape, launch, larger).total > there
        assert plan.micro_size * plan.accumulation == 96
    sizes = [
        memory.most_rows(config, shape, topology.read({}, dataclasses.replace(T4, memory=n << 30))) for n in (1, 80)
    ]
    assert sizes[0] == 1
    assert sizes[1] > 96
    assert batch_plan(dataclasses.replace(config, batch=BatchConfig(96, 48)), 1, 1).micro_size == 48, (
        "what is asked for"
    )


def test_memory_that_runs_out_later_comes_with_its_remedy() -> None:
    def run_out(plan: BatchPlan) -> None:
        with fit_memory.explained(plan):
            torch.empty(1 << 60, dtype=torch.uint8)

    with pytest.raises(TrainingError, match=r"batch\.micro_size: out of memory with 8 rows.*--batch\.micro_size 4"):
        run_out(BatchPlan(16, 8, 2, 1))
    with pytest.raises(TrainingError, match="zero3"):
        run_out(BatchPlan(16, 1, 16, 1))
    with pytest.raises(RuntimeError, match="something else"), fit_memory.explained(BatchPlan(16, 8, 2, 1)):
        raise RuntimeError("something else")


def train(folder: Path, cache: Path, launch: Callable[..., launching.Ended], **environ: str) -> tuple[list[Any], str]:
    """A short run; its losses and all it printed."""
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


def two(*arguments: str, **options: Any) -> launching.Ended:
    """A launch of two processes."""
    return launching.accelerate("cpu_2", *arguments, **options)


def test_too_large_a_micro_batch_is_halved_and_the_losses_stay(tmp_path: Path, prepared_cache: Path) -> None:
    """Only the second process runs out of memory, and both go on alike."""
    expected, printed = train(tmp_path / "plain", prepared_cache, launching.python)
    assert "16 x 1 x 1 = 16" in printed
    found, printed = train(tmp_path / "two", prepared_cache, two, **{FAULT: "memory@8@1"})
    assert "out of memory with 8 rows per forward pass; going on with 4 x 2 x 2 = 16" in printed
    assert found == pytest.approx(expected, abs=1e-4)


def test_plan_is_one_screen_and_touches_nothing(tmp_path: Path, prepared_cache: Path) -> None:
    common = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", *launching.TINY)
    ended = launching.python("plan.py", *common)
    assert ended.returncode == 0, ended.output
    manifest = json.loads(next(prepared_cache.glob("*/manifest.json")).read_text("utf-8"))
    said = " ".join(ended.stdout.split())
    assert f"{manifest['rows']['train']:,} rows" in said
    for part in ("1 process on cpu, no sharding, precision fp32", "16 x 1 x 1 = 16", "s per update", "fits"):
        assert part in said, ended.stdout
    assert len(ended.stdout.splitlines()) < 25
    assert not (tmp_path / "run").exists()
    assert ended.stderr == ""


def test_plan_under_a_launcher_talks_once_and_meets_nobody(tmp_path: Path, prepared_cache: Path) -> None:
    """The second process is gone before the first has looked around: a process group would wait for it."""
    ended = two(
        "plan.py",
        *(f"--corpus.cache_dir={prepared_cache}", "--corpus.source=https://127.0.0.1:9/none.git", *launching.TINY),
        timeout=120,
    )
    assert ended.returncode == 0, ended.output
    assert ended.stdout.count("Plan of") == 1
    assert "2 processes on cpu, DDP" in ended.stdout
    assert "8 x 1 x 2 = 16" in ended.stdout
    assert "unknown until the corpus is prepared" in ended.stdout


def test_plan_guesses_the_rows_of_files_that_are_here(tmp_path: Path, folder: Path) -> None:
    ended = launching.python(
        "plan.py", f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path / 'cache'}", *launching.TINY
    )
    assert ended.returncode == 0, ended.output
    assert "guessed from" in ended.stdout
