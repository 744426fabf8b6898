"""Averaged weights: an exponential moving average kept by the optimizer, and the mean of the last checkpoints."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from safetensors.torch import load_file, save_file
from specs import ONE_PROCESS, cpu_engine, phase
from test_checkpoint import Net, Run
from test_optim import NAMES, OBJECTIVE, Training, batch_of
from torch import nn
from transformers import AutoModelForMaskedLM

from mlm_dist import export, validate
from mlm_dist.checkpoint import find
from mlm_dist.checkpoint.save import Checkpoints, size_of_checkpoint
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import Config, ExportConfig, OptimConfig, parse
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.optim import optimizers
from mlm_dist.optim.ema import ExponentialAverage, decay_of
from mlm_dist.pages.formats import number
from mlm_dist.pages.record import read_record
from mlm_dist.pages.status import status
from mlm_dist.pages.validation_tables import over_the_run
from mlm_dist.resolve import resolve
from mlm_dist.spec import CheckpointSpec
from mlm_dist.training.step import train_step

DECAY = 0.5
# A small model and a quick run that saves every step; the average of it is checked against its checkpoints.
EVERY_STEP = (
    *("--optim.duration=6 steps", "--batch.global_size=8", "--logging.every=1", "--validation.every=null"),
    *("--validation.max_rows=16", "--checkpoint.every=1", "--checkpoint.keep_last=10", "--optim.lr=0.01"),
    *("--model.overrides={hidden_size: 32, intermediate_size: 48}", f"--optim.ema_decay={DECAY}"),
    *("--export.average=3", *launching.TINY),
)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with cpu_engine(max_grad_norm=1.0) as started:
        yield started


def average_of(run: Training) -> dict[str, torch.Tensor]:
    """The average of each parameter in an optimizer's state."""
    return {name: run.optimizer.state[parameter]["ema"] for name, parameter in run.core.named_parameters()}


# --- the exponential moving average ---


def test_decay_rises_to_its_value() -> None:
    """As TensorFlow's does, so that the initial weights do not stay in the average."""
    assert [decay_of(step, 0.999) for step in (0, 1, 8)] == [2 / 11, 3 / 12, 10 / 19]
    assert decay_of(0, 0.1) == 0.1 and decay_of(10**5, 0.999) == 0.999


@pytest.mark.parametrize("name", NAMES)
def test_average_follows_the_weights_of_any_optimizer(name: str) -> None:
    run = Training(name, ema_decay=DECAY)
    expected = {each: value.double() for each, value in run.weights().items()}
    for step in range(8):
        optimizers.set_step(run.optimizer, step, 1e-2)
        run.step_along(1.0)
        for each, value in run.weights().items():
            decay = min(DECAY, (2 + step) / (11 + step))
            expected[each] = decay * expected[each] + (1 - decay) * value.double()
    for each, value in average_of(run).items():
        assert value.dtype == torch.float32
        assert torch.allclose(value.double(), expected[each], rtol=0, atol=1e-6), each
        assert not torch.allclose(value, run.weights()[each], rtol=0, atol=1e-6), each


@pytest.mark.parametrize("name", NAMES)
def test_average_does_not_change_training(name: str) -> None:
    plain, averaged = Training(name), Training(name, ema_decay=DECAY)
    for run in (plain, averaged):
        run.step_along(1.0, 0.1)
    theirs = averaged.weights()
    assert all(torch.equal(value, theirs[each]) for each, value in plain.weights().items())


@pytest.mark.parametrize("name", NAMES)
def test_skipped_step_leaves_the_average(name: str) -> None:
    """A first step too: the average begins as the initial weights at the first step that is taken."""
    run, other = Training(name, ema_decay=DECAY), Training(name, ema_decay=DECAY)
    skip: Any = run.optimizer
    skip.found_inf = torch.ones(())
    run.step_along(1.0)
    skip.found_inf = torch.zeros(())
    for each in (run, other):
        each.step_along(1.0)
    assert all(torch.equal(value, average_of(other)[each]) for each, value in average_of(run).items())
    before = {each: value.clone() for each, value in average_of(run).items()}
    skip.found_inf = torch.ones(())
    run.step_along(1.0)
    assert all(torch.equal(value, before[each]) for each, value in average_of(run).items())


def test_average_before_the_first_step_is_the_weights(engine: Engine) -> None:
    run = Training("adamw", engine, ema_decay=DECAY)
    weights = run.weights()
    found = dict(engine.moments("ema"))
    assert found.keys() == {f"ema/{name}" for name in weights}
    for name, value in weights.items():
        average = found[f"ema/{name}"]
        assert average is not None and torch.equal(average, value)


def test_average_of_a_parameter_without_a_gradient_is_that_parameter(engine: Engine) -> None:
    class WithPooler(Net):
        def __init__(self) -> None:
            super().__init__()
            self.pooler = nn.Linear(2, 2)

    module = WithPooler()
    group = {"params": [*module.parameters()], "lr_factor": 1.0, "frozen_in": ()}
    group |= {"layout": optimizers.OPTIMIZERS["adamw"].layout}
    optimizer = torch.optim.AdamW([group], lr=0.1, fused=True)
    ExponentialAverage(optimizer, DECAY)
    engine.setup(module, optimizer)
    engine.begin_step(0, 0.1, 1)
    with engine.micro_batch():
        engine.backward(engine.model(torch.ones(4, 5)))
    engine.finish_step()
    found = dict(engine.moments())
    average, exp_avg = found["ema/pooler.weight"], found["exp_avg/pooler.weight"]
    assert average is not None and torch.equal(average, module.pooler.weight)
    assert exp_avg is not None and not exp_avg.any()


def test_step_that_is_not_finite_leaves_the_average(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Training("adamw", engine, ema_decay=DECAY)
    run.train(0)
    before = {name: value.clone() for name, value in average_of(run).items()}
    monkeypatch.setenv("MLM_DIST_FAULT", "nan@1")
    result = train_step(engine, OBJECTIVE, [batch_of(1)], 1e-3, 1)
    assert int(result.skipped) == 1
    assert all(torch.equal(value, before[name]) for name, value in average_of(run).items())


def test_parameters_can_be_replaced(engine: Engine) -> None:
    run = Training("adamw", engine, ema_decay=DECAY)
    for step in range(3):
        run.train(step)
    expected = {name: value.clone() for name, value in average_of(run).items()}
    engine.set_parameters((name.removeprefix("ema/"), value) for name, value in engine.moments("ema"))
    found = run.weights()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert all(torch.equal(value, average_of(run)[name]) for name, value in expected.items())


def test_memory_of_the_average() -> None:
    assert optimizers.moment_bytes("adamw", 100, 40, ema=True) == 4 * 3 * 100
    assert optimizers.moment_bytes("muon", 100, 40, ema=True) == 4 * (3 * 60 + 2 * 40)
    assert size_of_checkpoint(100, ema=True) == 1600


# --- the mean of checkpoints ---


def checkpoint(folder: Path, step: int, **weights: torch.Tensor) -> Path:
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    save_file(weights, path / "model.safetensors")
    return path


def test_mean_is_rounded_once(tmp_path: Path) -> None:
    """1/3 would be 0 in float32, and depend on the order."""
    values = (1e8, 1.0, -1e8)
    paths = tuple(checkpoint(tmp_path, i, one=torch.full((2,), value)) for i, value in enumerate(values))
    with SavedWeights(paths).reading() as read:
        assert torch.equal(read("one"), torch.full((2,), 1 / 3))


@pytest.mark.parametrize("name", ["missing", "another shape"])
def test_checkpoints_of_other_models_are_not_averaged(tmp_path: Path, name: str) -> None:
    other = {"two": torch.ones(2)} if name == "missing" else {"one": torch.ones(2, 1)}
    paths = (checkpoint(tmp_path, 1, **other), checkpoint(tmp_path, 2, one=torch.ones(2)))
    with SavedWeights(paths).reading() as read, pytest.raises(CheckpointError, match=r"belongs to another model$"):
        read("one")


def test_checkpoint_of_a_signal_is_not_averaged(tmp_path: Path, engine: Engine) -> None:
    """And does not take the place of one that is: an interrupted run has the average of one without interruptions."""
    run = Run(tmp_path, engine, keep_last=2)
    run.checkpoints = Checkpoints(
        tmp_path,
        CheckpointSpec(5, 2, False, "auto", num_averaged=2),
        {"seed": 0, "phases": [{}]},
        [phase("1 hours").batch],
    )
    for step in (5, 10, 11, 12, 15):
        run.save(step)
    assert [path.name for path in find.require_last(tmp_path, 2, 5)] == ["step-00000010", "step-00000015"]
    run.save(16)  # the newest counts, as the last step does
    assert [path.name for path in find.require_last(tmp_path, 2, 5)] == ["step-00000015", "step-00000016"]


# --- keys ---

REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "decay": (("--optim.ema_decay=1",), "optim.ema_decay: must be over 0 and under 1, or null, got 1.0"),
    "one": (("--export.average=1",), "export.average: must be ema, from 2 to 1000, or null, got 1"),
    "word": (("--export.average=mean",), "export.average: expected one of ema or int or null, got mean"),
    "no average": (
        ("--export.average=ema",),
        "export.average: ema needs optim.ema_decay; set it, for example to 0.999",
    ),
    "too few": (
        ("--export.average=5",),
        "checkpoint.keep_last: 2 checkpoints are kept, but export.average needs 5; set it to 5 or more",
    ),
    "best": (
        ("--export.average=2", "--export.checkpoint=best"),
        "export.average and export.checkpoint: best exclude each other; give one of them",
    ),
    "named": (
        ("--export.average=2", "--export.checkpoint=runs/mine/checkpoints/step-00000006"),
        "export.average: a number averages the newest checkpoints; remove export.checkpoint, or write ema for the "
        "average in that checkpoint",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_contradiction_is_refused(name: str) -> None:
    flags, message = REFUSED[name]
    with pytest.raises(ConfigError) as refused:
        resolve(parse([*flags, "--tokenizer.train_vocab_size=1000"]), ONE_PROCESS)
    assert str(refused.value) == message


KEPT_NONE = {
    "--export.average=ema": r"^export\.average: the run kept no exponential moving average; .* with optim\.ema_decay$",
    "--export.average=3": r"^export\.average: the run kept 2 checkpoints, fewer than 3; .*\.keep_last 3 or more$",
}


@pytest.mark.parametrize("flag", KEPT_NONE)
def test_jobs_on_a_run_without_an_average_say_that_it_kept_none(flag: str, tmp_path: Path) -> None:
    config = parse([f"--output_dir={tmp_path}", flag, "--validation.model=average"])
    for job in (export.run, validate.run):
        with pytest.raises(ConfigError, match=KEPT_NONE[flag]):
            job(config)


def test_keys_from_python() -> None:
    assert Config(optim=OptimConfig(ema_decay=0.99), export=ExportConfig(average="ema")).export.average == "ema"
    assert parse(["--export.average=2"]).export.average == 2


@pytest.mark.parametrize(("every", "steps", "saved"), [(500, 300, 1), (None, 300, 1), (100, 250, 3)])
def test_average_of_more_checkpoints_than_a_run_saves_is_refused(every: int | None, steps: int, saved: int) -> None:
    spec = CheckpointSpec(every, 9, keep_best=False, resume="auto")
    expected = rf"^export\.average: {saved + 1} checkpoints, but the run of {steps} steps saves {saved}; lower "
    with pytest.raises(ConfigError, match=expected):
        spec.require_saved(saved + 1, steps)
    spec.require_saved(saved, steps)
    spec.require_saved("ema", steps)


# --- runs ---


def weights_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")
    return weights


def averages_at(run: Path, step: int) -> dict[str, torch.Tensor]:
    moments = load_file(run / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors")
    return {name.removeprefix("ema/"): value for name, value in moments.items() if name.startswith("ema/")}


def check_averages(run: Path) -> None:
    """Compare the averages of a run that saved every step with the fp32 weights of its steps."""
    expected = {name: value.double() for name, value in averages_at(run, 1).items()}
    for step in range(2, 7):
        decay = min(DECAY, (1 + step) / (10 + step))
        for name, value in weights_at(run, step).items():
            if name in expected:  # it is trained
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
    found = averages_at(run, 6)
    moved = max(float((value - weights_at(run, 6)[name]).abs().max()) for name, value in found.items())
    assert moved > 1e-3, "the average must differ from the newest weights"
    for name, value in expected.items():
        assert torch.allclose(found[name].double(), value, rtol=0, atol=1e-6), name
    exported = AutoModelForMaskedLM.from_pretrained(run / "model")
    last = [weights_at(run, step) for step in (4, 5, 6)]
    for name, parameter in exported.named_parameters():
        mean = torch.stack([weights[f"model.{name}"].double() for weights in last]).sum(0) / 3
        assert torch.equal(parameter, mean.float()), name
    lines = {line["average"]: line for line in launching.metrics(run, "average")}
    assert {name: line["step"] for name, line in lines.items()} == {"ema": 6, "checkpoint_average": 6}
    assert (lines["checkpoint_average"]["checkpoints"], lines["checkpoint_average"]["first_step"]) == (3, 4)


def losses(run: Path) -> dict[str, float]:
    """The losses of a run's newest and averaged weights."""
    (end,) = launching.metrics(run, "end")
    return {name: end[name] for name in ("loss_after", "ema_loss", "checkpoint_average_loss")}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Path:
    """A run on one process with both averages; it is not changed."""
    run = tmp_path_factory.mktemp("averaged") / "run"
    flags = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={run}", *EVERY_STEP)
    done = launching.here("train", *flags)
    (run / "log.txt").write_text(done.log, "utf-8")
    result = done.result
    assert result.averages.keys() == {"ema", "checkpoint_average"}
    assert result.exported_average == "checkpoint_average" and not result.exported_best
    return run


def test_run_averages_its_weights(averaged: Path) -> None:
    check_averages(averaged)
    found = losses(averaged)
    assert len(set(found.values())) == 3, "each is of other weights"


def test_average_is_reported(averaged: Path) -> None:
    found, record = losses(averaged), read_record(averaged)
    ema, mean = f"{found['ema_loss']:.4f}", f"{found['checkpoint_average_loss']:.4f}"
    assert record.exported["loss"] == found["checkpoint_average_loss"]
    assert "the exported model is the mean of the last 3 checkpoints, from step 4" in status(record)
    table = over_the_run(record)
    assert table is not None
    assert [row[1] for row in table.rows[-2:]] == [number(found["ema_loss"]), number(found["checkpoint_average_loss"])]
    card = (averaged / "model" / "README.md").read_text("utf-8")
    assert f"| step 6, mean of the last 3 checkpoints, from step 4 | {mean} |" in card
    assert f"| step 6 | {found['loss_after']:.4f} |" in card
    assert f"value: {found['checkpoint_average_loss']}" in card
    log = (averaged / "log.txt").read_text("utf-8")
    assert f"validation loss {ema}, accuracy" in log and f"validation loss {mean}, accuracy" in log
    assert "exported          mean of the last 3 checkpoints, from step 4" in log


@pytest.mark.parametrize("name", ["ema", "checkpoint_average"])
def test_jobs_average_afterwards(averaged: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged, run)
    shutil.rmtree(run / "model")
    wanted = "--export.average=ema" if name == "ema" else "--export.average=3"
    flags = (f"--output_dir={run}", wanted)
    found = launching.here("validate", *flags, "--validation.model=average", "--validation.sentences=0", of_a_run=True)
    # The job uses all rows, the run 16 of them.
    assert found.result["loss"] != losses(run)["loss_after"] and found.result["step"] == 6
    launching.here("export", *flags, of_a_run=True)
    exported = AutoModelForMaskedLM.from_pretrained(run / "model")
    expected = averages_at(run, 6) if name == "ema" else load_file(averaged / "model" / "model.safetensors")
    for each, parameter in exported.named_parameters():
        assert torch.equal(parameter, expected[f"model.{each}" if name == "ema" else each]), each
    card = (run / "model" / "README.md").read_text("utf-8")
    assert f"| {losses(run)[f'{name}_loss']:.4f} |" in card
    again = launching.here("validate", f"--output_dir={run}", "--validation.sentences=0", of_a_run=True)
    assert again.result["loss"] == pytest.approx(found.result["loss"], abs=1e-6)


def test_card_does_not_take_the_validation_of_another_average(averaged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(averaged, run)
    launching.here("export", f"--output_dir={run}", "--export.average=2", of_a_run=True)
    card = (run / "model" / "README.md").read_text("utf-8")
    assert "There was no validation of these weights." in card and "mean of the last 2 checkpoints" in card


def test_card_names_as_many_checkpoints_as_were_averaged(averaged: Path, tmp_path: Path) -> None:
    """A run that stops early, or begins from another one, has fewer than are wanted."""
    run = tmp_path / "run"
    shutil.copytree(averaged, run)
    for step in (1, 2, 3, 4):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    done = train(run)
    assert "export.average: 3 checkpoints are wanted, but there are 2" in done.log
    expected = f"| step 6, mean of the last 2 checkpoints, from step 5 | {losses(run)['checkpoint_average_loss']:.4f} |"
    assert expected in (run / "model" / "README.md").read_text("utf-8")
    launching.here("export", f"--output_dir={run}", of_a_run=True)
    assert expected in (run / "model" / "README.md").read_text("utf-8")


def train(run: Path, *more: str) -> launching.Done:
    """The same run with other flags; the cache is that of its config."""
    cache = json.dumps(dataclasses.asdict(parse([f"--config={run / 'config.yaml'}"]).corpus)["cache_dir"])
    return launching.here("train", f"--corpus.cache_dir={json.loads(cache)}", f"--output_dir={run}", *EVERY_STEP, *more)


def interrupted(averaged: Path, run: Path) -> Path:
    """A copy of the run as it was after step 4."""
    shutil.copytree(averaged, run)
    for step in (5, 6):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    return run


def test_resumed_average_has_the_same_bits(averaged: Path, tmp_path: Path) -> None:
    run = interrupted(averaged, tmp_path / "run")
    train(run)
    for name in ("model.safetensors", "optimizer.safetensors"):
        last = Path("checkpoints") / "step-00000006" / name
        assert (run / last).read_bytes() == (averaged / last).read_bytes(), name
    assert losses(run) == losses(averaged)
    train(run)  # it is finished: only averages and export are done again
    assert losses(run)["ema_loss"] == losses(averaged)["ema_loss"]
    assert len(launching.metrics(run, "average")) == 2


def test_average_begins_at_a_checkpoint_without_one(averaged: Path, tmp_path: Path) -> None:
    run = interrupted(averaged, tmp_path / "run")
    done = train(run, "--optim.ema_decay=null")
    assert "optim.ema_decay is not set: the average of the weights in" in done.log
    assert not averages_at(run, 5)
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    done = train(run)
    assert "has no average of the weights; it starts from the weights there" in done.log
    decay = 7 / 16
    for name, value in averages_at(run, 6).items():
        expected = decay * weights_at(run, 5)[name].double() + (1 - decay) * weights_at(run, 6)[name].double()
        assert torch.allclose(value.double(), expected, rtol=0, atol=1e-6), name
    assert all(torch.equal(value, weights_at(averaged, 6)[name]) for name, value in weights_at(run, 6).items())


def test_newest_weights_are_exported_beside_an_average(averaged: Path, tmp_path: Path) -> None:
    """Validating the average must not leave it in the model."""
    run = interrupted(averaged, tmp_path / "run")
    done = train(run, "--export.average=null")
    assert done.result.averages.keys() == {"ema"} and done.result.exported_average is None
    assert losses_of_ema(run) == losses(averaged)["ema_loss"]
    for name, value in AutoModelForMaskedLM.from_pretrained(run / "model").named_parameters():
        assert torch.equal(value, weights_at(run, 6)[f"model.{name}"]), name


def losses_of_ema(run: Path) -> float:
    loss: float = launching.metrics(run, "end")[0]["ema_loss"]
    return loss


# --- topologies ---

TOPOLOGIES = {
    "two processes": ("cpu_2", "no", ()),
    "zero1": ("zero1", "no", ()),
    "zero2": ("zero2", "no", ()),
    "zero3": ("zero3", "no", ()),
    "zero3_offload": ("zero3_offload", "no", ()),
    "fsdp2": ("fsdp2_cpu", "no", ()),
    "zero2 in bf16": ("zero2", "bf16", ()),
    "zero3 in bf16": ("zero3", "bf16", ()),
    "fsdp2 in bf16": ("fsdp2_cpu", "bf16", ()),
    "muon under fsdp2": ("fsdp2_cpu", "no", ("--optim.name=muon",)),
    "frozen under zero3": ("zero3", "no", ("--model.freeze_embeddings=true",)),
    "two rates under zero2": ("zero2", "no", ("--optim.layer_lr_decay=0.7",)),
}


def launch(run: Path, cache: Path, name: str, *more: str) -> launching.Ended:
    topology, precision, arguments = TOPOLOGIES[name]
    flags = (f"--corpus.cache_dir={cache}", f"--output_dir={run}", *EVERY_STEP, *arguments, *more)
    options = (f"--mixed_precision={precision}", "--num_processes=2")
    return launching.accelerate(topology, "train.py", *flags, launch=options)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_any_topology_averages_as_one_process(name: str, averaged: Path, prepared_cache: Path, tmp_path: Path) -> None:
    """In 16 bits too the average is that of the fp32 weights, which a checkpoint holds."""
    ended = launch(tmp_path / "run", prepared_cache, name)
    assert ended.returncode == 0, ended.output
    check_averages(tmp_path / "run")
    if TOPOLOGIES[name][2] == ():
        tolerance = 1e-4 if TOPOLOGIES[name][1] == "no" else 3e-2
        assert losses(tmp_path / "run") == pytest.approx(losses(averaged), abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero2", "zero3 in bf16", "fsdp2"])
def test_resumed_average_has_the_same_bits_on_two_processes(name: str, prepared_cache: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert launch(whole, prepared_cache, name).returncode == 0
    interrupted(whole, run)
    ended = launch(run, prepared_cache, name)
    assert ended.returncode == 0, ended.output
    for file in ("model.safetensors", "optimizer.safetensors"):
        last = Path("checkpoints") / "step-00000006" / file
        assert (run / last).read_bytes() == (whole / last).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero2", "zero3", "fsdp2"])
def test_average_resumes_on_any_topology(name: str, averaged: Path, prepared_cache: Path, tmp_path: Path) -> None:
    run = interrupted(averaged, tmp_path / "run")
    ended = launch(run, prepared_cache, name)
    assert ended.returncode == 0, ended.output
    check_averages(run)
    assert losses(run) == pytest.approx(losses(averaged), abs=1e-4)
