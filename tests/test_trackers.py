"""Trackers: each gets the config and the name of the run; one that asks at the terminal is refused."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import forking
import launching
import pytest
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from mlm_dist.config import TrackingConfig, flat, keys, parse, to_dict
from mlm_dist.engine import trackers
from mlm_dist.engine.resumed_trackers import TensorBoard
from mlm_dist.errors import ConfigError
from mlm_dist.faults import VARIABLE as FAULT


def train(run: Path, prose: Path, names: str, **environment: str) -> launching.Ended:
    """A run of two steps."""
    return launching.python(
        "train.py",
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", f"--output_dir={run}"),
        *("--optim.duration=2 steps", "--logging.every=1", f"--tracking.trackers={names}", *launching.TINY),
        **environment,
    )


def test_hyperparameters_are_flat_and_of_types_that_every_tracker_takes() -> None:
    found = flat(to_dict(parse(["--model.overrides.hidden_size=8"])))
    assert found.keys() == keys().keys()
    assert {type(value) for value in found.values()} == {bool, int, float, str}
    assert found["model.overrides"] == '{"hidden_size": 8}'
    assert found["optim.betas"] == "[0.9, 0.98]"
    assert found["optim.lr"] == "null"
    assert found["model.masked_head"] is True


def test_tensorboard_gets_its_folder_and_others_the_name_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one stands for any tracker that stores runs under the given name."""

    class Other(GeneralTracker):  # type: ignore[misc]
        name = "mlflow"
        requires_logging_directory = False
        made: list[tuple[Any, ...]] = []  # noqa: RUF012 - of the class, so that the test sees it

        def __init__(self, project: str, run_name: str, run_tags: dict[str, str]) -> None:
            super().__init__()
            assert run_tags.keys() == {"mlm_dist.run_id"}
            self.made.append((project, run_name))

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.made.append(tuple(values))

    monkeypatch.setitem(sys.modules["accelerate.accelerator"].LOGGER_TYPE_TO_CLASS, "mlflow", Other)
    monkeypatch.setattr(sys.modules["accelerate.tracking"], "get_available_trackers", lambda: list(LoggerType))
    run = tmp_path / "my-run"
    run.mkdir()
    names, config = ("mlflow", "tensorboard", "mlflow"), flat(to_dict(parse([])))
    accelerator = Accelerator(cpu=True, log_with=trackers.accelerate_names(names, str(run)), project_dir=str(run))
    trackers.start(accelerator, TrackingConfig(project="my-project"), config, run.name, str(run))
    accelerator.end_training()
    assert Other.made == [("my-project", "my-run"), tuple(keys())]
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    stored = next((run / "tensorboard").glob("*/hparams.yml"))
    assert yaml.safe_load(stored.read_text("utf-8")) == config


def test_tracker_that_asks_a_question_is_refused(tmp_path: Path) -> None:
    class Asking(GeneralTracker):  # type: ignore[misc]
        name = "asking"
        requires_logging_directory = False
        tracker = None

        def start(self) -> None:
            input("Your key? ")

    accelerator = Accelerator(cpu=True, log_with=[Asking()])
    terminal = sys.stdin
    with pytest.raises(ConfigError, match=r"tracking\.trackers: asking cannot start \(EOF when reading a line\)"):
        trackers.start(accelerator, TrackingConfig(), {}, "run", str(tmp_path))
    assert sys.stdin is terminal


def test_mlflow_and_trackio_hold_the_run(tmp_path: Path, prose: Path) -> None:
    pytest.importorskip("trackio")
    mlflow = pytest.importorskip("mlflow")
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = tmp_path / "my-run"
    ended = train(run, prose, "mlflow,trackio", MLFLOW_TRACKING_URI=address, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert ended.returncode == 0, ended.output
    assert not (run / "tensorboard").exists()
    last = launching.metrics(run, "train")[-1]

    mlflow.set_tracking_uri(address)
    (found,) = mlflow.search_runs(experiment_names=["mlm_dist"], output_format="list")
    assert found.info.run_name == "my-run"
    assert found.info.status == "FINISHED"
    assert found.data.metrics["train/loss"] == pytest.approx(last["loss"])
    assert found.data.params.keys() == keys().keys()
    assert found.data.params["optim.duration"] == "2 steps"

    with sqlite3.connect(tmp_path / "trackio" / "mlm_dist.db") as store:
        rows = store.execute("select run_name, step, metrics from metrics order by id").fetchall()
        settings = json.loads(store.execute("select config from configs").fetchone()[0])
    assert {name for name, _, _ in rows} == {"my-run"}
    losses = [json.loads(text)["train/loss"] for _, _, text in rows if b"train/loss" in bytes(text)]
    assert losses == pytest.approx([line["loss"] for line in launching.metrics(run, "train")])
    assert settings["optim.duration"] == "2 steps"


@pytest.mark.slow
def test_wandb_without_a_key_is_refused_and_works_offline(tmp_path: Path, prose: Path) -> None:
    pytest.importorskip("wandb")
    clean = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "netrc")}
    ended = train(tmp_path / "run", prose, "wandb", **clean)
    assert ended.returncode == 2, ended.output
    assert "error: tracking.trackers: wandb has no key" in ended.stderr
    assert "WANDB_MODE=offline" in ended.stderr
    assert not (tmp_path / "run").exists(), "the error came too late"
    ended = train(tmp_path / "run", prose, "wandb", **clean, WANDB_MODE="offline")
    assert ended.returncode == 0, ended.output
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))


# --- after a kill ---

KILLED = (
    "--checkpoint.every=3",
    "--optim.duration=8 steps",
    "--validation.every=2",
    "--corpus.validation_fraction=0.2",
)
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_API_KEY": ""}


def killed_and_resumed(run: Path, prose: Path, names: str, *more: str, **environment: str) -> forking.Ended:
    """A run that is killed in step 6, after the checkpoint of step 3, and resumes with another learning rate."""
    flags = [
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", f"--output_dir={run}"),
        *(f"--tracking.trackers={names}", "--logging.every=1", *launching.TINY, *KILLED),
    ]
    log = run.with_name("log")
    killed = forking.run("train", *flags, log=log, environ={**environment, FAULT: "mid_step@6"})
    assert killed.returncode == -signal.SIGKILL, killed.output
    assert [line["step"] for line in launching.metrics(run, "train")] == [1, 2, 3, 4, 5, 6]
    return forking.run("train", *flags, "--optim.lr=0.01", *more, log=log, environ=environment)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: (step, value)} as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def recorded(run: Path) -> dict[str, list[tuple[int, Any]]]:
    """{tag: (step, value)} as metrics.jsonl has them."""
    found: dict[str, list[tuple[int, Any]]] = {}
    for kind in ("train", "validation"):
        for line in launching.metrics(run, kind):
            for name, value in line.items():
                if name not in ("step", "kind") and value is not None:
                    found.setdefault(f"{kind}/{name}", []).append((line["step"], pytest.approx(float(value), rel=1e-6)))
    return found


def asked(store: Path, query: str) -> list[tuple[Any, ...]]:
    """The answer of a database of MLflow."""
    with sqlite3.connect(store) as opened:
        return opened.execute(query).fetchall()


@pytest.mark.slow
def test_tensorboard_shows_each_step_once_after_a_kill(tmp_path: Path, prose: Path) -> None:
    """With the values of the resumed run, in one folder."""
    run = tmp_path / "my-run"
    ended = killed_and_resumed(run, prose, "tensorboard")
    assert ended.returncode == 0, ended.output
    assert scalars(run / "tensorboard") == recorded(run)
    assert len(recorded(run)["train/loss"]) == 8
    stored = yaml.safe_load((run / "tensorboard" / "hparams" / "hparams.yml").read_text("utf-8"))
    assert stored["optim.lr"] == 0.01, "of the resumed run"
    assert [path.name for path in (run / "tensorboard").iterdir() if path.is_dir()] == ["hparams"]


def hparams(folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """The settings and the results that TensorBoard shows in its table of HPARAMS."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    events = EventAccumulator(str(folder / "hparams"))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    settings = {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()}
    return settings, {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_decided_settings_and_the_results(run: Path) -> None:
    """Of the finished run; the config leaves optim.lr and batch.micro_size open."""
    settings, results = hparams(run / "tensorboard")
    assert settings.keys() == keys().keys()
    resolved = yaml.safe_load((run / "resolved.yaml").read_text("utf-8"))
    (phase,) = resolved["phases"]
    assert settings["optim.lr"] == phase["rate"]["peak"] == 0.384 / 128
    assert settings["batch.micro_size"] == phase["batch"]["micro_size"]
    assert settings["rows.mode"] == resolved["corpus"]["rows"]["mode"]
    assert settings["model.from_scratch"] == 1  # TensorBoard keeps numbers
    losses = [line["loss"] for line in launching.metrics(run, "validation")]
    assert results["results/validation_loss"] == pytest.approx(losses[-1], rel=1e-6)
    assert results["results/best_validation_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert results["results/train_loss"] == pytest.approx(launching.metrics(run, "train")[-1]["loss"], rel=1e-6)
    assert results["results/tokens"] == launching.metrics(run, "train")[-1]["tokens"]


def test_results_replace_those_of_an_earlier_start(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        tracker = TensorBoard(str(tmp_path))
        tracker.start()
        tracker.store_init_configuration({"optim.lr": value})
        tracker.store_results({"validation_loss": value})
        tracker.finish()
    assert hparams(tmp_path / "tensorboard") == ({"optim.lr": 2.0}, {"results/validation_loss": 2.0})
    assert len(list((tmp_path / "tensorboard" / "hparams").glob("events.*"))) == 1


@pytest.mark.filterwarnings("ignore")  # of mlflow's database
def test_project_group_and_tags_reach_the_trackers_that_have_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the arguments of wandb.init, in mlflow's database, and in the log for tensorboard."""
    wandb, mlflow = pytest.importorskip("wandb"), pytest.importorskip("mlflow")
    caplog.set_level("INFO", "mlm_dist")
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    given: dict[str, Any] = {}
    real = wandb.init

    def init(**arguments: Any) -> Any:
        given.update(arguments)
        return real(**arguments | {"mode": "disabled"})

    monkeypatch.setattr(wandb, "init", init)
    run = tmp_path / "my-run"
    names = trackers.accelerate_names(("wandb", "mlflow", "tensorboard"), str(run))
    accelerator = Accelerator(cpu=True, log_with=names, project_dir=str(run))
    tracking = TrackingConfig(project="docs", group="sweep", tags=["small", "cpu"])
    run.mkdir()
    trackers.start(accelerator, tracking, {}, run.name, str(run))
    trackers.finish(accelerator)
    id_ = json.loads((run / "trackers.json").read_text("utf-8"))["run_id"]
    assert (given["project"], given["group"], given["tags"], given["id"]) == ("docs", "sweep", ["small", "cpu"], id_)
    (found,) = mlflow.search_runs(experiment_names=["docs"], output_format="list")
    expected = {"group": "sweep", "small": "true", "cpu": "true", "mlm_dist.run_id": id_}
    assert {name: value for name, value in found.data.tags.items() if not name.startswith("mlflow.")} == expected
    assert "tracking.group and tracking.tags: tensorboard has them among the settings only" in caplog.text


@pytest.mark.slow
def test_mlflow_and_wandb_resume_their_runs_after_a_kill(tmp_path: Path, prose: Path) -> None:
    for name in ("mlflow", "sqlalchemy", "wandb"):
        pytest.importorskip(name)
    run, store = tmp_path / "my-run", tmp_path / "mlflow.db"
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc"), "MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
    ended = killed_and_resumed(run, prose, "tensorboard,mlflow,wandb", **home, **OFFLINE)
    assert ended.returncode == 0, ended.output
    assert "cannot resume" not in ended.output and "does not take" not in ended.output
    assert scalars(run / "tensorboard") == recorded(run)

    ((id_, status),) = asked(store, "select run_uuid, status from runs")
    assert status == "FINISHED"
    steps: dict[str, list[int]] = {}
    for tag, step in asked(store, "select key, step from metrics order by step"):
        steps.setdefault(tag, []).append(step)
    assert steps == {tag: [step for step, _ in values] for tag, values in recorded(run).items()}

    ids = {path.stem.removeprefix("run-") for path in (run / "wandb").glob("offline-run-*/run-*.wandb")}
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2 and len(ids) == 1
    stored = json.loads((run / "trackers.json").read_text())
    assert stored == {"run_id": stored["run_id"], "mlflow": id_, "wandb": stored["run_id"]}
    assert ids == {stored["run_id"]}, "the id of the run is that of wandb's, before and after the kill"
    tags = dict(asked(store, "select key, value from tags"))
    assert tags["mlm_dist.run_id"] == stored["run_id"]


@pytest.mark.slow
def test_fresh_start_is_a_new_run_of_each_tracker(tmp_path: Path, prose: Path) -> None:
    for name in ("mlflow", "sqlalchemy"):
        pytest.importorskip(name)
    run, store = tmp_path / "my-run", tmp_path / "mlflow.db"
    fresh = "--checkpoint.resume=never"
    ended = killed_and_resumed(run, prose, "tensorboard,mlflow", fresh, MLFLOW_TRACKING_URI=f"sqlite:///{store}")
    assert ended.returncode == 0, ended.output
    assert scalars(run / "tensorboard") == recorded(run)
    runs = dict(asked(store, "select status, run_uuid from runs"))
    assert runs.keys() == {"RUNNING", "FINISHED"}
    before, after = (json.loads((place / "trackers.json").read_text()) for place in (run / "previous-1", run))
    assert (before["mlflow"], after["mlflow"]) == (runs["RUNNING"], runs["FINISHED"])
    assert before["run_id"] != after["run_id"]


@pytest.mark.slow
def test_tracker_that_cannot_resume_does_not_end_the_run(tmp_path: Path, prose: Path) -> None:
    """Its run was deleted."""
    for name in ("mlflow", "sqlalchemy"):
        pytest.importorskip(name)
    run, store = tmp_path / "my-run", tmp_path / "mlflow.db"
    flags = [f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", f"--output_dir={run}"]
    flags += ["--logging.every=1", "--tracking.trackers=mlflow,tensorboard", "--optim.schedule=constant"]

    def ended(steps: int) -> forking.Ended:
        more = (f"--optim.duration={steps} steps", *launching.TINY)
        return forking.run(
            "train", *flags, *more, log=tmp_path / "log", environ={"MLFLOW_TRACKING_URI": f"sqlite:///{store}"}
        )

    first = ended(2)
    assert first.returncode == 0, first.output
    with sqlite3.connect(store) as opened:
        opened.execute("update runs set lifecycle_stage = 'deleted'")
    second = ended(4)
    assert second.returncode == 0, second.output
    said = [line for line in second.output.splitlines() if "mlflow cannot resume its run" in line]
    assert len(said) == 1, second.output
    assert [step for step, _ in scalars(run / "tensorboard")["train/loss"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("moments", [(100, 100, 100), (100, 90, 90), (100, 101, 50), (100, 99, 101)])
def test_event_files_are_read_in_the_order_of_the_sessions(
    moments: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one second, or with a clock that is set back."""
    for session, moment in enumerate(moments):
        monkeypatch.setattr(time, "time", lambda moment=moment: float(moment))
        tracker = TensorBoard(str(tmp_path))
        if session:
            tracker.resume(2)
        tracker.start()
        for step in (1, 2, 3, 4) if not session else (3, 4):
            tracker.log({"loss": float(session)}, step=step)
        tracker.finish()
    monkeypatch.undo()
    assert scalars(tmp_path / "tensorboard") == {"loss": [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0)]}


def test_service_that_fails_while_training_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Away(GeneralTracker):  # type: ignore[misc]
        name = "away"
        requires_logging_directory = False
        tracker = None

        def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
            raise ConnectionError("https://user:s3cret@example.org/api is away")

        finish = log

    accelerator = Accelerator(cpu=True, log_with=[Away(), TensorBoard(str(tmp_path))])
    trackers.start(accelerator, TrackingConfig(), {}, "run", str(tmp_path))
    for step in (1, 2):
        trackers.log(accelerator, {"loss": 0.5}, step)
    trackers.finish(accelerator)
    said = [message for message in caplog.messages if "away" in message]
    assert said[0] == "away does not take the values of step 1 (https://example.org/api is away)"
    assert len(said) == 2 and said[1].startswith("away did not end well")
    assert scalars(tmp_path / "tensorboard") == {"loss": [(1, 0.5), (2, 0.5)]}
