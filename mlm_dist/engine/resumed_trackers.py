"""Trackers that show each step once after a restart: TensorBoard and MLflow."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from accelerate.tracking import MLflowTracker, TensorBoardTracker

HPARAMS = "hparams"  # the folder of the settings and the results
_EVENTS = re.compile(r"(events\.out\.tfevents\.)(\d+)(\..*)")


class TensorBoard(TensorBoardTracker):  # type: ignore[misc]
    """TensorBoard in one folder, whose later values replace those that a killed process wrote.

    Args:
        folder: The run directory.
    """

    def __init__(self, folder: str) -> None:
        super().__init__("tensorboard", folder)
        self._settings: dict[str, Any] = {}

    def resume(self, step: int) -> None:
        """Hide the values after a step that are in the folder already; before `start`."""
        # The event of a restart, SessionLog.START, hides the values of its own step, too.
        self.init_kwargs["purge_step"] = step + 1

    def start(self) -> None:
        """Open a new event file, which is read after the ones that are there."""
        _make_older(Path(self.logging_dir_param) / self.run_name, int(time.time()))
        super().start()

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Store the settings as the only ones: accelerate would add a run of its name for each start."""
        self._settings = values
        self.store_results({})
        (Path(self.logging_dir) / HPARAMS / "hparams.yml").write_text(yaml.safe_dump(values), "utf-8")

    def store_results(self, values: Mapping[str, float]) -> None:
        """Store the results of the run beside its settings, for the table of HPARAMS."""
        folder = Path(self.logging_dir) / HPARAMS
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
        results = {f"results/{name}": value for name, value in values.items()}
        self.writer.add_hparams(self._settings, metric_dict=results, run_name=folder.name)
        self.writer.flush()


def _make_older(folder: Path, now: int) -> None:
    """Give the event files in a folder earlier times if a file of now would not follow them.

    TensorBoard reads event files in the order of their names, which begin with the second of their creation. Two files
    may have the same second, or the clock may have been set back.
    """
    files = [(int(found[2]), path, found) for path in sorted(folder.glob("*")) if (found := _EVENTS.match(path.name))]
    if not files or files[-1][0] < now:
        return
    first = min(now, files[0][0]) - len(files)  # all new names are earlier than all names that are there
    for i, (_, path, found) in enumerate(files):
        path.rename(folder / f"{found[1]}{first + i:010d}{found[3]}")


class MLflow(MLflowTracker):  # type: ignore[misc]
    """MLflow, which keeps every value that it was given: values that its run has already are not sent again.

    Args:
        experiment_name: The experiment.
        run_tags: Tags of the run; those of `MLflowTracker` are tags of the experiment as well.
        **settings: As for `MLflowTracker`.
    """

    def __init__(self, experiment_name: str, run_tags: Mapping[str, str], **settings: Any) -> None:
        super().__init__(experiment_name, **settings)
        self._run_tags = dict(run_tags)
        self._last: dict[str, int] = {}  # the last step of each metric in a resumed run

    def start(self) -> None:
        """Start or resume the run, and tag it."""
        super().start()
        import mlflow

        mlflow.set_tags(self._run_tags)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Store the config; a resumed run keeps the first value of each key, which MLflow does not let change."""
        stored = self._run().data.params if self.run_id else {}
        super().store_init_configuration({key: value for key, value in values.items() if key not in stored})

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Log the values of a step that the run does not have."""
        new = values if self.run_id is None or step is None else {
            name: value for name, value in values.items() if self._last_step(name) < step
        }  # fmt: skip
        if new:
            super().log(new, step=step, **kwargs)

    def _last_step(self, name: str) -> int:
        """The last step of a metric when the run was resumed; -1 without one."""
        if name not in self._last:
            from mlflow import MlflowClient

            history = MlflowClient().get_metric_history(self.run_id, name)
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last[name]

    def _run(self) -> Any:
        import mlflow

        return mlflow.get_run(self.run_id)
