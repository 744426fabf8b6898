"""The plan job: the spec and one table, without fetching, preparing or writing anything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import launching
import pytest
import yaml


def test_plan_prints_the_spec_and_a_table_and_writes_nothing(tmp_path: Path, prepared_cache: Path) -> None:
    common = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", *launching.TINY)
    ended = launching.python("plan.py", *common)
    assert ended.returncode == 0, ended.output
    spec, _, table = ended.stdout.partition("Plan of ")
    printed = " ".join(table.split())
    prepared = re.search(r"prepared as (\w+)", printed)
    assert prepared is not None, ended.output
    manifest = json.loads((prepared_cache / prepared[1] / "manifest.json").read_text("utf-8"))
    assert f"{manifest['rows']['train']:,} rows" in printed
    for part in (
        "1 process on cpu, no sharding, precision fp32",
        "16 rows per step = 16 x 1 x 1",
        "s per step",
        "fits",
    ):
        assert part in printed, ended.stdout
    assert len(table.splitlines()) < 25
    values = yaml.safe_load(spec)
    assert values["batch"]["micro_size"] == 16
    assert values["corpus"]["rows"]["mode"] == "pack"
    assert values["length"]["steps"] == -(-8 * manifest["rows"]["train"] // 16)
    assert not (tmp_path / "run").exists()
    assert ended.stderr == ""


@pytest.mark.slow
def test_plan_under_a_launcher_prints_once_and_needs_no_process_group(prepared_cache: Path) -> None:
    """The second process ends before the first has read the config: a process group would wait for it."""
    ended = launching.accelerate(
        "cpu_2",
        "plan.py",
        *(f"--corpus.cache_dir={prepared_cache}", "--corpus.source=https://127.0.0.1:9/none.git", *launching.TINY),
        timeout=120,
    )
    assert ended.returncode == 0, ended.output
    assert ended.stdout.count("Plan of") == 1
    assert "2 processes on cpu, DDP" in ended.stdout
    assert "16 rows per step = 8 x 1 x 2" in ended.stdout
    assert "unknown until the corpus is prepared" in ended.stdout


def test_plan_estimates_the_rows_of_local_files(tmp_path: Path, folder: Path) -> None:
    ended = launching.python(
        "plan.py", f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path / 'cache'}", *launching.TINY
    )
    assert ended.returncode == 0, ended.output
    assert "estimated from" in " ".join(ended.stdout.split())
