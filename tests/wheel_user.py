"""The wheel of this checkout in an environment of its own, for users who have nothing else."""

from __future__ import annotations

import os
import shutil
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import launching
import pytest
from filelock import FileLock
from making import made_up_prose

# Set it to an environment that has the dependencies, to save their installation; the wheel is installed into it.
VARIABLE = "MLM_DIST_WHEEL_VENV"


@dataclass(frozen=True)
class User:
    """A user with an empty folder, whose programs are those of the new environment and of the system.

    Args:
        folder: Where the user works.
        environment: The environment that the wheel is installed in.
        wheel: The wheel.
    """

    folder: Path
    environment: Path
    wheel: Path

    @property
    def package(self) -> Path:
        """The installed package."""
        (found,) = self.environment.glob("lib/python*/site-packages/mlm_dist")
        return found

    def types(self, line: str, *, code: int = 0, **changes: str) -> launching.Ended:
        """Run a line of a shell in the user's folder, and check its exit code."""
        path = f"{self.environment / 'bin'}{os.pathsep}/usr/local/bin:/usr/bin:/bin"
        variables = {"HOME": str(self.folder / "home"), "PATH": path, "PYTHONPATH": "", "VIRTUAL_ENV": ""}
        command = ["bash", "-c", f"set -euo pipefail; {line}"]
        ended = launching.run(command, cwd=self.folder, timeout=1800, **(variables | changes))
        assert ended.returncode == code, f"{line}\n{ended.output}"
        return ended

    def saves(self, name: str, text: str) -> None:
        """Write a file in the user's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def has_documents(self, name: str, count: int = 40) -> None:
        """Make a folder of Markdown files."""
        for i in range(count):
            self.saves(f"{name}/{'guide' if i % 2 else 'reference'}/{i:02d}.md", made_up_prose(i, 40))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """The wheel of this checkout, built once; from a copy that is gone afterwards, so that nothing is read from it."""
    with FileLock(shared / "wheel.lock"):
        if not list(shared.glob("*.whl")):
            source = tmp_path_factory.mktemp("source")
            launching.copy_of_package(source)
            pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", f"-w{shared}"]
            ended = launching.run([*pip, str(source)])
            assert ended.returncode == 0, ended.output
            shutil.rmtree(source)
        (built,) = shared.glob("mlm_dist-*-py3-none-any.whl")
    return built


@pytest.fixture(scope="session")
def environment(shared: Path, wheel: Path) -> Path:
    """A new environment with the wheel, its extra `deepspeed`, and what starts a notebook; made once."""
    prepared = os.environ.get(VARIABLE)
    place = Path(prepared) if prepared else shared / "environment"
    pip = [str(place / "bin" / "python"), "-m", "pip", "--quiet", "install"]
    with FileLock(shared / "environment.lock"):
        if not (shared / "environment.installed").exists():
            if prepared:
                ended = launching.run([*pip, "--no-deps", "--force-reinstall", str(wheel)])
            else:
                venv.create(place, with_pip=True)
                pip.append(f"--constraint={launching.ROOT / 'constraints.txt'}")
                ended = launching.run([*pip, f"{wheel}[deepspeed]", "ipykernel", "nbclient"], timeout=3600)
            assert ended.returncode == 0, ended.output
            (shared / "environment.installed").touch()
    return place


@pytest.fixture
def user(tmp_path: Path, environment: Path, wheel: Path) -> User:
    """A user with an empty folder."""
    return User(tmp_path, environment, wheel)
