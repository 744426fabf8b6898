"""Fixtures that several test files share."""

from __future__ import annotations

import ast
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import launching
import pytest
import torch
from filelock import FileLock
from making import made_up_prose, made_up_text

pytest_plugins = ["s3_server", "wheel_user"]

# Functions that start programs.
MODULES, LAUNCHERS = {"launching", "forking", "subprocess"}, {"accelerate", "python", "run", "start", "Popen"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start programs, themselves or through a function or fixture of their file."""
    for item in items:
        assert isinstance(item, pytest.Function)
        starters = starting_programs(item.path)
        if (
            item.function.__name__ in starters
            or not starters.isdisjoint(item.fixturenames)
            or {"installed", "runs"} & set(item.fixturenames)
        ):
            item.add_marker(pytest.mark.launch)


@cache
def starting_programs(file: Path) -> frozenset[str]:
    """The functions, classes and fixtures of a file that start programs."""
    uses: dict[str, set[str]] = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            uses[node.name] = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
            uses[node.name] |= {name.arg for name in ast.walk(node) if isinstance(name, ast.arg)}
            called = (part for part in ast.walk(node) if isinstance(part, ast.Attribute) and part.attr in LAUNCHERS)
            if any(isinstance(part.value, ast.Name) and part.value.id in MODULES for part in called):
                uses[node.name].add("a program")
    found = {"a program"}
    while more := {name for name, used in uses.items() if used & found} - found:
        found |= more
    return frozenset(found)


@pytest.fixture(autouse=True)
def logger_as_before() -> Iterator[None]:
    """Undo what a job does to the package's logger."""
    logger = logging.getLogger("mlm_dist")
    handlers, level, propagate = [*logger.handlers], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def one_core() -> None:
    """Keep each pytest worker, and all it launches, on a core of its own: threads that spin on a shared one crawl."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
        torch.set_num_threads(1)  # it was imported when there were more cores


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def prepared_cache(shared: Path, one_core: None) -> Path:
    """A corpus cache that all workers share, with the tiny corpus in it."""
    cache = shared / "corpus-cache"
    launching.here("prepare", f"--corpus.cache_dir={cache}", *launching.TINY)
    return cache


@pytest.fixture(scope="session")
def installed(shared: Path, wheel: Path) -> Path:
    """Where the wheel of this package is installed, beside the environment's libraries; all workers share it."""
    place = shared / "installed"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
            ended = launching.run([*pip, "install", "--no-deps", f"--target={place}", str(wheel)])
            assert ended.returncode == 0, ended.output
    return place


class Runs:
    """Runs of 20 steps on the tiny corpus with checkpoints at steps 10 and 20; each is made once and never changed."""

    FLAGS = (
        *("--optim.duration=20 steps", "--batch.global_size=16", "--logging.every=1", "--validation.every=10"),
        *("--checkpoint.every=10", *launching.DROPOUT, *launching.TINY),
    )

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self._folder = folder
        self.flags = (f"--corpus.cache_dir={cache_dir}", *self.FLAGS)

    def __call__(self, topology: str, *more: str, precision: str = "no") -> Path:
        """The directory of a run on one process (`one`), or on two of another topology."""
        run = self._folder / re.sub(r"[^\w=.-]+", "_", "-".join((topology, precision, *more)))
        with FileLock(f"{run}.lock"):
            if not (run / "stdout.txt").exists():
                shutil.rmtree(run, ignore_errors=True)
                flags = (f"--output_dir={run}", *self.flags, *more)
                if (topology, precision) == ("one", "no"):
                    ended = launching.python("train.py", *flags)
                else:
                    processes = () if topology == "one" else ("--num_processes=2",)
                    launch = (f"--mixed_precision={precision}", *processes)
                    file = "cpu" if topology == "one" else topology
                    ended = launching.accelerate(file, "train.py", *flags, launch=launch)
                assert ended.returncode == 0, ended.output
                (run / "stdout.txt").write_text(ended.stdout, "utf-8")
        return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Runs:
    """Runs that all tests and workers share."""
    folder = prepared_cache.parent / "runs"
    folder.mkdir(exist_ok=True)
    return Runs(folder, prepared_cache)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 30 made-up documents of different lengths, in two subfolders and three formats."""
    root = tmp_path / "documents"
    for i in range(30):
        path = root / ("guide" if i % 2 else "reference") / f"{i:02d}{('.md', '.rst', '.txt')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made_up_text(i, 60 + 40 * (i % 7)), "utf-8")
    return root


@pytest.fixture(scope="session")
def prose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 documents in sentences, and one that is too short; all workers share it."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prose"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            root.mkdir()
            for i in range(40):
                (root / f"{i:02d}.txt").write_text(made_up_prose(i, 40), "utf-8")
            (root / "short.txt").write_text("Too short.", "utf-8")
    return root


@pytest.fixture(scope="session")
def finished(prose: Path, one_core: None) -> Path:
    """The directory of a finished run on that prose, with checkpoints at steps 6 and 12; all workers share it."""
    run = prose.parent / "finished"
    with FileLock(f"{run}.lock"):
        if not (run / "report.html").exists():
            launching.finish(run, prose)
    return run


@pytest.fixture
def run(finished: Path) -> Path:
    """A finished run; it is not changed."""
    return finished


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same run, to be changed."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory, one_core: None) -> tuple[Path, int]:
    """A cache with one corpus of made-up documents in it, so small that epochs end soon; and its training rows."""
    cache = tmp_path_factory.mktemp("small")
    (cache / "documents").mkdir()
    for i in range(24):
        (cache / "documents" / f"{i:02d}.md").write_text(made_up_text(i, 150 + 10 * i), "utf-8")
    source = f"--corpus.source={cache / 'documents'}"
    prepared = launching.here("prepare", source, f"--corpus.cache_dir={cache}", *launching.TINY).result
    return cache, len(prepared.rows("train"))
