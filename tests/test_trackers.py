"""Trackers: each run under its name, with the config, and no tracker that asks a question."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from mlm_dist.config import flat, keys, parse, to_dict
from mlm_dist.engine import trackers
from mlm_dist.errors import ConfigError


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


def test_tensorboard_has_its_folder_and_others_the_name_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one stands for any tracker that stores runs under a given name."""

    class Other(GeneralTracker):  # type: ignore[misc]
        name = "mlflow"
        requires_logging_directory = False
        made: list[tuple[Any, ...]] = []  # noqa: RUF012 - of the class, so that the test sees it

        def __init__(self, project: str, run_name: str) -> None:
            super().__init__()
            self.made.append((project, run_name))

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            self.made.append(tuple(values))

    monkeypatch.setitem(sys.modules["accelerate.accelerator"].LOGGER_TYPE_TO_CLASS, "mlflow", Other)
    monkeypatch.setattr(sys.modules["accelerate.tracking"], "get_available_trackers", lambda: list(LoggerType))
    run = tmp_path / "my-run"
    values = flat(to_dict(parse([f"--output_dir={run}"])))
    log_with = trackers.accelerate_names(("mlflow", "tensorboard", "mlflow"), str(run))
    accelerator = Accelerator(cpu=True, log_with=log_with, project_dir=str(run))
    trackers.start(accelerator, values, "my-run", str(run))
    accelerator.end_training()
    assert Other.made == [("mlm_dist", "my-run"), tuple(keys())]
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    stored = next((run / "tensorboard").glob("*/hparams.yml"))
    assert yaml.safe_load(stored.read_text("utf-8")) == values


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
        trackers.start(accelerator, {}, "my-run", str(tmp_path))
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


def test_wandb_without_a_key_is_refused_and_works_offline(tmp_path: Path, prose: Path) -> None:
    pytest.importorskip("wandb")
    clean = {"HOME": str(tmp_path), "WANDB_API_KEY": "", "NETRC": str(tmp_path / "netrc")}
    ended = train(tmp_path / "run", prose, "wandb", **clean)
    assert ended.returncode == 2, ended.output
    assert "error: tracking.trackers: wandb has no key" in ended.stderr
    assert "WANDB_MODE=offline" in ended.stderr
    assert not (tmp_path / "run").exists(), "no work before the refusal"
    ended = train(tmp_path / "run", prose, "wandb", **clean, WANDB_MODE="offline")
    assert ended.returncode == 0, ended.output
    assert list((tmp_path / "run" / "wandb").rglob("*.wandb"))
