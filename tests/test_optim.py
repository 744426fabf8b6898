"""Optimizers, schedules, a duration in hours, learning rates by layer, and frozen embeddings."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launching
import pytest
import specs
import torch
from models import architecture, build, optim_spec, rate_spec
from specs import ONE_PROCESS, cpu_engine
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from mlm_dist.batches.global_batch import spread
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch
from mlm_dist.checkpoint import format, same_run
from mlm_dist.checkpoint.restore import restore
from mlm_dist.checkpoint.save import Checkpoints
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.config import BatchConfig, MaskingConfig, parse
from mlm_dist.engine import conflicts, memory
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import CheckpointError, ConfigError, ModelError
from mlm_dist.model.layers import depths, encoder_layers
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.optim import optimizers
from mlm_dist.optim.combined import CombinedOptimizer
from mlm_dist.optim.kind import OptimizerKind, StateLayout
from mlm_dist.optim.optimizers import OPTIMIZERS, build_optimizer, set_step
from mlm_dist.optim.schedule import WSD_DECAY_FRACTION, default_lr, learning_rate, warmup_steps
from mlm_dist.spec import CheckpointSpec
from mlm_dist.training.phase_length import UNKNOWN, PhaseLength
from mlm_dist.training.step import StepResult, train_step

NAMES = ("adamw", "stableadamw", "muon")
OBJECTIVE = MaskedLM(Masker(MaskingConfig(), 0, 4, (0, 1, 2, 3, 4), 120))
SMALL: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# {architecture: (fields of its configuration, its number of layers)}
ARCHITECTURES: dict[str, tuple[dict[str, Any], int]] = {
    "bert": ({}, 3),
    "roberta": ({}, 3),
    "distilbert": ({"dim": 32, "hidden_dim": 48, "n_layers": 3, "n_heads": 2}, 3),
    "albert": ({"embedding_size": 16}, 1),
    "electra": ({"embedding_size": 16}, 3),
    "modernbert": (dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id"), 0), 3),
    "deberta-v2": ({"relative_attention": True, "pos_att_type": ["c2p"]}, 3),
    "esm": ({"pad_token_id": 1, "mask_token_id": 4}, 3),
    "xlm": ({"emb_dim": 32, "n_layers": 3, "n_heads": 2, "n_words": 120}, 3),
}


def model_of(name: str = "bert", seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(CONFIG_MAPPING[name](**SMALL | ARCHITECTURES[name][0] | changes))


def batch_of(number: int) -> MicroBatch:
    """A micro-batch that is a function of its number."""
    generator = torch.Generator().manual_seed(number)
    input_ids = torch.randint(5, 120, (4, 16), generator=generator)
    positions = torch.tensor([1, 7, 20, 47])
    labels = input_ids.flatten()[positions]
    return MicroBatch(input_ids, None, positions, labels, None, None, num_predicted=4, num_tokens=64)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with cpu_engine(max_grad_norm=1.0) as started:
        yield started


class Training:
    """A small model and its optimizer, which is set up if there is an engine."""

    def __init__(
        self, name: str, engine: Engine | None = None, seed: int = 0, saved: Path | None = None, **changes: Any
    ) -> None:
        values: dict[str, Any] = {"name": name, "weight_decay": 0.1} | changes
        self.spec = optim_spec(**values)
        self.core = MaskedLanguageModel(model_of(seed=seed))
        self.optimizer = build_optimizer(self.core, self.spec)
        self.engine = engine
        set_step(self.optimizer, 0, 1e-3)
        if engine is not None:
            restore(saved, engine, self.core, self.optimizer, [specs.phase("1 hours").batch], lambda: torch.zeros(()))

    def train(self, number: int) -> StepResult:
        """One training step on a batch that is a function of its number."""
        assert self.engine is not None
        return train_step(self.engine, OBJECTIVE, [batch_of(number)], 1e-3, number)

    def step_along(self, *sizes: float) -> None:
        """One step for each size, along random gradients of that size for all weights."""
        generator = torch.Generator().manual_seed(0)
        for size in sizes:
            for parameter in self.core.parameters():
                parameter.grad = size * torch.randn(parameter.shape, generator=generator)
            self.optimizer.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.core.named_parameters()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --- layers ---


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_depths_of_any_architecture(name: str) -> None:
    model, num_layers = model_of(name), ARCHITECTURES[name][1]
    found = depths(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert set(found.values()) == set(range(num_layers + 2))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert found[names[id(model.get_input_embeddings().weight)]] == 0
    assert found[names[id(model.get_output_embeddings().weight)]] == 0, "the output matrix is tied"
    assert all(found[each] == 0 for each in found if "rel_embeddings" in each or "position_embeddings" in each)
    for each, depth in found.items():
        numbers = [int(part) for part in each.split(".") if part.isdigit()]
        assert not numbers or depth == numbers[0] + 1, each
    heads = [each for each in found if each.startswith(("cls.", "lm_head.", "head.", "predictions.", "vocab_"))]
    assert all(found[each] == num_layers + 1 for each in heads)


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_encoder_layers_of_any_architecture(name: str) -> None:
    """In order, without overlaps, and each with parameters of one depth only."""
    model, num_layers = model_of(name), ARCHITECTURES[name][1]
    layers, depth = encoder_layers(model), depths(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [{depth[names[id(parameter)]] for parameter in layer.parameters()} for layer in layers]
    per_layer = 2 if name == "xlm" else 1  # attention and feed-forward network
    assert found == [{i + 1} for i in range(num_layers) for _ in range(per_layer)]
    matrices = [id(parameter) for layer in layers for parameter in layer.parameters() if parameter.ndim > 1]
    assert len(matrices) == len(set(matrices))
    tables = {name for name in depth if "rel_embeddings" in name or "embedding" in name}
    inside = {names[each] for each in matrices}
    assert all(0 < depth[name] <= num_layers for name in inside) and not inside & tables


def test_model_without_layers_is_refused() -> None:
    class Flat(torch.nn.Linear):
        config = CONFIG_MAPPING["bert"]()

        @property
        def base_model(self) -> Any:
            return self

    with pytest.raises(ModelError, match=r"a bert model; set optim\.layer_lr_decay to 1\.0"):
        depths(Flat(2, 2))
    assert encoder_layers(Flat(2, 2)) == []


# --- groups ---


def test_default_optimizer_has_two_groups() -> None:
    core = MaskedLanguageModel(model_of())
    optimizer = build_optimizer(core, optim_spec())
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["fused"]
    matrices, vectors = optimizer.param_groups
    assert matrices["params"] == [parameter for parameter in core.parameters() if parameter.ndim > 1]
    assert vectors["params"] == [parameter for parameter in core.parameters() if parameter.ndim <= 1]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.01, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_each_layer_has_its_learning_rate(name: str) -> None:
    """The first step of AdamW moves each weight by the learning rate."""
    run = Training(name, layer_lr_decay=0.5, weight_decay=0.0, eps=1e-12)
    set_step(run.optimizer, 0, 1e-3)
    before, depth = run.weights(), depths(run.core.model)
    run.step_along(1.0)
    for each, after in run.weights().items():
        at = depth[each.removeprefix("model.")]
        moved = (after - before[each]).abs()
        if ".layer." in each and after.ndim == 2 and name == "muon":
            assert 0.5 < moved.square().mean().sqrt() / (0.2e-3 * 0.5 ** (4 - at)) < 1.5, each
        else:
            assert moved.max() == pytest.approx(1e-3 * 0.5 ** (4 - at), rel=2e-3), each


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_acts_on_matrices_only(name: str) -> None:
    run = Training(name)
    before = run.weights()
    for parameter in run.core.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run.optimizer.step()
    for each, after in run.weights().items():
        expected = before[each] * (1 - 1e-4 if after.ndim > 1 else 1)
        assert torch.allclose(after, expected, rtol=1e-6, atol=0), each


def test_muon_updates_the_matrices_of_hidden_layers() -> None:
    core = MaskedLanguageModel(model_of())
    optimizer = build_optimizer(core, optim_spec(name="muon"))
    names = {id(parameter): name for name, parameter in core.named_parameters()}
    kept = {
        names[id(parameter)]: optimizers.state_layout(group).moments
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert kept.keys() == set(names.values())
    for name, parameter in core.named_parameters():
        hidden = ".layer." in name and parameter.ndim == 2
        assert kept[name] == (("momentum_buffer",) if hidden else ("exp_avg", "exp_avg_sq")), name


def test_muon_orthogonalizes_steps() -> None:
    run = Training("muon", weight_decay=0.0)
    before = run.weights()
    run.step_along(1.0)
    name = "model.bert.encoder.layer.0.attention.self.query.weight"
    sizes = torch.linalg.svdvals(run.weights()[name] - before[name])
    assert sizes.min() > 0.2 * sizes.max(), "singular values of a random matrix differ by a factor of a hundred"


@pytest.mark.slow
def test_stableadamw_shortens_steps_along_unexpected_gradients() -> None:
    moved = {}
    for name in ("adamw", "stableadamw"):
        run = Training(name, weight_decay=0.0, betas=(0.0, 0.99))
        run.step_along(*20 * [1e-3])
        before = run.weights()
        run.step_along(1.0)
        moved[name] = (run.weights()["model.cls.predictions.bias"] - before["model.cls.predictions.bias"]).abs().mean()
    assert moved["stableadamw"] < 0.5 * moved["adamw"]


# --- the registry ---


def test_unknown_optimizer_is_refused() -> None:
    optimizers.check_name("muon")
    expected = r"^optim\.name: lion is not an optimizer; choose from adamw, stableadamw, muon$"
    with pytest.raises(ConfigError, match=expected):
        optimizers.check_name("lion")


def test_one_entry_adds_an_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets layer-wise learning rates, weight decay on matrices, and skips non-finite steps."""
    sgd = OptimizerKind(
        make=lambda groups, spec: torch.optim.SGD(groups, lr=0.0, momentum=0.9),
        layout=StateLayout(("momentum_buffer",), "none"),
    )
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))
    OPTIMIZERS.add("sgd", sgd)
    optimizers.check_name("sgd")
    run = Training("sgd", layer_lr_decay=0.5)
    assert optimizers.moment_bytes("sgd", 100, 40) == 400
    assert [group["lr"] for group in run.optimizer.param_groups[::2]] == [1e-3 * 0.5**k for k in range(4, -1, -1)]
    assert isinstance(run.optimizer, CombinedOptimizer)
    run.step_along(1.0)
    before = run.weights()
    run.optimizer.found_inf = torch.ones(())
    run.step_along(1.0)
    assert same(run.weights(), before)
    run.optimizer.found_inf = torch.zeros(())
    run.step_along(1.0)
    assert not same(run.weights(), before)


# --- skipped steps, checkpoints, memory and sharding ---


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_non_finite_step_is_skipped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments and step counts are those of a run without it."""
    with cpu_engine(max_grad_norm=1.0) as engine:
        whole = Training(name, engine)
        for number in range(3):
            whole.train(number)
        expected = whole.weights()
    with cpu_engine(max_grad_norm=1.0) as engine:
        broken = Training(name, engine)
        broken.train(0)
        monkeypatch.setenv("MLM_DIST_FAULT", "nan@1")
        assert int(broken.train(1).skipped) == 1
        monkeypatch.delenv("MLM_DIST_FAULT")
        for number in (1, 2):
            assert int(broken.train(number).skipped) == 0
        assert same(broken.weights(), expected)


@pytest.mark.parametrize("name", [*NAMES[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_moments_survive_a_checkpoint(name: str, tmp_path: Path) -> None:
    with cpu_engine(max_grad_norm=1.0) as engine:
        whole = Training(name, engine)
        for number in range(2):
            whole.train(number)
        identity, batch = {"seed": 0, "phases": [{}]}, specs.phase("1 hours").batch
        checkpoints = Checkpoints(tmp_path, CheckpointSpec(None, 1, False, "auto"), identity, [batch])
        checkpoints.save(engine, dataclasses.replace(TrainState.new(engine.device), step=2))
        checkpoints.finish(engine)
        for number in range(2, 4):
            whole.train(number)
        expected = whole.weights()
    with cpu_engine(max_grad_norm=1.0) as engine:
        resumed = Training(name, engine, seed=1, saved=tmp_path / "step-00000002")
        for number in range(2, 4):
            resumed.train(number)
        assert same(resumed.weights(), expected)


@pytest.mark.parametrize("name", NAMES)
def test_estimated_memory_equals_the_optimizers_allocation(name: str) -> None:
    run = Training(name)
    run.step_along(1.0)
    kept = run.optimizer.state.items()
    allocated = sum(
        4 * value.numel()
        for parameter, state in kept
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape and value.ndim
    )
    settings = memory.Settings(128, 0.15, name, freeze_embeddings=False)
    moments = memory.states(settings, memory.shape_of(run.core.model.config), ONE_PROCESS)[2]
    assert moments == allocated
    frozen = dataclasses.replace(settings, freeze_embeddings=True)
    saved = memory.states(frozen, memory.shape_of(run.core.model.config), ONE_PROCESS)[2] - moments
    assert saved == -4 * 120 * 32 * 2


def test_checkpoint_of_another_optimizer_is_refused(tmp_path: Path) -> None:
    identity: dict[str, object] = {"seed": 0, "optim.name": "adamw", "model.freeze_embeddings": False, "phases": [{}]}
    format.write_state(tmp_path, TrainState.new(torch.device("cpu")).to_json(), identity, 4)
    same_run.require_same(tmp_path, identity, [specs.phase("1 hours")])
    for key, value in (("optim.name", "muon"), ("model.freeze_embeddings", True)):
        with pytest.raises(CheckpointError, match=f"{key}: .* was made with .* now it is {value}"):
            same_run.require_same(tmp_path, identity | {key: value}, [specs.phase("1 hours")])


CUDA = Device("cuda", "H100", 8, 80 << 30, True)
REFUSED = {
    ("muon", "zero"): ("optim.name: muon", "ZeRO", "use adamw", "fsdp2.yaml"),
    ("stableadamw", "zero"): ("optim.name: stableadamw", "ZeRO", "use adamw", "fsdp2.yaml"),
}


@pytest.mark.parametrize("sharding", ["none", "ddp", "zero", "fsdp2"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_is_refused_for_optimizers_of_whole_tensors(name: str, sharding: str) -> None:
    run = conflicts.RunSettings(spread(BatchConfig(16), 128, 8), name, 1.0, "none")
    stage = 2 if sharding == "zero" else 0
    launch = Launch(8, 8, CUDA, precision="bf16", sharding=sharding, stage=stage)
    environ = {"FSDP_VERSION": "2"}
    expected = REFUSED.get((name, sharding))
    if expected is None:
        conflicts.check(run, launch, environ)
        return
    with pytest.raises(ConfigError) as caught:
        conflicts.check(run, launch, environ)
    assert all(words in str(caught.value) for words in expected)


def test_missing_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))
    OPTIMIZERS.add("other", dataclasses.replace(OPTIMIZERS["adamw"], package="no_such_package"))
    run = conflicts.RunSettings(spread(BatchConfig(16), 128, 1), "other", 1.0, "none")
    with pytest.raises(ConfigError, match=r"optim\.name: other needs no_such_package.*'mlm_dist\[optimizers\]'"):
        conflicts.check(run, Launch(1, 1, CUDA), {})


# --- schedules ---


def test_wsd_falls_as_one_minus_the_square_root() -> None:
    spec, steps = rate_spec(schedule="wsd", warmup=10, lr=2.0), 110
    rates = [learning_rate(step, spec, steps) for step in range(steps)]
    begin = steps - round(WSD_DECAY_FRACTION * 100)
    assert rates[10 : begin + 1] == pytest.approx([2.0] * (begin - 9))
    for step in range(begin, steps):
        assert rates[step] == pytest.approx(2.0 * (1 - math.sqrt((step - begin) / 20)))
    assert learning_rate(steps, spec, steps) == 0.0


def test_default_learning_rate() -> None:
    assert default_lr(from_scratch=False, hidden_size=128) == 5e-5
    assert default_lr(from_scratch=True, hidden_size=128) == pytest.approx(3e-3)
    assert default_lr(from_scratch=True, hidden_size=768) == pytest.approx(5e-4)


def test_warmup_is_a_number_or_a_fraction_of_steps() -> None:
    assert [warmup_steps(warmup, 50) for warmup in (0.0, 0.06, 0.1, 1, 7, 99)] == [0, 3, 5, 1, 7, 50]
    rates = [learning_rate(step, rate_spec(schedule="constant", warmup=3, lr=4.0), 50) for step in range(5)]
    assert rates == [1.0, 2.0, 3.0, 4.0, 4.0]


NEW = TrainState.new(torch.device("cpu"))


def simulate(
    duration: str, state: TrainState, speed: Any, until: float = math.inf, schedule: str = "linear"
) -> tuple[TrainState, list[float]]:
    """A run on a machine whose steps take `speed(seconds)` each: its last state, and its learning rates."""
    phase = specs.phase(duration, rate=rate_spec(lr=1.0, schedule=schedule))
    length = PhaseLength(phase, 10, state, is_main=False)
    step, seconds, rates, zero = state.step, state.seconds, [], torch.zeros(())
    while step < length.steps and seconds < until:
        rates.append(learning_rate(step, phase.rate, length.steps))
        clock = torch.tensor(round(1000 * seconds))
        seconds += speed(seconds)
        step += 1
        length.observe(step, StepResult(zero, zero, zero, zero, zero, zero, clock))
    return dataclasses.replace(state, step=step, seconds=seconds, estimate=length.estimate), rates


SPEEDS: dict[str, Any] = {
    "steady": lambda seconds: 0.1,
    "slow at first": lambda seconds: 0.1 if seconds else 40.0,
    "twice as fast from the middle on": lambda seconds: 0.2 if seconds < 1800 else 0.1,
    "three times slower from the middle on": lambda seconds: 0.1 if seconds < 1800 else 0.3,
    "slow steps": lambda seconds: 4.0,
}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
@pytest.mark.parametrize("name", list(SPEEDS))
def test_duration_in_hours_is_kept_at_any_speed(name: str, schedule: str) -> None:
    ended, rates = simulate("1 hours", NEW, SPEEDS[name], schedule=schedule)
    assert ended.seconds == pytest.approx(3600, rel=0.02)
    assert ended.estimate == (1.0, ended.step)
    assert max(rates) == pytest.approx(1.0, rel=0.01), "warm-up was never over"
    assert rates[-1] < 0.03 and max(rates[-20:]) < 0.3
    assert rates.index(max(rates)) < 0.2 * len(rates)


def test_duration_in_hours_continues_after_a_resume() -> None:
    half, rates = simulate("1 hours", NEW, SPEEDS["steady"], until=1800)
    assert half.estimate is not None and half.estimate[1] == pytest.approx(36_000, rel=0.01)
    ended, more = simulate("1 hours", half, lambda seconds: 0.4)
    assert ended.seconds == pytest.approx(3600, rel=0.02)
    assert more[0] == pytest.approx(rates[-1], rel=0.01), "the recorded estimate is not used until there is a newer one"
    assert more[-1] < 0.03
    assert simulate("1 hours", ended, SPEEDS["steady"]) == (ended, []), "the run is finished"
    longer, _ = simulate("2 hours", ended, SPEEDS["steady"])
    assert longer.seconds == pytest.approx(7200, rel=0.02)


def test_number_of_steps_is_not_estimated_if_it_is_given() -> None:
    ended, rates = simulate("50 steps", NEW, SPEEDS["slow steps"])
    assert (ended.step, ended.estimate, len(rates)) == (50, None, 50)
    assert rates == [learning_rate(step, rate_spec(lr=1.0), 50) for step in range(50)]


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (("--optim.duration=0 hours",), "optim.duration"),
        (("--optim.duration=1.5 steps",), "optim.duration"),
        (("--optim.layer_lr_decay=0",), "optim.layer_lr_decay"),
        (("--optim.layer_lr_decay=1.1",), "optim.layer_lr_decay"),
        (("--model.freeze_embeddings=true", "--tokenizer.add_domain_tokens=5"), "model.freeze_embeddings"),
    ],
)
def test_impossible_values_are_refused(flags: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        parse(flags)


@pytest.mark.slow
def test_duration_in_hours_ends_in_time_at_a_learning_rate_of_zero(tmp_path: Path, prepared_cache: Path) -> None:
    """Every learning rate is a function of the step and the estimate in the line before."""
    run = tmp_path / "run"
    flags = (
        *(f"--corpus.cache_dir={prepared_cache}", f"--output_dir={run}", "--logging.every=1", *launching.TINY),
        *("--optim.duration=0.0006 hours", "--optim.schedule=wsd", "--batch.global_size=8", "--validation.every=null"),
    )
    ended = launching.python("train.py", *flags)
    assert ended.returncode == 0, ended.output
    lines, start = launching.metrics(run, "train"), launching.metrics(run, "start")[0]
    spec = rate_spec(parse(flags).optim, lr=start["peak_learning_rate"])
    known = UNKNOWN
    for line in lines:
        assert line["learning_rate"] == learning_rate(line["step"] - 1, spec, known)
        known = line["steps"] or UNKNOWN
    assert [line["step"] for line in lines] == list(range(1, known + 1))
    assert lines[-1]["hours"] > lines[0]["hours"]
    assert launching.metrics(run, "end")[0]["step"] == known
    state = json.loads((run / "checkpoints" / f"step-{known:08d}" / "state.json").read_text("utf-8"))
    assert state["estimate"] == [0.0006, known]
    assert state["seconds"] >= 3600 * lines[-1]["hours"] - 1
    again = launching.python("train.py", *flags)
    assert again.returncode == 0, again.output
    assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, known + 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpu_2", "zero2", "fsdp2_cpu"])
def test_processes_agree_on_the_last_step(tmp_path: Path, prepared_cache: Path, kind: str) -> None:
    """Otherwise one would wait for the other forever."""
    flags = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", *launching.TINY)
    ended = launching.accelerate(
        kind, "train.py", "--optim.duration=0.002 hours", *flags, launch=("--num_processes=2", "--mixed_precision=no")
    )
    assert ended.returncode == 0, ended.output
    assert launching.metrics(tmp_path / "run", "train")[-1]["steps"] > 4


# --- frozen embeddings ---


@pytest.mark.parametrize("name", ["bert", "roberta", "electra", "modernbert"])
def test_frozen_embeddings_freeze_the_tied_output(name: str, tmp_path: Path) -> None:
    model_of(name).save_pretrained(tmp_path)
    flags = (f"--model.name_or_path={tmp_path}", "--rows.max_length=32")
    plain, config = parse(flags), parse([*flags, "--model.freeze_embeddings=true"])
    assert all(parameter.requires_grad for parameter in build(plain, architecture(plain)).parameters())
    frozen = build(config, architecture(config))
    table = frozen.get_input_embeddings().weight
    assert table is frozen.get_output_embeddings().weight
    assert [parameter for parameter in frozen.parameters() if not parameter.requires_grad] == [table]
    optimizer = build_optimizer(MaskedLanguageModel(frozen), optim_spec())
    updated = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert not any(parameter is table for parameter in updated)
    assert len(updated) == len(list(frozen.parameters())) - 1
