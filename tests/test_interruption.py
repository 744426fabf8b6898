"""Signals to programs: one saves and exits with 75, a second Ctrl-C exits at once, and no process is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import launching
import psutil
import pytest

from mlm_dist import interruption
from mlm_dist.checkpoint import find
from mlm_dist.files import lock

ENDLESS = (
    *("--optim.duration=100000 steps", "--optim.schedule=constant", "--optim.warmup=0", "--batch.global_size=8"),
    *("--logging.every=1", "--validation.every=null", "--validation.max_rows=8", "--checkpoint.every=null"),
    *launching.TINY,
)
SAVED = "stopped by a signal, saved at step"
COMMANDS = {
    "python": [sys.executable, "mlm_dist/train.py"],
    "mlm-dist": [sys.executable, "-m", "mlm_dist.program", "train"],
    "mlm-dist one": [
        sys.executable,
        "-m",
        "mlm_dist.program",
        "train",
        f"--topology={launching.ACCELERATE / 'cpu.yaml'}",
    ],
    "mlm-dist two": [sys.executable, "-m", "mlm_dist.program", "train", "--topology=cpu_2", "--main_process_port=0"],
    "accelerate two": [
        *(sys.executable, "-m", "accelerate.commands.launch", f"--config_file={launching.ACCELERATE / 'cpu_2.yaml'}"),
        *("--main_process_port=0", "mlm_dist/train.py"),
    ],
}


class Program:
    """A program in progress, in a process group of its own, as a terminal starts it."""

    def __init__(self, command: list[str], output: Path, *, ignored: tuple[signal.Signals, ...] = ()) -> None:
        def as_in_a_terminal() -> None:
            for number in (signal.SIGINT, signal.SIGHUP):  # tests may run in the background, which ignores them
                signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

        self._output = output
        with open(output, "wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=launching.ROOT,
                env=launching.environment(PYTHONPATH=str(launching.ROOT), OMP_NUM_THREADS="1"),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=as_in_a_terminal,  # noqa: PLW1509
            )
        self._known: dict[int, psutil.Process] = {}

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text("utf-8", "replace")

    def processes(self) -> list[psutil.Process]:
        """It and all that it started, as far as they are alive."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            self._known |= {one.pid: one for one in (parent, *parent.children(recursive=True))}
        alive = []
        for one in self._known.values():
            with contextlib.suppress(psutil.Error):
                if one.is_running() and one.status() != psutil.STATUS_ZOMBIE:
                    alive.append(one)
        return alive

    def wait_until(self, happened: Callable[[], object], timeout: float = 120) -> None:
        """Wait until a condition is true."""
        deadline = time.monotonic() + timeout
        while not happened():
            assert time.monotonic() < deadline, f"nothing happened in {timeout} s: {self.output}"
            time.sleep(0.01)

    def wait_for(self, text: str) -> None:
        """Wait until it has printed a text."""
        self.wait_until(lambda: text in self.output or self.process.poll() is not None)
        assert text in self.output

    def handles_signals(self) -> bool:
        """Whether it has begun to, which is before it imports anything large."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        caught = int(status.split("SigCgt:")[1].split()[0], 16)
        return bool(caught & 1 << (signal.SIGUSR1 - 1))

    def press_ctrl_c(self) -> None:
        """What a terminal does: the signal goes to the process group in the foreground."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Its exit code; nothing that it started is left."""
        self.processes()
        code = self.process.wait(90)
        self.wait_until(lambda: not self.processes(), 30)
        return code


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts programs, whose processes are killed at the end."""
    programs: list[Program] = []

    def begin(command: list[str], **more: tuple[signal.Signals, ...]) -> Program:
        programs.append(Program(command, tmp_path / f"output-{len(programs)}", **more))
        return programs[-1]

    yield begin
    for program in programs:
        for process in program.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        program.process.wait()


def train(how: str, run: Path, cache: Path, *more: str) -> list[str]:
    return [*COMMANDS[how], f"--corpus.cache_dir={cache}", f"--output_dir={run}", *ENDLESS, *more]


def assert_saved(program: Program, run: Path) -> None:
    """One checkpoint, one line that says so, no traceback."""
    (step,) = [line["step"] for line in launching.metrics(run, "train")][-1:]
    good, problems = find.newest(run / "checkpoints")
    assert good is not None
    assert (good.name, problems) == (f"step-{step:08d}", [])
    assert program.output.count(f"{SAVED} {step:,};") == 1, program.output
    assert "Traceback" not in program.output, program.output
    lock(run / ".lock", wait=False).release()  # another run can start


SOME = [("python", signal.SIGINT)]
ALL = [
    *(("python", number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)),
    *((how, number) for how in ("mlm-dist one", "mlm-dist two") for number in interruption.SIGNALS),
]


@pytest.mark.parametrize(("how", "number"), SOME + [pytest.param(*one, marks=pytest.mark.slow) for one in ALL])
def test_run_is_saved_and_exits_with_75(
    how: str, number: signal.Signals, start: Callable[..., Program], tmp_path: Path, prepared_cache: Path
) -> None:
    run = tmp_path / "run"
    program = start(train(how, run, prepared_cache))
    program.wait_for("step      3/")
    if number == signal.SIGINT:
        program.press_ctrl_c()
    else:
        os.kill(program.process.pid, number)
    assert program.end() == 75, program.output
    assert_saved(program, run)
    assert program.output.count("press Ctrl-C again to stop at once") == (number == signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_of_accelerate_launch_saves(start: Callable[..., Program], tmp_path: Path, prepared_cache: Path) -> None:
    """The launcher ends with its own traceback and 1, after it has let the processes save."""
    run = tmp_path / "run"
    program = start(train("accelerate two", run, prepared_cache))
    program.wait_for("step      3/")
    program.press_ctrl_c()
    assert program.end() == 1
    assert program.output.count(SAVED) == 1
    assert program.output.count("Traceback") == program.output.count("SignalException: Process") == 1
    assert find.newest(run / "checkpoints")[0] is not None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["python", "mlm-dist one", "mlm-dist two"])
def test_second_ctrl_c_exits_at_once(
    how: str, start: Callable[..., Program], tmp_path: Path, prepared_cache: Path
) -> None:
    """Here in the first validation, which is finished before anything is saved."""
    run = tmp_path / "run"
    program = start(train(how, run, prepared_cache, "--validation.max_rows=null"))
    program.wait_for("unigram baseline")  # the first validation takes seconds
    program.press_ctrl_c()
    program.wait_for("press Ctrl-C again")
    time.sleep(2 * interruption.REPEAT_SECONDS)
    program.press_ctrl_c()
    assert program.end() == 130, program.output
    assert SAVED not in program.output
    assert "Traceback" not in program.output
    lock(run / ".lock", wait=False).release()


@pytest.mark.parametrize("how", ["python", pytest.param("mlm-dist two", marks=pytest.mark.slow)])
@pytest.mark.parametrize("moment", [0, pytest.param(1.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGUSR1, marks=pytest.mark.slow)])
def test_signal_while_libraries_are_imported(
    how: str, number: signal.Signals, moment: float, start: Callable[..., Program], tmp_path: Path, prepared_cache: Path
) -> None:
    program = start(train(how, tmp_path / "run", prepared_cache))
    program.wait_until(program.handles_signals)
    time.sleep(moment)
    os.kill(program.process.pid, number)
    assert program.end() == 75, program.output
    assert program.output == f"{interruption.NOTHING_SAVED}\n"
    assert not (tmp_path / "run").exists()


CASES = int(os.environ.get("MLM_DIST_CASES", "12"))


DROPPING = """
import time
from mlm_dist import interruption

class Slow:
    def __del__(self):
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            pass

interruption.watch()
interruption.begin_job()
try:
    for i in range(100):
        print(i, flush=True)
        Slow()
        time.sleep(0.3)
    raise SystemExit("was not interrupted")
except KeyboardInterrupt:
    interruption.leave()
    raise SystemExit(75)
"""


def test_signal_inside_of_a_finalizer_is_not_lost() -> None:
    """Python drops errors there, KeyboardInterrupt too."""
    process = subprocess.Popen(
        [sys.executable, "-c", DROPPING], cwd=launching.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while process.stdout.readline().strip() != "2":
        pass
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (75, "")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["python", "mlm-dist two"])
@pytest.mark.parametrize("case", range(CASES))
def test_signal_at_any_moment_of_a_short_run(
    case: int, how: str, start: Callable[..., Program], tmp_path: Path, prose: Path
) -> None:
    """Preparation, trials, steps, saving, export and report; the same command then finishes the run."""
    run, number = tmp_path / "run", interruption.SIGNALS[case % 4]
    command = [
        *COMMANDS[how],
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={tmp_path / 'cache'}", f"--output_dir={run}"),
        *launching.SHORT,
        *("--export.verify=true", "--corpus.validation_fraction=0.2"),
    ]
    program = start(command)
    moment = 2 + (38 if "two" in how else 26) * case / CASES
    deadline = time.monotonic() + moment
    program.wait_until(lambda: time.monotonic() > deadline or program.process.poll() is not None)
    with contextlib.suppress(ProcessLookupError):
        program.processes()
        if number == signal.SIGINT:
            program.press_ctrl_c()
        else:
            os.kill(program.process.pid, number)
    code = program.end()
    said = f"case {case}, {moment:.1f} s, {number.name}: {program.output}"
    assert code in (0, 75), said
    assert (code == 75) == ("stopped by a signal" in program.output), said
    assert (code == 0) == (run / "model" / "config.json").exists() or "after training" in program.output, said
    for accusation in ("Traceback", "error:", "failed", "damaged", "out of memory", "cannot be exported"):
        assert accusation not in program.output, said
    again = launching.run(command, PYTHONPATH=str(launching.ROOT), OMP_NUM_THREADS="1")
    assert again.returncode == 0, said + again.output
    steps = [line["step"] for line in launching.metrics(run, "train")]
    assert steps == sorted({*steps, *range(2, 13, 2)}), "every second step, and the one at which it was stopped"
    assert len(steps) <= 7
    assert [*run.glob(".model-*"), *(run / "checkpoints").glob(".*")] == []


@pytest.mark.slow
@pytest.mark.parametrize("job", ["prepare", "plan", "validate", "export", "report"])
def test_other_jobs_exit_with_75(job: str, start: Callable[..., Program], tmp_path: Path, prepared_cache: Path) -> None:
    for moment in (0, 2):
        cache = [f"--corpus.cache_dir={tmp_path / 'cache'}", f"--output_dir={tmp_path / 'run'}"]
        program = start([sys.executable, f"mlm_dist/{job}.py", *cache])
        program.wait_until(program.handles_signals)
        time.sleep(moment)
        program.press_ctrl_c()
        code = program.end()
        if code != 2:  # there is no run: it may have said so already
            assert (code, program.output.count("stopped by a signal")) == (75, 1), program.output
        assert "Traceback" not in program.output


@pytest.mark.slow
def test_run_under_nohup_ignores_sighup(start: Callable[..., Program], tmp_path: Path, prepared_cache: Path) -> None:
    program = start(train("python", tmp_path / "run", prepared_cache), ignored=(signal.SIGHUP,))
    program.wait_for("step      2/")
    os.kill(program.process.pid, signal.SIGHUP)
    program.wait_until(lambda: len(launching.metrics(tmp_path / "run", "train")) > 12)
    assert program.process.poll() is None
    program.press_ctrl_c()
    assert program.end() == 75


@pytest.mark.slow
@pytest.mark.parametrize("how", ["accelerate two", "mlm-dist two", "mlm-dist one"])
def test_killed_launcher_leaves_no_orphans(
    how: str, start: Callable[..., Program], tmp_path: Path, prepared_cache: Path
) -> None:
    """Its processes save and leave; a shell that dies is no launcher."""
    run = tmp_path / "run"
    program = start(train(how, run, prepared_cache))
    program.wait_for("step      3/")
    assert len(program.processes()) > 1
    program.process.kill()
    program.wait_until(lambda: not program.processes(), 60)
    assert_saved(program, run)


@pytest.mark.slow
def test_run_outlives_its_shell(start: Callable[..., Program], tmp_path: Path, prepared_cache: Path) -> None:
    words = train("python", tmp_path / "run", prepared_cache)
    program = start(["bash", "-c", '"$@" & wait', "bash", *words])
    program.wait_for("step      2/")
    assert len(program.processes()) == 2
    program.process.kill()
    program.wait_until(lambda: len(launching.metrics(tmp_path / "run", "train")) > 20)
    assert len(program.processes()) == 1


# --- programs without torch, which start quickly ---

BEGINNING = """
import ctypes, os, signal, subprocess, sys, time
from mlm_dist import interruption
interruption.watch()
from mlm_dist import runtime
sys.argv[1:] = []

def hang():
    "As in a collective: Python handles no signals, and nothing is interrupted."
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)

def ready():
    os.write(1, b"ready\\n")

"""


def program_of(job: str) -> list[str]:
    lines = "".join(f"    {line}\n" for line in job.strip().splitlines())
    return [sys.executable, "-c", f"{BEGINNING}def job(config):\n{lines}\nruntime.main(job, prog='job')"]


@pytest.mark.parametrize("number", interruption.SIGNALS)
@pytest.mark.parametrize(
    "job",
    [
        "ready(); time.sleep(100)",
        "interruption.LEAVE_SECONDS = 0.5; ready(); hang()",
        # What a library may do with it.
        "ready()\ntry:\n    time.sleep(100)\nexcept BaseException as error:\n    raise ImportError('failed')",
        "interruption.LEAVE_SECONDS = 0.5; ready()\n"
        "try:\n    time.sleep(100)\nexcept BaseException:\n    time.sleep(100)",
        "from mlm_dist.errors import CorpusError\nready()\n"
        "if subprocess.run(['sleep', '100']).returncode: raise CorpusError('git failed')",
    ],
    ids=["sleeps", "hangs", "is misunderstood", "is swallowed", "waits for a program"],
)
def test_job_that_is_stopped_says_so(job: str, number: signal.Signals, start: Callable[..., Program]) -> None:
    program = start(program_of(job))
    program.wait_for("ready")
    program.processes()
    os.killpg(program.process.pid, number)
    assert program.end() == 75, program.output
    assert program.output == f"ready\n{interruption.NOTHING_SAVED}\n"


def test_second_ctrl_c_ends_a_process_that_hangs(start: Callable[..., Program]) -> None:
    program = start(program_of("with interruption.training():\n    ready(); hang()"))
    program.wait_for("ready")
    program.press_ctrl_c()
    time.sleep(2 * interruption.REPEAT_SECONDS)
    assert program.process.poll() is None
    program.press_ctrl_c()
    assert program.end() == 130
    assert program.output == "ready\n"


def test_finished_program_is_not_stopped(start: Callable[..., Program]) -> None:
    """Nor one that is already leaving."""
    code = "import atexit\natexit.register(lambda: (ready(), time.sleep(1)))"
    program = start(program_of(code))
    program.wait_for("ready")
    os.killpg(program.process.pid, signal.SIGTERM)
    assert (program.end(), program.output) == (0, "ready\n")


def test_signal_to_a_forked_process_is_its_own(start: Callable[..., Program]) -> None:
    job = """
child = os.fork()
if not child:
    time.sleep(100)
time.sleep(0.5)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), interruption.is_interrupted(), flush=True)
interruption.LEAVE_SECONDS = 0.1
time.sleep(2)
"""
    program = start(program_of(job))
    assert (program.end(), program.output) == (0, "-15 False\n")


@pytest.mark.parametrize(
    ("variables", "ends"), [({"WORLD_SIZE": "1"}, True), ({interruption.LAUNCHER: "{pid}"}, True), ({}, False)]
)
def test_process_whose_launcher_was_killed_stops(
    variables: dict[str, str], ends: bool, start: Callable[..., Program]
) -> None:
    """But not one that a person, or a scheduler, has started."""
    launcher = f"""
import os, subprocess
variables = {{name: value.format(pid=os.getpid()) for name, value in {variables!r}.items()}}
subprocess.run({program_of("ready(); time.sleep(6); print('done', flush=True)")!r}, env=os.environ | variables)
"""
    program = start([sys.executable, "-c", launcher])
    program.wait_for("ready")
    assert len(program.processes()) == 2
    program.process.kill()
    program.wait_until(lambda: not program.processes(), 30)
    assert program.output == f"ready\n{interruption.NOTHING_SAVED if ends else 'done'}\n"


def test_output_to_a_closed_pipe_does_not_end_a_run_unsaved() -> None:
    """As after a hangup of the terminal."""
    program = [
        *(sys.executable, "-c"),
        "import os, sys; sys.stdin.readline(); from mlm_dist import interruption; interruption.drop_dead_output(); "
        "print('line', flush=True); os._exit(7)",
    ]
    process = subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=launching.environment(), cwd=launching.ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(60) == 7
