"""Preparation by datatrove's executors: the same bytes as by one process, whatever runs the tasks and stops them."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launching
import pytest
from fake_slurm import Slurm
from making import made_up_text
from test_prepare import config, flags_for, in_cache, tree

from mlm_dist.config import parse
from mlm_dist.corpus import pipeline
from mlm_dist.corpus.engines.task_plan import PARTS, TaskPlan
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.resolve import corpus_spec

SLURM = ("--corpus.executor=slurm", '--corpus.executor_options={partition: cpu, time: "00:10:00"}')
FLAGS = ("--masking.unit=word", "--corpus.engine=datatrove")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of a launcher or a cluster that may have started the tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .jsonl file of 4 shards, with duplicates and near-duplicates in it."""
    path = tmp_path_factory.mktemp("engines") / "documents.jsonl"
    texts = [made_up_text(i % 400, 300) + (" once more" if i >= 410 else "") for i in range(420)]
    path.write_text("\n".join(json.dumps({"text": text * 2}) for text in texts))
    return path


@pytest.fixture(scope="module")
def expected(source: Path) -> PreparedCorpus:
    """The corpus as one process prepares it."""
    found = pipeline.prepare(corpus_spec(config(source, source.parent / "expected", FLAGS[0])))
    assert len(found.manifest["shards"]) == 4
    assert {"duplicate", "near-duplicate"} <= found.manifest["documents"]["dropped"].keys()
    return found


def command(source: Path, cache: Path, *more: str) -> list[str]:
    return [sys.executable, "mlm_dist/prepare.py", *flags_for(source, cache), *FLAGS, *more]


def assert_same(cache: Path, expected: PreparedCorpus) -> None:
    """The cache has the corpus that is expected, and nothing of another preparation."""
    assert in_cache(cache) - {"slurm_logs"} == {expected.digest}
    assert tree(cache / expected.digest) == tree(expected.folder)


def wait_until(is_done: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    patience = time.monotonic() + 120
    while not is_done():
        assert process is None or process.poll() is None, "it ended too early"
        assert time.monotonic() < patience
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("tasks", "workers"), [(3, 2), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((1, 1), (3, 1)))]
)
def test_tasks_and_workers_make_no_difference(
    tasks: int, workers: int, source: Path, expected: PreparedCorpus, tmp_path: Path
) -> None:
    more = f"--corpus.tasks={tasks}", f"--corpus.workers={workers}"
    ended = launching.run(command(source, tmp_path / "cache", *more))
    assert ended.returncode == 0, ended.output
    assert ended.stderr == ""
    names = ("cleaning documents", "finding duplicates", "training tokenizer", "making rows")
    shown = [name for line in ended.stdout.splitlines() for name in names if line[20:].startswith(f"{name} ")]
    assert list(dict.fromkeys(shown)) == [*names]
    assert_same(tmp_path / "cache", expected)


@pytest.mark.slow
def test_tasks_of_a_ray_cluster(source: Path, expected: PreparedCorpus, tmp_path: Path) -> None:
    more = "--corpus.executor=ray", "--corpus.tasks=3", "--corpus.workers=2"
    options = "--corpus.executor_options={mem_per_cpu_gb: 0.3}"
    ended = launching.run(command(source, tmp_path / "cache", *more, options))
    assert ended.returncode == 0, ended.output
    assert_same(tmp_path / "cache", expected)
    # The selection fails in a process of the cluster.
    failed = launching.run(command(source, tmp_path / "none", *more, options, "--corpus.min_chars=999999"))
    assert failed.returncode == 2, failed.output
    assert "has no document left to train on" in failed.stderr and failed.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_preparation_continues_after_the_finished_shards(
    number: signal.Signals, source: Path, expected: PreparedCorpus, tmp_path: Path
) -> None:
    cache, more = tmp_path / "cache", ("--corpus.tasks=4", "--corpus.workers=2")
    process = subprocess.Popen(
        command(source, cache, *more),
        cwd=launching.ROOT,
        env=launching.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        preexec_fn=launching.heed_ctrl_c,  # noqa: PLW1509
    )
    wait_until(lambda: [*cache.glob("*.partial/datatrove/documents/completions/*")], process)
    os.killpg(process.pid, number)
    _, said = process.communicate()
    assert "Traceback" not in said
    assert process.returncode == (-9 if number == signal.SIGKILL else 75)
    (partial,) = cache.glob("*.partial")
    assert not (partial / "tokenizer").exists()
    kept = {path.name: path.stat().st_ino for path in (partial / "documents").glob("*.parquet")}
    # A completed task of an earlier launch says nothing about a shard that is gone meanwhile.
    lost, *others = [f"{path.stem}.parquet" for path in (partial / "shards").glob("*.json")]
    (partial / "documents" / lost).unlink()
    ended = launching.run(command(source, cache, *more))
    assert ended.returncode == 0, ended.output
    assert_same(cache, expected)
    for name in others:
        assert (cache / expected.digest / "documents" / name).stat().st_ino == kept[name], "it was made again"


def test_error_of_a_task_is_one_line(source: Path, tmp_path: Path) -> None:
    """No task may write a file over 8 KiB, which the documents of a shard are."""
    flags = command(source, tmp_path / "cache", "--corpus.tasks=2", "--corpus.workers=2")
    ended = launching.run(["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *flags])
    assert ended.returncode == 2, ended.output
    assert "File too large)" in ended.stderr and ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.output


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm.made(tmp_path / "slurm")


@pytest.mark.slow
def test_jobs_of_slurm_run_one_after_the_other(
    slurm: Slurm, source: Path, expected: PreparedCorpus, tmp_path: Path
) -> None:
    more = (*SLURM, "--corpus.tasks=3", "--corpus.workers=2")
    ended = launching.run(command(source, tmp_path / "cache", *more), **slurm.environment)
    assert ended.returncode == 0, ended.output
    assert "submitted jobs 101 (documents), 102 (selection), 103 (rows)" in ended.stdout
    assert "training a WordPiece tokenizer" in ended.stdout, "a message of the job with the selection"
    assert_same(tmp_path / "cache", expected)
    for script, array, name in zip(slurm.scripts, ("0-2%2", "0-0%1", "0-2%2"), PARTS, strict=True):
        for line in (f"array={array}", "partition=cpu", "time=00:10:00", "kill-on-invalid-dep=yes"):
            assert f"#SBATCH --{line}\n" in script
        assert f".partial/datatrove/{name}/executor.pik" in script
    assert ["--dependency=afterok:" in one for one in slurm.arguments] == [False, True, True]


@pytest.mark.slow
def test_command_that_is_stopped_leaves_its_jobs(
    slurm: Slurm, source: Path, expected: PreparedCorpus, tmp_path: Path
) -> None:
    held, cache = slurm.folder / "held", tmp_path / "cache"
    held.touch()
    process = subprocess.Popen(
        command(source, cache, *SLURM),
        cwd=launching.ROOT,
        env=launching.environment(**slurm.environment),
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_until(lambda: [*cache.glob("*.partial/datatrove/jobs.json")], process)
    process.terminate()
    assert process.wait() == 75
    held.unlink()
    # In a job, as a training job that waited for the last one.
    wait_until((slurm.folder / "103.code").exists)
    ended = launching.run(command(source, cache, *SLURM), SLURM_JOB_ID="200", **slurm.environment)
    assert ended.returncode == 0, ended.output
    assert "waiting for the jobs of an earlier command: 101 (documents), 102 (selection), 103 (rows)" in ended.stdout
    assert len(slurm.scripts) == 3
    assert_same(cache, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "flag", "message", "jobs"),
    [
        ({}, "--corpus.min_chars=999999", "has no document left to train on", "101 102 103\n"),
        (
            {"LOST": "yes"},
            "--corpus.tasks=2",
            "job 101 (documents) left the queue, but 2 of its 2 tasks",
            "101 102 103\n",
        ),
        ({"REFUSED": "102"}, "--corpus.tasks=2", "corpus.executor: sbatch refused a job (code 1", "101\n"),
        ({"SLURM_JOB_ID": "7"}, "--corpus.tasks=2", "this process is part of one", ""),
    ],
    ids=["wrong input", "lost job", "refused job", "within a job"],
)
def test_error_of_a_job_is_one_line(
    changes: dict[str, Any], flag: str, message: str, jobs: str, slurm: Slurm, source: Path, tmp_path: Path
) -> None:
    ended = launching.run(command(source, tmp_path / "cache", *SLURM, flag), **slurm.environment, **changes)
    assert ended.returncode == 2, ended.output
    assert message in ended.stderr and ended.stderr.count("error:") == 1 + ("REFUSED" in changes)
    assert "Traceback" not in ended.output
    cancelled = slurm.folder / "cancelled"
    assert (cancelled.read_text() if cancelled.exists() else "") == jobs


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["engine=local", "executor=slurm"], "corpus.executor: only corpus.engine datatrove has it"),
        (["engine=local", "tasks=2"], "corpus.tasks: only corpus.engine datatrove has it"),
        (["tasks=0"], "corpus.tasks: must be at least 1"),
        (["tasks=2", "workers=3"], "corpus.workers: must be at most corpus.tasks, got 3"),
        (["executor_options={queue: a}"], "queue: executor local has no such option; choose from start_method, rand"),
        (["executor_options={tasks: 3}"], "corpus.executor_options.tasks: set it with corpus.tasks instead"),
        (["executor_options={logging_dir: a}"], "corpus.executor_options.logging_dir: is not free to choose"),
        (["executor=slurm", "executor_options={time: '1'}"], "corpus.executor_options: executor slurm needs partition"),
        (["executor=ray", "executor_options={partition: a}"], "executor_options.partition: executor ray has no such"),
    ],
)
def test_wrong_options_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        corpus_spec(parse(["--corpus.engine=datatrove", *(f"--corpus.{flag}" for flag in flags)]))
    assert message in str(raised.value)


def test_missing_package_is_named_if_it_is_needed(
    source: Path, expected: PreparedCorpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    ray = (*FLAGS, "--corpus.executor=ray")
    assert pipeline.prepare(corpus_spec(config(source, expected.folder.parent, *ray))).folder == expected.folder
    with pytest.raises(ConfigError, match=r"needs the package ray; install it with: pip install 'mlm_dist\[scale\]'"):
        pipeline.prepare(corpus_spec(config(source, tmp_path, *ray)))


def test_what_datatrove_pickles_holds_no_credentials(tmp_path: Path) -> None:
    secret = "https://someone:secret@example.org/docs.git"
    sources: dict[str, Any] = {"one": {"source": secret}, "two": {"source": "docs"}}
    flags = [f"--corpus.sources={json.dumps(sources)}", "--corpus.engine=datatrove"]
    spec = corpus_spec(parse([*flags, "--corpus.executor_options={start_method: spawn}"]))
    assert b"secret" in pickle.dumps(spec)
    store = ShardStore(tmp_path, "digest")
    store.begin()
    plan = TaskPlan.write(spec, CorpusInputs("digest", [], {}), store)
    assert b"secret" not in pickle.dumps(plan) and b"spawn" not in pickle.dumps(plan)
    assert "secret" not in (plan.folder / "inputs" / "inputs.json").read_text()
