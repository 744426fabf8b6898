"""The run directory: its claim before any work is done, its archive, and the records of a run in it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import launching
import pytest
import yaml
from making import small_disk
from specs import spec_of

from mlm_dist.config import parse
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.files import lock
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    cache = tmp_path_factory.mktemp("cache")
    return spec_of(parse([f"--corpus.cache_dir={cache}", "--checkpoint.keep_last=1"]))


def claimed(spec: Spec, path: Path, num_parameters: int = 1000) -> contextlib.AbstractContextManager[RunDir]:
    """A claim of another directory for a model of another size."""
    shape = dataclasses.replace(spec.shape, parameters=num_parameters)
    return RunDir.claim(dataclasses.replace(spec, output_dir=path, shape=shape))


# --- the claim ---


def test_claimed_directory_exists_and_is_locked(plain: Spec, tmp_path: Path) -> None:
    with claimed(plain, tmp_path / "some" / "run") as run_dir:
        assert run_dir.path.is_dir()
        message = r"^output_dir: another run is writing to .*run; wait for it or choose another folder"
        with pytest.raises(ConfigError, match=message), claimed(plain, run_dir.path):
            pass
        (run_dir.path / "metrics.jsonl").touch()
    with claimed(plain, tmp_path / "some" / "run"):
        pass


def test_model_that_the_memory_cannot_hold_is_refused_at_once(plain: Spec, tmp_path: Path) -> None:
    message = (
        r"^model\.name_or_path: 1,000,000,000,000 parameters need 3,725\.3 GiB in 1 processes, but this machine has"
    )
    with pytest.raises(ConfigError, match=message), claimed(plain, tmp_path / "run", 10**12):
        pass
    assert not list(tmp_path.iterdir())


def test_new_directory_that_stays_empty_is_removed(plain: Spec, tmp_path: Path) -> None:
    with claimed(plain, tmp_path / "new"):
        pass
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with claimed(plain, tmp_path / "old"):
        pass
    assert (tmp_path / "old").exists()


def test_file_is_not_a_run_directory(plain: Spec, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^output_dir: cannot write to .*file"), claimed(plain, tmp_path / "file"):
        pass


MIB = 2**18  # parameters: a MiB of weights; two checkpoints and the model take 7 MiB


def test_small_disk_is_refused(plain: Spec, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "6m") as disk:
        with pytest.raises(CheckpointError) as caught, claimed(plain, disk, MIB):
            pass
        message = str(caught.value)
        assert message.startswith("output_dir: 2 checkpoints and the model need 7 MiB")
        assert "6 MiB free" in message
        assert str(disk) in message
        with claimed(plain, disk, 1000):
            pass


def test_space_of_replaced_files_counts_as_free(plain: Spec, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        (disk / "checkpoints" / "step-00000004").mkdir(parents=True)
        (disk / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"\0" * 3 * 2**20)
        with claimed(plain, disk, MIB):
            pass


def test_space_of_an_archived_run_does_not_count_as_free(plain: Spec, tmp_path: Path) -> None:
    """An archive is never removed."""
    with small_disk(tmp_path / "disk", "8m") as disk:
        (disk / "previous-1").mkdir()
        (disk / "previous-1" / "model.safetensors").write_bytes(b"\0" * 3 * 2**20)
        with pytest.raises(CheckpointError, match="5 MiB free"), claimed(plain, disk, MIB):
            pass


# --- before any corpus work ---


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """A read-only directory: a mount if this is root, whom permissions do not bind."""
    with small_disk(path, "1m") as disk:
        assert os.system(f"mount -o remount,ro {disk}") == 0
        yield disk


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Path]:
    path.mkdir()
    held = lock(path / ".lock", wait=False)
    try:
        yield path
    finally:
        held.release()


@contextlib.contextmanager
def full(path: Path) -> Iterator[Path]:
    with small_disk(path, "1m") as disk:
        yield disk


UNUSABLE = {
    "locked": (locked, "output_dir: another run is writing to"),
    "read-only": (read_only, "output_dir: cannot write to"),
    "full": (full, "output_dir: 3 checkpoints and the model need"),
}


@pytest.mark.parametrize(
    "name", ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in UNUSABLE if name != "full")]
)
def test_unusable_directory_is_refused_before_any_corpus_work(name: str, folder: Path, tmp_path: Path) -> None:
    unusable, message = UNUSABLE[name]
    cache = tmp_path / "cache"
    with unusable(tmp_path / "run") as path:
        flags = (f"--corpus.source={folder}", f"--corpus.cache_dir={cache}", f"--output_dir={path}")
        ended = launching.run([sys.executable, "-m", "mlm_dist.train", *flags, *launching.TINY])
    assert ended.returncode == 2, ended.output
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {message}")
    assert "Traceback" not in ended.output
    assert not list(cache.glob("*/manifest.json")) and not list(cache.glob("*.partial")), "the corpus was prepared"


# --- the archive ---


def old_run(folder: Path, text: str) -> None:
    """The files of a finished run."""
    for name in ("checkpoints/step-00000004/state.json", "metrics.jsonl", "tensorboard/events", "model/config.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in ("config.yaml", "resolved.yaml"):
        (folder / name).write_text(text)


def test_archive_moves_and_never_overwrites(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        old_run(tmp_path, f"run {number}")
        assert RunDir(tmp_path).archive(None) == tmp_path / f"previous-{number}"
        for name in ("checkpoints", "metrics.jsonl", "tensorboard", "model", "config.yaml", "resolved.yaml"):
            assert not (tmp_path / name).exists()
    for number in (1, 2, 3):
        for name in ("checkpoints/step-00000004/state.json", "metrics.jsonl", "tensorboard/events", "resolved.yaml"):
            assert (tmp_path / f"previous-{number}" / name).read_text() == f"run {number}"


def test_archive_holds_everything_that_a_new_run_replaces(tmp_path: Path) -> None:
    """The trained model and its config are part of a run too."""
    old_run(tmp_path, "old")
    archive = RunDir(tmp_path).archive(None)
    assert archive is not None
    assert {path.name for path in archive.iterdir()} == {
        *("checkpoints", "metrics.jsonl", "tensorboard", "model", "config.yaml", "resolved.yaml"),
    }


def test_run_that_resumes_is_not_archived(tmp_path: Path) -> None:
    old_run(tmp_path, "mine")
    assert RunDir(tmp_path).archive(tmp_path / "checkpoints" / "step-00000004") is None
    assert (tmp_path / "metrics.jsonl").read_text() == "mine"


def test_resume_from_another_directory_archives_the_run(tmp_path: Path) -> None:
    old_run(tmp_path / "here", "here")
    old_run(tmp_path / "there", "there")
    there = tmp_path / "there" / "checkpoints" / "step-00000004"
    assert RunDir(tmp_path / "here").archive(there) == tmp_path / "here" / "previous-1"
    assert there.exists()


def test_empty_directory_has_nothing_to_archive(tmp_path: Path) -> None:
    assert RunDir(tmp_path).archive(None) is None
    assert list(tmp_path.iterdir()) == []


# --- the records ---


def test_resolved_yaml_holds_every_decided_value(run: Path) -> None:
    """Of the shared run: 12 steps on prose."""
    values = yaml.safe_load((run / "resolved.yaml").read_text("utf-8"))
    start = launching.metrics(run, "start")[0]
    (phase,) = values["phases"]
    assert phase["length"] == {"steps": 12, "samples": 192, "warmup_steps": 1}
    assert phase["batch"]["micro_size"] == start["micro_batch"] == 16
    assert values["corpus"]["rows"] == {"mode": "pack", "max_length": 64}
    assert phase["rate"]["peak"] == pytest.approx(3e-3)
    assert phase["duration"] == "12 steps"
    assert values["model"]["from_scratch"] is True
    assert values["export"]["checkpoint"] == "newest"
    assert values["launch"]["world_size"] == 1
    assert None not in (phase["length"] | phase["batch"] | values["corpus"]["rows"]).values()


def test_records_hold_no_credentials(tmp_path: Path) -> None:
    config = parse(
        [
            *("--corpus.sources.a.source=https://me:secret1@example.org/a.git", "--optim.duration=1 steps"),
            *("--corpus.sources.b.source=https://me:secret2@example.org/b.git", f"--output_dir={tmp_path / 'run'}"),
        ]
    )
    text = spec_of(config).to_yaml()
    assert "secret" not in text and "https://example.org/a.git" in text
    assert "https://example.org/b.git" in text
    assert "secret" not in yaml.safe_dump(dict(spec_of(config).written))


def test_checkpoint_that_is_not_there_is_refused_before_any_work(prose: Path, tmp_path: Path) -> None:
    run, cache, gone = tmp_path / "run", tmp_path / "cache", tmp_path / "step-00000009"
    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={cache}", f"--output_dir={run}", *launching.TINY)
    with pytest.raises(CheckpointError, match=rf"^checkpoint\.resume: {gone} is no checkpoint"):
        launching.here("train", *flags, f"--checkpoint.resume={gone}")
    assert not list(cache.glob("*/manifest.json")) and not run.exists()
