"""The runs that experiment trackers hold of one run directory: their ids, and how each resumes."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from accelerate.tracking import GeneralTracker

from mlm_dist.errors import ConfigError
from mlm_dist.files import write_json

logger = logging.getLogger(__name__)

FILE = "trackers.json"
RUN_ID = "run_id"


class _Resume(NamedTuple):
    """How a kind of tracker resumes.

    Args:
        id_of: The id of the run that a started tracker writes to.
        arguments: The arguments that start the tracker on a run of that id.
    """

    id_of: Callable[[Any], str]
    arguments: Callable[[str], dict[str, Any]]


def _yes(_: Any) -> str:
    return "resumed by name or folder"  # no id is needed


# The arguments are those that the documentation of each library gives for resuming a run.
_RESUME = {
    "wandb": _Resume(lambda tracker: tracker.run.id, lambda id_: {"id": id_, "resume": "allow"}),
    "mlflow": _Resume(lambda tracker: tracker.active_run.info.run_id, lambda id_: {"run_id": id_}),
    "swanlab": _Resume(lambda tracker: tracker.run.id, lambda id_: {"id": id_, "resume": "allow"}),
    "aim": _Resume(lambda tracker: tracker.writer.hash, lambda id_: {"run_hash": id_}),
    "comet_ml": _Resume(
        lambda tracker: tracker.writer.get_key(), lambda id_: {"experiment_key": id_, "mode": "get_or_create"}
    ),
    # An offset of 0: steps are counted from the start of the run.
    "clearml": _Resume(
        lambda tracker: tracker.task.id, lambda id_: {"reuse_last_task_id": id_, "continue_last_task": 0}
    ),
    "trackio": _Resume(_yes, lambda _: {"resume": "allow"}),
    "dvclive": _Resume(_yes, lambda _: {"resume": True}),
}


class TrackedRuns:
    """{name of a tracker: id of its run}, and the id of the run itself, in trackers.json of the run directory.

    Args:
        folder: The run directory.

    Raises:
        ConfigError: The file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / FILE
        self._ids: dict[str, str] = {}
        try:
            found = json.loads(self._path.read_text("utf-8"))
            self._ids = {str(name): str(id_) for name, id_ in found.items()}
        except FileNotFoundError:
            pass
        except (ValueError, AttributeError):
            raise ConfigError(
                f"output_dir: {self._path} names no runs of trackers; remove it to start new ones"
            ) from None

    @property
    def run_id(self) -> str:
        """The id of this run, the same in every tracker that takes one and after a resume."""
        if RUN_ID not in self._ids:
            self._ids[RUN_ID] = secrets.token_hex(4)
            write_json(self._path, self._ids)
        return self._ids[RUN_ID]

    def arguments(self, name: str) -> dict[str, Any] | None:
        """The arguments that start a tracker on its run; None if it has none, or cannot resume."""
        return _RESUME[name].arguments(self._ids[name]) if name in _RESUME and name in self._ids else None

    def record(self, tracker: GeneralTracker) -> None:
        """Remember the run of a started tracker, if it can be resumed; before its first value is sent."""
        name = str(tracker.name)
        if name not in _RESUME:
            return
        try:
            id_ = str(_RESUME[name].id_of(tracker))
        except AttributeError:  # another version of its library
            logger.warning("%s does not say which run it writes to; a resumed run will be a new one there", name)
            return
        if self._ids.get(name) != id_:
            self._ids[name] = id_
            write_json(self._path, self._ids)
