"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import launching
import pytest
from filelock import FileLock
from making import made_up_prose, made_up_text


@pytest.fixture(scope="session", autouse=True)
def one_core() -> None:
    """Keep each pytest worker, and all it launches, on a core of its own: threads that spin on a shared one crawl."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session")
def prepared_cache(tmp_path_factory: pytest.TempPathFactory, one_core: None) -> Path:
    """A corpus cache that all workers share, with the tiny corpus in it."""
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "corpus-cache"
    ended = launching.python("prepare.py", f"--corpus.cache_dir={cache}", *launching.TINY)
    assert ended.returncode == 0, ended.output
    return cache


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel of this package is installed, beside the environment's libraries; all workers share it.

    It is built from a copy, which is gone, so that nothing is left in the repository and nothing is read from it.
    """
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "installed"
    with FileLock(f"{place}.lock"):
        if not place.exists():
            source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
            for name in ("mlm_dist", "configs"):
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(launching.ROOT / name, source / name, symlinks=True, ignore=ignored)
            for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(launching.ROOT / name, source / name)
            pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
            built = launching.run([*pip, "wheel", "--no-deps", "--no-build-isolation", f"-w{wheels}", str(source)])
            assert built.returncode == 0, built.output
            shutil.rmtree(source)
            wheel = next(wheels.glob("mlm_dist-*-py3-none-any.whl"))
            ended = launching.run([*pip, "install", "--no-deps", f"--target={place}", str(wheel)])
            assert ended.returncode == 0, ended.output
    return place


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
    ended = launching.python("prepare.py", source, f"--corpus.cache_dir={cache}", *launching.TINY)
    assert ended.returncode == 0, ended.output
    manifest = json.loads(next(cache.glob("*/manifest.json")).read_text("utf-8"))
    return cache, manifest["rows"]["train"]
