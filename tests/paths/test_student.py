"""A student runs the notebook; the session is killed, and the same cells resume the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import launching
import pytest
import test_notebook
from wheel_user import User


@dataclass(frozen=True)
class Laptop(test_notebook.Machine):
    """A machine whose environment has the wheel already."""

    prepared: Path = Path()

    @property
    def environment(self) -> Path:
        """The environment of the wheel."""
        return self.prepared


@pytest.mark.slow
def test_student_with_the_notebook_that_is_killed_and_resumed(user: User) -> None:
    user.has_documents("documents")
    drive = user.folder / "drive" / "MyDrive"
    drive.mkdir(parents=True)
    laptop = Laptop(user.folder, user.wheel, drive, user.environment)
    ended, _ = laptop.run_all(user.folder / "documents", fault="after_rename@6")
    assert ended.returncode != 0
    assert not (laptop.run / "model").exists()
    assert [line["step"] for line in launching.metrics(laptop.run, "train")] == [2, 4, 6]

    ended, outputs = laptop.run_all(user.folder / "documents")
    assert ended.returncode == 0, ended.output
    assert [line["resumed_from"] for line in launching.metrics(laptop.run, "start")] == [0, 6]
    assert [line["step"] for line in launching.metrics(laptop.run, "train")] == [2, 4, 6, 8, 10, 12]
    assert (laptop.run / "model" / "model.safetensors").exists()
    assert (laptop.run / "report.html").exists()
    assert "Validation" in outputs["report"][0].data["text/html"]
