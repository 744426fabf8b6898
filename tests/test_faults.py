"""Runs survive kills at any moment, signals, non-finite values and full disks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import launching
import psutil
import pytest
from making import small_disk

from mlm_dist import runtime
from mlm_dist.checkpoint import find, format
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.faults import VARIABLE as FAULT
from mlm_dist.files import lock, sha256_of

STEPS = 12
FLAGS = ("--optim.duration=12 steps", "--batch.global_size=8", "--checkpoint.every=4", "--checkpoint.keep_last=1")
# A long run whose first steps do not depend on its duration, so that it can be stopped anywhere.
CONSTANT = ("--optim.schedule=constant", "--optim.warmup=0")
ENDLESS = (*CONSTANT, "--optim.duration=100000 steps")
COMPARED = 60


def flags(run: Path, cache: Path, *more: str) -> list[str]:
    """The flags of a short run in a directory; those that come later win."""
    return [
        *(f"--corpus.cache_dir={cache}", f"--output_dir={run}", "--logging.every=1", "--validation.every=null"),
        *launching.TINY,
        *FLAGS,
        *more,
    ]


def train(run: Path, cache: Path, *more: str, topology: str = "one", fault: str = "") -> launching.Ended:
    """Run to the end: on one process without a launcher, or on two processes of a topology."""
    if topology == "one":
        return launching.python("train.py", *flags(run, cache, *more), **{FAULT: fault})
    launch = ("--num_processes=2", "--mixed_precision=no")
    return launching.accelerate(topology, "train.py", *flags(run, cache, *more), launch=launch, **{FAULT: fault})


def train_here(run: Path, cache: Path, *more: str, fault: str = "") -> str:
    """Run to the end in this process; returns the log."""
    environment: dict[str, Any] = {FAULT: fault}
    return launching.here("train", *flags(run, cache, *more), **environment).log


class Running:
    """A run in progress, on one process or two; its processes are killed at the end."""

    def __init__(self, run: Path, cache: Path, *more: str, topology: str = "one", launch: tuple[str, ...] = ()) -> None:
        self.run = run
        self._output = run.with_name(f"{run.name}-output")
        command = [sys.executable, "mlm_dist/train.py"]
        if topology != "one":
            command = [
                *(sys.executable, "-m", "accelerate.commands.launch"),
                f"--config_file={launching.ACCELERATE / topology}.yaml",
                *(f"--main_process_port={launching.free_port()}", *launch, "mlm_dist/train.py"),
            ]
        with open(self._output, "wb") as output:
            self._process = subprocess.Popen(
                [*command, *flags(run, cache, *more)],
                cwd=launching.ROOT,
                env=launching.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._ranks = 1 if topology == "one" else 2

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    @property
    def output(self) -> str:
        """What it printed so far, on both streams."""
        return self._output.read_text("utf-8", errors="replace")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The train lines so far."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return launching.metrics(self.run, "train")
        return []

    def processes(self) -> list[Any]:
        """The processes that train, by rank, that are alive."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self._ranks == 1:
                return [psutil.Process(self._process.pid)]
            found = {}
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    environment = process.environ()
                    if "RANK" in environment and "mlm_dist/train.py" in process.cmdline():
                        found[int(environment["RANK"])] = process
            return [found[rank] for rank in sorted(found)]
        return []

    @property
    def is_alive(self) -> bool:
        """Whether it is running."""
        return self._process.poll() is None

    def wait_until(self, happened: Callable[[], object], timeout: float = 120) -> None:
        """Wait until a condition is true while it runs."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert self.is_alive, f"it ended early: {self.output}"
            assert time.monotonic() < deadline, f"nothing happened in {timeout} s: {self.output}"
            time.sleep(0.005)

    def end(self, timeout: float = 60) -> int:
        """Wait for its end, and return its exit code."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end in {timeout} s: {self.output}") from None


def comparable(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Train lines without what depends on the clock."""
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


def names(run: Path) -> list[str]:
    """What is in the folder of checkpoints, temporaries included."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def newest(run: Path) -> Path:
    """The newest checkpoint, which is good."""
    found, problems = find.newest(run / "checkpoints")
    assert found is not None
    assert problems == []
    return found


def assert_same(run: Path, other: Path) -> None:
    """Two finished runs are equal bit by bit, and each step was logged once."""
    for each in (run, other):
        assert [line["step"] for line in launching.metrics(each, "train")] == list(range(1, STEPS + 1))
        assert names(each) == [f"step-{STEPS:08d}"]
        format.verify(each / "checkpoints" / f"step-{STEPS:08d}")
    for name in format.FILES:
        ours, theirs = (each / "checkpoints" / f"step-{STEPS:08d}" / name for each in (run, other))
        assert sha256_of(ours) == sha256_of(theirs), name
    assert sha256_of(run / "model" / "model.safetensors") == sha256_of(other / "model" / "model.safetensors")
    assert comparable(launching.metrics(run, "train")) == comparable(launching.metrics(other, "train"))
    assert launching.metrics(run, "validation") == launching.metrics(other, "validation")


class Whole:
    """Uninterrupted runs, each made once, when it is needed."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._folder, self._cache = folder, cache

    def __call__(self, topology: str, *more: str, fault: str = "") -> Path:
        """The directory of a run."""
        run = self._folder / re.sub(r"[^\w=-]+", "_", "".join((topology, *more, fault)))
        if not run.exists():
            if topology == "one":
                printed = train_here(run, self._cache, *more, fault=fault)
            else:
                ended = train(run, self._cache, *more, topology=topology, fault=fault)
                assert ended.returncode == 0, ended.output
                printed = ended.stdout
            (run / "stdout").write_text(printed)
        return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"), prepared_cache)


# --- kills ---

# {moment: the checkpoints that may be the newest good one afterwards}; the second save is at step 8. Before it begins,
# the first one may not be published yet, because a thread does that.
MOMENTS = {
    "mid_step@9": (4, 8),
    "after_model@8": (4,),
    "after_optimizer@8": (4,),
    "after_state@8": (4,),
    "before_rename@8": (4,),
    "after_rename@8": (8,),
}
QUICK = "before_rename@8"


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in MOMENTS]
)
def test_run_killed_at_any_moment_ends_bit_equal(
    moment: str, whole: Whole, tmp_path: Path, prepared_cache: Path
) -> None:
    run = tmp_path / "run"
    ended = train(run, prepared_cache, fault=moment)
    assert ended.returncode == -signal.SIGKILL, ended.output
    good = newest(run)
    assert int(good.name[-8:]) in MOMENTS[moment]
    if moment.startswith("mid_step"):
        assert len(launching.metrics(run, "train")) == 9
    elif moment == "after_rename@8":
        assert names(run) == ["step-00000004", "step-00000008"], (
            "the old one was removed before the new one was published"
        )
        format.verify(run / "checkpoints" / "step-00000004")
    else:
        assert names(run) == [".step-00000008", "step-00000004"]

    assert f"resuming from {good} at step" in train_here(run, prepared_cache)
    assert_same(run, whole("one"))


@pytest.mark.slow
def test_zero_compiles_nothing_on_cpus(tmp_path: Path, prepared_cache: Path) -> None:
    """A build of DeepSpeed that was killed leaves a lock, for which later runs would wait for ever."""
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    given = flags(tmp_path / "run", prepared_cache)
    launch = ("--num_processes=2", "--mixed_precision=no")
    extensions = {"TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    ended = launching.accelerate("zero2", "train.py", *given, launch=launch, **extensions)
    assert ended.returncode == 0, ended.output
    assert [path.name for path in lock.parent.iterdir()] == ["lock"]


@pytest.mark.slow
def test_run_killed_before_its_first_checkpoint_starts_fresh(
    whole: Whole, tmp_path: Path, prepared_cache: Path
) -> None:
    run = tmp_path / "run"
    ended = train(run, prepared_cache, fault="after_optimizer@4")
    assert ended.returncode == -signal.SIGKILL, ended.output
    assert names(run) == [".step-00000004"]
    ended = train(run, prepared_cache)
    assert ended.returncode == 0, ended.output
    assert "resuming from" not in ended.stdout
    assert_same(run, whole("one"))


@pytest.mark.slow
def test_one_of_two_processes_killed(whole: Whole, tmp_path: Path, prepared_cache: Path) -> None:
    run = tmp_path / "run"
    ended = train(run, prepared_cache, topology="cpu_2", fault="mid_step@9@1")
    assert ended.returncode != 0
    assert "exitcode  : -9" in ended.output, ended.output
    assert newest(run).name in ("step-00000004", "step-00000008")
    ended = train(run, prepared_cache, topology="cpu_2")
    assert ended.returncode == 0, ended.output
    assert "resuming from" in ended.stdout
    assert_same(run, whole("cpu_2"))


@pytest.mark.slow
def test_launcher_restarts_after_a_lost_process(whole: Whole, tmp_path: Path, prepared_cache: Path) -> None:
    run = tmp_path / "run"
    more = (*CONSTANT, f"--optim.duration={COMPARED} steps", "--checkpoint.every=2")
    with Running(run, prepared_cache, *more, topology="cpu_2", launch=("--max_restarts=1",)) as running:
        running.wait_until(lambda: len(running.lines) >= 6)
        killed = running.processes()[1]
        killed.kill()
        assert running.end(timeout=180) == 0, running.output
        assert running.output.count("resuming from") == 1
    starts = launching.metrics(run, "start")
    assert [start["resumed_from"] > 0 for start in starts] == [False, True]
    expected = launching.metrics(whole("cpu_2", *more), "train")
    assert comparable(launching.metrics(run, "train")) == comparable(expected)
    assert names(run) == [f"step-{COMPARED:08d}"]
    for name in format.FILES:
        ours, theirs = (newest(each) / name for each in (run, whole("cpu_2", *more)))
        assert sha256_of(ours) == sha256_of(theirs), name


# --- signals ---


def stop(run: Path, cache: Path, topology: str, number: signal.Signals) -> int:
    """Send signals to the last process alone, check that the run is saved, and return its number of steps."""
    other = next(each for each in (signal.SIGTERM, signal.SIGUSR1) if each != number)
    with Running(run, cache, *ENDLESS, "--checkpoint.every=null", topology=topology) as running:
        running.wait_until(lambda: len(running.lines) >= 3)
        one = running.processes()[-1]
        one.send_signal(number)
        one.send_signal(other)
        temporary = (run / "checkpoints").glob(".step-*")
        while running.is_alive and not (run / "checkpoints").exists():
            time.sleep(0.001)
        if any(temporary):  # again while it saves
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(number)
        code, output = running.end(), running.output
        assert running.processes() == []
    step = int(launching.metrics(run, "train")[-1]["step"])
    assert names(run) == [f"step-{step:08d}"], output
    assert format.read_state(newest(run))["step"] == step
    assert output.count(f"stopped by a signal, saved at step {step};") == 1, output
    assert not (run / "model").exists()
    if topology == "one":
        assert code == runtime.EXIT_INTERRUPTED == 75, output
        assert "Traceback" not in output
    else:
        assert code != 0
        # The launcher ends the processes that are still exiting when the first one has exited.
        codes = re.findall(r"exitcode +: (-?\d+)", output)
        assert "75" in codes and set(codes) <= {"75", "-15"}, output
    return step


@pytest.mark.parametrize(
    ("topology", "number"),
    [("one", signal.SIGTERM), pytest.param("cpu_2", signal.SIGUSR1, marks=pytest.mark.slow)],
)
def test_signal_to_one_process_stops_all(
    topology: str, number: signal.Signals, tmp_path: Path, prepared_cache: Path
) -> None:
    stop(tmp_path / "run", prepared_cache, topology, number)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["one", "cpu_2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_stopped_run_resumes(
    topology: str, number: signal.Signals, whole: Whole, tmp_path: Path, prepared_cache: Path
) -> None:
    run = tmp_path / "run"
    step = stop(run, prepared_cache, topology, number)
    more = (*CONSTANT, "--checkpoint.every=null")
    ended = train(run, prepared_cache, *more, f"--optim.duration={max(COMPARED, step + 2)} steps", topology=topology)
    assert ended.returncode == 0, ended.output
    assert f"resuming from {run}/checkpoints/step-{step:08d} at step {step:,}" in ended.stdout
    expected = launching.metrics(whole(topology, *more, f"--optim.duration={COMPARED} steps"), "train")
    assert comparable(launching.metrics(run, "train")[:COMPARED]) == comparable(expected)


# --- non-finite values ---


def assert_skipped(lines: list[dict[str, Any]], stdout: str) -> str:
    """Step 4 alone was skipped, and its samples were named; returns the line that says so."""
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if line["loss"] is None] == [4]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0] + [1] * 9
    said = re.findall(r"step \d+ was skipped: .*", stdout)
    assert len(said) == 1
    assert re.fullmatch(r"step 4 was skipped: .* its samples begin with \d+(, \d+){7}", said[0])
    return str(said[0])


def test_nan_on_one_process(whole: Whole) -> None:
    run = whole("one", *CONSTANT, fault="nan@3")
    lines = launching.metrics(run, "train")
    assert_skipped(lines, (run / "stdout").read_text())
    assert launching.metrics(run, "end")[0]["skipped_steps"] == 1
    assert lines[-1]["loss"] < lines[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["zero2", "cpu_2", "zero1", "zero3", "fsdp2_cpu"])
def test_nan_on_one_of_two_processes(topology: str, whole: Whole, tmp_path: Path, prepared_cache: Path) -> None:
    expected = launching.metrics(whole("one", *CONSTANT, fault="nan@3"), "train")
    run = tmp_path / "run"
    ended = train(run, prepared_cache, *CONSTANT, topology=topology, fault="nan@3@1")
    assert ended.returncode == 0, ended.output
    lines = launching.metrics(run, "train")
    stdout = (whole("one", *CONSTANT, fault="nan@3") / "stdout").read_text()
    assert assert_skipped(lines, ended.stdout) == assert_skipped(expected, stdout)
    assert launching.metrics(run, "end")[0]["skipped_steps"] == 1
    for ours, theirs in zip(lines, expected, strict=True):
        assert ours["loss"] == (None if theirs["loss"] is None else pytest.approx(theirs["loss"], abs=1e-4))


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["one", "zero2", "fsdp2_cpu"])
def test_skipped_step_stays_skipped_after_a_resume(
    topology: str, whole: Whole, tmp_path: Path, prepared_cache: Path
) -> None:
    """After a resume, the optimizer's count of steps does not include it."""
    run = tmp_path / "run"
    ended = train(run, prepared_cache, *CONSTANT, "--optim.duration=8 steps", topology=topology, fault="nan@3")
    assert ended.returncode == 0, ended.output
    assert format.read_state(newest(run))["skipped_steps"] == 1
    ended = train(run, prepared_cache, *CONSTANT, topology=topology)
    assert ended.returncode == 0, ended.output
    expected = whole(topology, *CONSTANT, fault="nan@3")
    assert comparable(launching.metrics(run, "train")) == comparable(launching.metrics(expected, "train"))
    assert sha256_of(newest(run) / "model.safetensors") == sha256_of(newest(expected) / "model.safetensors")


# --- disks ---

MIB = 2**20


def assert_one_clear_line(output: str, *parts: str) -> None:
    """One line says what is wrong, without a traceback."""
    errors = [line for line in output.splitlines() if re.match(r"(\[rank \d+\] )?error: ", line)]
    assert len(errors) == 1, output
    for part in parts:
        assert part in errors[0]
    assert 'mlm_dist/train.py", line' not in output, output


@contextlib.contextmanager
def filled(disk: Path, *, but_for: int) -> Iterator[None]:
    """A disk has no free space, or only some bytes."""
    filler = disk / "filler"
    filler.write_bytes(b"\0" * but_for)
    with contextlib.suppress(OSError), open(disk / "more", "wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    filler.unlink()
    try:
        yield
    finally:
        (disk / "more").unlink()


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "but_for"), [("one", 0), ("one", MIB), ("cpu_2", 0), ("cpu_2", MIB)])
def test_disk_filled_while_training(topology: str, but_for: int, tmp_path: Path, prepared_cache: Path) -> None:
    """The next checkpoint does not fit, or not even the metrics lines before it."""
    more = (*CONSTANT, "--checkpoint.every=100")
    with small_disk(tmp_path / "disk", "40m") as disk:
        run = disk / "run"
        with Running(run, prepared_cache, *ENDLESS, *more, topology=topology) as running:
            running.wait_until((run / "checkpoints" / "step-00000100").exists)
            with filled(disk, but_for=but_for):
                code = running.end(timeout=30)
            output = running.output
        assert code == (runtime.EXIT_USER_ERROR if topology == "one" else 1), output
        if not but_for:
            # Only the main process writes metrics; the other one may report that it lost its peer.
            output = re.sub(r"(?m)^\[rank1\]: .*\n", "", output)
        what = "the checkpoint of step 200 cannot be written" if but_for else f"cannot write {run}/"
        assert_one_clear_line(output, what, "No space left", str(run))
        assert names(run) == ["step-00000100"]
        assert newest(run).name == "step-00000100"
        ended = train(run, prepared_cache, *more, "--optim.duration=104 steps", topology=topology)
        assert ended.returncode == 0, ended.output
        assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, 105))


def test_disk_that_is_read_only_from_the_start(tmp_path: Path, prepared_cache: Path) -> None:
    with small_disk(tmp_path / "disk", "40m") as disk:
        (disk / "run").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(ConfigError) as caught:
            train_here(disk / "run", prepared_cache)
        expected = f"output_dir: cannot write to {disk / 'run'} (Read-only file system); choose another folder"
        assert str(caught.value) == expected


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder is read-only for files that are opened from now on."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_disk_turned_read_only_while_training(tmp_path: Path, prepared_cache: Path) -> None:
    with small_disk(tmp_path / "disk", "40m") as disk:
        run = disk / "run"
        with Running(run, prepared_cache, *ENDLESS, "--checkpoint.every=50") as running:
            running.wait_until((run / "checkpoints" / "step-00000050").exists)
            with read_only(run / "checkpoints"):
                code = running.end(timeout=30)
            output = running.output
        assert code == runtime.EXIT_USER_ERROR, output
        assert_one_clear_line(output, "cannot be written", "Read-only file system", str(run))
        assert newest(run)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["one", "cpu_2"])
def test_disk_that_can_never_hold_it_is_refused_at_once(topology: str, tmp_path: Path, prepared_cache: Path) -> None:
    with small_disk(tmp_path / "disk", "12m") as disk:
        ended = train(disk / "run", prepared_cache, topology=topology)
        assert ended.returncode == (runtime.EXIT_USER_ERROR if topology == "one" else 1), ended.output
        assert_one_clear_line(ended.output, "output_dir: ", "13 MiB", "12 MiB free", str(disk))
        assert not (disk / "run" / "metrics.jsonl").exists()


# --- another run in the same directory ---


@pytest.fixture(scope="module")
def finished(whole: Whole) -> Path:
    """A finished run."""
    return whole("one")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CHANGES = {
    "seed": ("--seed=1", "seed: "),
    "batch": ("--batch.global_size=16", "batch.global_size: "),
    "corpus": ("--corpus.source={folder}", "corpus.source: "),
    "shape": ("--model.overrides.hidden_size=64", "model.overrides.hidden_size: "),
    "masking": ("--masking.probability=0.2", "masking.probability: "),
}


@pytest.mark.parametrize("name", CHANGES)
def test_another_run_is_refused(name: str, finished: Path, prepared_cache: Path, folder: Path) -> None:
    """And its files do not change."""
    flag, key = CHANGES[name]
    before = contents(finished)
    with pytest.raises(CheckpointError) as caught:
        train_here(finished, prepared_cache, flag.format(folder=folder))
    assert str(caught.value).startswith(key)
    assert "--checkpoint.resume never" in str(caught.value)
    assert contents(finished) == before


def test_two_runs_never_write_to_one_directory(tmp_path: Path, prepared_cache: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    held = lock(run / ".lock", wait=False)
    with pytest.raises(ConfigError, match=f"output_dir: another run is writing to {run};"):
        train_here(run, prepared_cache)
    held.release()
    assert not {"config.yaml", "metrics.jsonl", "checkpoints", "model"} & set(os.listdir(run))


def test_new_run_archives_the_old_one(finished: Path, tmp_path: Path, prepared_cache: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    before.pop(".lock", None)  # marks a run in progress, and stays
    before.pop("stdout", None)  # written by these tests, not by the run
    log = train_here(run, prepared_cache, "--seed=1", "--checkpoint.resume=never")
    assert f"moved an earlier run to {run / 'previous-1'}" in log
    assert "resuming from" not in log
    assert contents(run / "previous-1") == before
    format.verify(run / "previous-1" / "checkpoints" / f"step-{STEPS:08d}")
    assert format.read_state(newest(run))["identity"]["seed"] == 1
    assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, STEPS + 1))
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("start") == 1
    assert launching.metrics(run, "train")[0]["loss"] != launching.metrics(finished, "train")[0]["loss"]
