"""Any operation on a file may fail, as SQLite tests it: the n-th one, with a full disk, a bad disk or no free handle.

After each fault a job ends with one line that names the path, or without an error where it can do without the file; no
published checkpoint is damaged; and the same command without the fault ends with the results of an undisturbed one. The
same is true for a disk that lost, in a power failure, all that was not synced. `io_faults.py` runs the cases.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import io_faults
import launching
import pytest

SEED, CASES = os.environ.get("MLM_DIST_SEED", "0"), os.environ.get("MLM_DIST_CASES", "200")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that lets operations fail."""
    if sys.platform != "linux" or shutil.which("gcc") is None:
        pytest.skip("the faults need Linux and gcc")
    built = tmp_path_factory.mktemp("library") / "io_faults.so"
    source = Path(__file__).with_suffix(".c").with_name("io_faults.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(built), str(source), "-ldl"], check=True)
    return built


def assert_promises_hold(library: Path, folder: Path, jobs: str, number: str) -> None:
    """Run some cases of some jobs, or with number 0 all of them."""
    tests = str(Path(io_faults.__file__).parent)
    ended = launching.run(
        [sys.executable, io_faults.__file__, str(folder), jobs, number, SEED],
        timeout=24 * 3600,
        LD_PRELOAD=str(library),
        PYTHONPATH=os.pathsep.join((str(launching.ROOT), tests)),
        OMP_NUM_THREADS="1",
    )
    assert ended.returncode == 0, ended.output
    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith(('[["', '{"'))]
    failed = [line for line in lines if isinstance(line, list)]
    report = "\n".join(f"{case}: {'; '.join(problems)}" for case, problems in failed)
    assert not failed, f"seed {SEED}, {lines[-1]}, operations {lines[0]}:\n{report}"
    assert lines[-1]["cases"] > 0


def test_preparation_survives_faults_of_files(library: Path, tmp_path: Path) -> None:
    assert_promises_hold(library, tmp_path, "prepare", "4")


@pytest.mark.slow
def test_all_jobs_survive_faults_of_files(library: Path, tmp_path: Path) -> None:
    """MLM_DIST_CASES is their number; with 0, every operation of each job fails in every way."""
    assert_promises_hold(library, tmp_path, ",".join(io_faults.JOBS), CASES)


def test_disk_that_forgets(tmp_path: Path) -> None:
    """The tester itself: what was not synced is cut, and renames of a folder that was not synced are undone."""
    for name in ("synced", "cut", "moved", "kept", "published"):
        (tmp_path / name).write_text("0123456789")
    (tmp_path / "replaced").mkdir()
    (tmp_path / "replaced" / "9").write_text("old")
    operations = [
        ("-", "create", "synced", ""),
        ("-", "write", "synced", ""),
        ("-", "fsync", "synced", "10"),
        ("-", "create", "cut", ""),
        ("-", "fsync", "cut", "4"),
        ("-", "write", "cut", ""),
        ("-", "rename", "temporary-kept", "kept"),
        ("-", "fsync", "", "0"),
        ("-", "rename", "temporary", "moved"),
        ("!", "rename", "other", "published"),
    ]
    root = f"{tmp_path}/"
    lines = [
        f"{mark}\t{what}\t{(root + path).rstrip('/')}\t{root + other if what == 'rename' else other}"
        for mark, what, path, other in operations
    ]
    io_faults.lose_unsynced("\n".join(lines), tmp_path / "replaced")
    found = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    ten = "0123456789"
    assert found == {"synced": ten, "cut": "0123", "kept": ten, "published": ten, "temporary": ten, "moved": "old"}
