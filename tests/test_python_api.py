"""The jobs as functions: results, callbacks, several runs in one process, and what is as before afterwards."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState

from mlm_dist import Callback, Config, export, plan, prepare, report, train, validate
from mlm_dist.config import OptimConfig
from mlm_dist.errors import ConfigError, Interrupted, UserError
from mlm_dist.training.result import TrainResult

PRECISION = "ACCELERATE_MIXED_PRECISION"


def config_of(documents: Path, output_dir: Path, **sections: Any) -> Config:
    """The config of a run of 12 steps, as `launching.SHORT` has it."""
    cache = str(documents.parent / "prose-cache")
    values: dict[str, Any] = {
        "output_dir": str(output_dir),
        "corpus": {"source": str(documents), "cache_dir": cache, "validation_fraction": 0.2},
        "tokenizer": {"train_vocab_size": 1000},
        "rows": {"max_length": 64},
        "optim": {"duration": "12 steps"},
        "validation": {"every": 6},
        "checkpoint": {"every": 6},
        "logging": {"every": 2},
        "export": {"verify": False},
    }
    return Config(**values | sections)


class Recorder(Callback):
    """Keeps the calls, and does something at a step."""

    def __init__(self, at: int = 0, error: BaseException | None = None, number: int | None = None) -> None:
        self.calls: list[tuple[str, int, Any]] = []
        self._at, self._error, self._number = at, error, number

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        self.calls.append(("step", step, metrics))
        if step == self._at and self._error is not None:
            raise self._error
        if step == self._at and self._number is not None:
            os.kill(os.getpid(), self._number)

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.calls.append(("validation", step, metrics))

    def on_checkpoint(self, step: int, path: Path) -> None:
        self.calls.append(("checkpoint", step, path))

    def on_end(self, step: int, *, is_finished: bool) -> None:
        self.calls.append(("end", step, is_finished))


def process_state() -> dict[str, Any]:
    """What a run may not change in the process that calls it."""
    return {
        "signals": {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)},
        "environment": dict(os.environ),
        "threads of torch": torch.get_num_threads(),
        "threads": {thread.name for thread in threading.enumerate() if thread.name.startswith("batches")},
        "excepthook": (sys.excepthook, threading.excepthook),
        "group": torch.distributed.is_initialized(),
        "accelerate": (dict(AcceleratorState._shared_state), dict(PartialState._shared_state)),
        "level": logging.getLogger("mlm_dist").level,
    }


@dataclasses.dataclass
class Runs:
    """Runs of one process, one after another."""

    first: TrainResult
    calls: list[tuple[str, int, Any]]
    in_bf16: TrainResult
    again: TrainResult
    before: dict[str, Any]
    after: dict[str, Any]


@pytest.fixture(scope="module")
def runs(prose: Path, tmp_path_factory: pytest.TempPathFactory, one_core: None) -> Runs:
    place = tmp_path_factory.mktemp("api")
    recorder = Recorder()
    before = process_state()
    first = train.run(config_of(prose, place / "first"), callbacks=[recorder])
    after = process_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PRECISION, "bf16")
        in_bf16 = train.run(config_of(prose, place / "bf16"))
    again = train.run(config_of(prose, place / "again"))
    return Runs(first, recorder.calls, in_bf16, again, before, after)


def test_a_second_run_in_the_process_equals_a_launched_one(runs: Runs, prose: Path, tmp_path: Path) -> None:
    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.SHORT)
    ended = launching.python("train.py", *flags, f"--output_dir={tmp_path}", **{PRECISION: "bf16"})
    assert ended.returncode == 0, ended.output
    assert "unigram baseline" in ended.stdout  # programs print the log, see the test of scripts below
    launched = {line["step"]: line["loss"] for line in launching.metrics(tmp_path, "train")}
    assert runs.in_bf16.losses == launched
    assert launching.metrics(tmp_path, "start")[0]["precision"] == "bf16"
    assert runs.again.losses == runs.first.losses != runs.in_bf16.losses


def test_the_result_has_the_losses_and_paths_of_the_run(runs: Runs) -> None:
    result = runs.first
    assert (result.step, result.is_finished) == (12, True)
    lines = launching.metrics(result.run_dir.path, "train")
    assert result.losses == {line["step"]: line["loss"] for line in lines} and list(result.losses) == [
        2,
        4,
        6,
        8,
        10,
        12,
    ]
    validations = launching.metrics(result.run_dir.path, "validation")
    assert [{"kind": "validation", **line} for line in result.validation.values()] == validations
    assert list(result.validation) == [0, 6, 12]
    assert result.unigram_loss == launching.metrics(result.run_dir.path, "start")[0]["unigram_loss"]
    assert result.best.loss == min(line["loss"] for line in validations[1:])
    assert (result.model / "model.safetensors").is_file() and result.run_dir.report.is_file()


def test_callbacks_are_called_in_order_with_what_was_written(runs: Runs) -> None:
    names = [(name, step) for name, step, _ in runs.calls]
    steps = [("step", step) for step in range(1, 13)]
    expected = [("validation", 0), *steps[:6], ("validation", 6), ("checkpoint", 6)]
    assert names == [*expected, *steps[6:], ("validation", 12), ("checkpoint", 12), ("end", 12)]
    lines = {
        (line["kind"], line["step"]): line
        for kind in ("train", "validation")
        for line in launching.metrics(runs.first.run_dir.path, kind)
    }
    for name, step, given in runs.calls:
        match name:
            case "step":
                written = lines.get(("train", step))
                assert given == (written and {key: written[key] for key in written if key != "kind"})
            case "validation":
                assert {"kind": "validation", **given} == lines["validation", step]
            case "checkpoint":
                assert given == runs.first.run_dir.checkpoints / f"step-{step:08d}" and given.is_dir()
            case "end":
                assert given is True


def test_the_process_is_as_before_after_a_run(runs: Runs) -> None:
    assert runs.after == runs.before


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_an_exception_of_a_callback_ends_the_run_cleanly(
    runs: Runs, prose: Path, tmp_path: Path, error: BaseException
) -> None:
    config, before = config_of(prose, tmp_path / "run"), process_state()
    recorder = Recorder(at=7, error=error)
    with pytest.raises(type(error)) as caught:
        train.run(config, callbacks=[recorder])
    assert caught.value is error
    assert process_state() == before
    assert recorder.calls[-1][:2] == ("step", 7)
    result = train.run(config)  # the lock is released, and the checkpoint of step 6 whole
    assert launching.metrics(tmp_path / "run", "start")[-1]["resumed_from"] == 6
    assert result.losses == {step: loss for step, loss in runs.first.losses.items() if step > 6}


def test_wrong_input_leaves_the_process_as_it_was(prose: Path, tmp_path: Path) -> None:
    before = process_state()
    for sections in ({"batch": {"global_size": 10_000}}, {"model": {"overrides": {"hidden_size": 7}}}):
        with pytest.raises(UserError):
            train.run(config_of(prose, tmp_path, **sections))
        assert process_state() == before


def test_a_signal_interrupts_and_the_same_call_resumes(runs: Runs, prose: Path, tmp_path: Path) -> None:
    config, before = config_of(prose, tmp_path), process_state()
    recorder = Recorder(at=3, number=signal.SIGTERM)
    with pytest.raises(Interrupted, match="step 4; run the same"):
        train.run(config, callbacks=[recorder])
    assert process_state() == before
    assert recorder.calls[-2:] == [
        ("checkpoint", 4, tmp_path / "checkpoints" / "step-00000004"),
        ("end", 4, False),
    ]
    result = train.run(config)
    assert result.losses == {step: loss for step, loss in runs.first.losses.items() if step > 4}
    assert result.validation[12]["loss"] == runs.first.validation[12]["loss"]


def test_a_run_in_a_thread_equals_one_in_the_main_thread(runs: Runs, prose: Path, tmp_path: Path) -> None:
    found: list[Any] = []
    before = process_state()
    config = config_of(prose, tmp_path)
    thread = threading.Thread(target=lambda: found.append(train.run(config)))
    thread.start()
    thread.join()
    assert found[0].losses == runs.first.losses
    assert process_state() == before


def test_the_other_jobs_return_what_they_made(runs: Runs, prose: Path) -> None:
    config = config_of(prose, runs.again.run_dir.path)
    spec = plan.run(config)
    assert (spec.num_steps, spec.phases[0].batch.global_size, spec.corpus.rows.mode) == (12, 16, "pack")
    corpus = prepare.run(config)
    assert corpus.folder.is_dir() and len(corpus.rows("train")) == corpus.manifest["rows"]["train"]
    figures = validate.run(config)
    assert figures == json.loads(runs.again.run_dir.validation.read_text("utf-8"))
    assert figures["loss"] == pytest.approx(runs.again.validation[12]["loss"], rel=1e-5)
    assert export.run(config) == runs.again.model
    assert report.run(config) == runs.again.run_dir.report


SCRIPT = """\
import json, os, sys
import mlm_dist
from mlm_dist import Callback, Config, export, plan, prepare, train, validate

class Raises(Callback):
    def on_step(self, step, metrics):
        raise RuntimeError("mine")

values = json.loads(sys.argv[1])
results = []
for name in ("one", "two"):
    config = Config(**values | {"output_dir": os.path.join(values["output_dir"], name)})
    try:
        train.run(config, callbacks=[Raises()])
    except RuntimeError:
        pass
    results.append(train.run(config))
if "WORLD_SIZE" not in os.environ:
    plan.run(config), prepare.run(config), validate.run(config), export.run(config)
facts = [[one.step, one.is_finished, one.losses, one.unigram_loss, str(one.model), one.best.loss] for one in results]
with open(os.path.join(values["output_dir"], os.environ.get("RANK", "0") + ".json"), "w") as file:
    json.dump(facts, file)
"""


@pytest.fixture
def script(tmp_path: Path, prose: Path) -> tuple[str, str]:
    """A script that trains twice, and its argument."""
    path = tmp_path / "my_script.py"
    path.write_text(SCRIPT, "utf-8")
    return str(path), json.dumps(dataclasses.asdict(config_of(prose, tmp_path)))


def losses(result: TrainResult) -> dict[str, Any]:
    return {str(step): loss for step, loss in result.losses.items()}


@pytest.mark.slow
def test_a_script_prints_nothing_unless_logging_is_configured(
    script: tuple[str, str], runs: Runs, tmp_path: Path
) -> None:
    ended = launching.run([sys.executable, *script], PYTHONPATH=str(launching.ROOT))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    for _, is_finished, found, _, _, _ in json.loads((tmp_path / "0.json").read_text("utf-8")):
        assert is_finished and found == losses(runs.first)


def launch(topology: str, *command: str) -> launching.Ended:
    """`accelerate launch --config_file ... COMMAND` with two processes on the CPU, in fp32."""
    file = launching.ACCELERATE / f"{topology}.yaml"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", f"--config_file={file}"]
    flags = ["--num_processes=2", "--mixed_precision=no", f"--main_process_port={launching.free_port()}"]
    flags += ["--gpu_ids=-1,-1"] if topology.startswith("zero") else []
    return launching.run([*launcher, *flags, *command], timeout=200, PYTHONPATH=str(launching.ROOT))


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["cpu_2", "zero2"])
def test_a_script_under_accelerate_launch_gives_every_rank_the_result(
    topology: str, script: tuple[str, str], runs: Runs, tmp_path: Path
) -> None:
    ended = launch(topology, *script)
    assert ended.returncode == 0, ended.output
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text("utf-8")) for rank in range(2)]
    assert ranks[0] == ranks[1]
    for step, is_finished, found, unigram_loss, model, _ in ranks[0]:
        assert (step, is_finished, unigram_loss) == (12, True, runs.first.unigram_loss)
        assert found == pytest.approx(losses(runs.first), rel=1e-5)
        assert Path(model).is_dir()


@pytest.mark.slow
def test_an_exception_on_one_rank_ends_the_launch(script: tuple[str, str]) -> None:
    path, values = script
    program = Path(path)
    changed = SCRIPT.replace(
        'raise RuntimeError("mine")', 'if os.environ["RANK"] == "1": raise ValueError("of rank 1")'
    )
    program.write_text(changed, "utf-8")
    ended = launch("cpu_2", path, values)
    assert ended.returncode == 1
    assert "ValueError: of rank 1" in ended.output


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"corpus": {"min_char": 3}}, "corpus.min_char'; did you mean 'corpus.min_chars'"),
        ({"optim": {"lr": "high"}}, "optim.lr: expected float or null, got high"),
        ({"seed": "0"}, "seed: expected int, got 0"),
        ({"rows": {"max_length": 2}}, "rows.max_length: must be at least 8"),
    ],
)
def test_a_config_checks_itself(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        Config(**sections)


def test_a_section_checks_the_types_of_its_values() -> None:
    wrong: Any = "high"
    with pytest.raises(ConfigError, match=r"^optim\.lr: expected float or null, got high$"):
        OptimConfig(lr=wrong)
    assert Config(optim={"betas": [0.9, 0.99]}).optim == OptimConfig(betas=(0.9, 0.99))  # type: ignore[arg-type]
