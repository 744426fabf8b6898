"""What a job shows: bars on a terminal of any width, a few lines in a notebook, lines with times in a log."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import launching
import pytest
from launching import ROOT
from rich.console import Console

from mlm_dist.corpus import summary
from mlm_dist.terminal import console, downloads, library_messages
from mlm_dist.terminal.console import Output
from mlm_dist.terminal.stage import Stage
from mlm_dist.training.progress import TrainingProgress
from mlm_dist.training.result import TrainResult

DEMO = ROOT / "tests" / "progress_demo.py"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LINE: dict[str, Any] = {"loss": 5.3253, "learning_rate": 2.38e-3, "grad_norm": 1.696, "tokens_per_second": 12345.6}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still: its one value is the time in seconds."""
    now = [1000.0]
    monkeypatch.setattr("mlm_dist.terminal.stage.time.perf_counter", lambda: now[0])
    return now


@pytest.fixture
def training(clock: list[float]) -> Stage:
    """A run of 1,955 steps after 500 steps and 83 seconds."""
    one = Stage("step", 1955)
    clock[0] += 83
    one.done = 500
    one.details = ("loss 5.3253", "12,346 tokens/s", "lr 2.38e-03", "grad norm 1.6960")
    return one


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, ()),
        (60, ("0:01:23", "loss")),
        (80, ("0:01:23", "━", "loss")),
        (120, ("0:01:23", "━", "loss", "tokens/s", "lr", "grad norm")),
        (160, ("0:01:23", "━", "loss", "tokens/s", "lr", "grad norm")),
    ],
)
def test_step_percentage_and_time_left_come_first(width: int, shown: tuple[str, ...], training: Stage) -> None:
    text = training.text(width).plain
    assert text.startswith("step  500/1955   26%  ETA 0:04:02")
    assert len(text) < width, "the last column stays free"
    for part in ("0:01:23", "━", "loss", "tokens/s", "lr", "grad norm"):
        assert (part in text) == (part in shown), text


def test_columns_do_not_move_while_a_run_trains(training: Stage, clock: list[float]) -> None:
    before = training.text(120).plain
    training.done, clock[0] = 1955, clock[0] + 241
    after = training.text(120).plain
    assert [before.index(word) for word in ("%", "ETA", "loss")] == [after.index(word) for word in ("%", "ETA", "loss")]


def test_a_stage_without_a_total_shows_count_and_rate(clock: list[float]) -> None:
    one = Stage("training tokenizer", unit="documents")
    assert list(one.over(["a", "b", "c"])) == ["a", "b", "c"]
    clock[0] += 2
    assert one.line(80) == "training tokenizer  3 documents  1.5/s  0:00:02"
    assert one.left_behind() == "training tokenizer    3 documents, 2.0 s"


def test_a_resumed_run_estimates_from_its_own_steps(clock: list[float]) -> None:
    one = Stage("step", 100, first=80)
    clock[0] += 10
    one.done = 90
    assert "90%  ETA 0:00:10  0:00:10" in one.line(80)


def test_time_left_does_not_count_what_comes_before_the_second_step(clock: list[float]) -> None:
    progress = TrainingProgress(100, 0, is_main=True)
    clock[0] += 30  # the first validation, and a first step that compiles
    progress.on_step(1, None)
    clock[0] += 9
    progress.on_step(10, None)
    assert progress.stage.line(80).startswith("step  10/100   10%  ETA 0:01:30  0:00:39")


def test_lines_of_a_log_come_after_growing_times(clock: list[float]) -> None:
    one, said = Stage("making rows"), []
    for second in range(1, 200):
        clock[0] = 1000.0 + second
        said += [second] if one.is_due() else []
    assert said == [10, 30, 70, 130, 190]


@pytest.mark.parametrize(
    ("environ", "is_a_terminal", "expected"),
    [
        ({"TERM": "xterm-256color"}, True, Output.TERMINAL),
        ({}, True, Output.TERMINAL),
        ({"TERM": "dumb"}, True, Output.PLAIN),
        ({"TERM": "xterm"}, False, Output.PLAIN),
        ({"TERM": "xterm", "FORCE_COLOR": "1"}, False, Output.PLAIN),
        ({"TERM": "xterm", "JPY_PARENT_PID": "7"}, False, Output.NOTEBOOK),
        ({"TERM": "xterm", "JPY_PARENT_PID": "7"}, True, Output.NOTEBOOK),
        ({"TERM": "xterm-color", "GIT_PAGER": "cat"}, True, Output.NOTEBOOK),
        ({"TERM": "xterm-color", "GIT_PAGER": "less"}, True, Output.TERMINAL),
    ],
)
def test_kind_of_output(environ: dict[str, str], is_a_terminal: bool, expected: Output) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return is_a_terminal

    assert Output.of(Stream(), environ) is expected
    assert Output.of(None, {}) is Output.PLAIN


@pytest.mark.parametrize("output", [Output.PLAIN, Output.NOTEBOOK])
def test_a_log_has_no_escape_codes_also_with_forced_colors(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = console.console_of(output, io.StringIO())
    shown.print("[bold red]a[/]")
    assert isinstance(shown.file, io.StringIO) and shown.file.getvalue() == "a\n"


def test_train_lines_of_a_notebook_are_some_seconds_apart(
    clock: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mlm_dist.training.progress.output", Output.NOTEBOOK)
    progress = TrainingProgress(600, 0, is_main=True)
    with caplog.at_level(logging.INFO, "mlm_dist"):
        for step in range(1, 601):
            clock[0] += 0.125
            progress.on_step(step, {**LINE, "spike": False})
    steps = [int(message.split("/")[0].split()[1]) for message in caplog.messages]
    assert steps == [1, 121, 241, 361, 481]


def test_a_log_has_every_train_line(caplog: pytest.LogCaptureFixture) -> None:
    progress = TrainingProgress(20, 0, is_main=True)
    with caplog.at_level(logging.INFO, "mlm_dist"):
        for step in range(1, 21):
            progress.on_step(step, {**LINE, "spike": step == 20} if step % 10 == 0 else None)
        TrainingProgress(20, 0, is_main=False).on_step(10, {**LINE, "spike": False})
    assert len(caplog.messages) == 2
    assert re.fullmatch(
        r"step 10/20   50%  ETA 0:00:00  0:00:00  loss 5\.3253  12,346 tokens/s  lr 2\.38e-03  grad norm 1\.6960",
        caplog.messages[0],
    )
    assert "loss 5.3253 (spike)" in caplog.messages[1]


def test_the_start_of_a_run_fits_80_columns(caplog: pytest.LogCaptureFixture) -> None:
    facts = {
        **{"model": "bert-tiny", "from_scratch": True, "parameters": 1_007_744, "rows": 4_037},
        **{"validation_rows": 120, "unigram_loss": 6.34, "world_size": 2, "device": "cpu", "precision": "fp32"},
        **{"sharding": "ddp", "offload": [], "global_batch": 16, "micro_batch": 4, "accumulation": 2},
        **{"samples": 480, "steps": 30, "warmup_steps": 2, "optimizer": "adamw", "schedule": "linear"},
        "peak_learning_rate": 0.003,
    }
    with caplog.at_level(logging.INFO, "mlm_dist"):
        TrainingProgress(30, 0, is_main=True).show(facts)
    assert caplog.messages == [
        "model       bert-tiny, from scratch, 1,007,744 parameters\n"
        "rows        4,037 for training, 120 for validation (unigram baseline 6.3400)\n"
        "hardware    2 x cpu, fp32, ddp\n"
        "batch       16 rows: 2 x 4 rows, accumulated 2 times\n"
        "duration    30 steps, 480 rows\n"
        "optimizer   adamw, linear from 3.00e-03 after 2 steps of warm-up"
    ]
    assert max(map(len, caplog.messages[0].split("\n"))) <= 80


def test_the_summary_names_figures_files_and_the_next_command(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from mlm_dist.checkpoint.state import Best
    from mlm_dist.run_dir import RunDir

    validation = {0: {"loss": 8.3365, "accuracy": 0.0}, 10: {"loss": 5.4468, "accuracy": 0.158}}
    run_dir = RunDir(tmp_path / "my run")
    with caplog.at_level(logging.INFO, "mlm_dist"):
        result = TrainResult(10, True, {}, validation, 6.2835, Best(), False, run_dir)
        result.log([("verdict", "It learnt."), ("next", "Train longer."), ("", "  mlm-dist train")])
    lines = caplog.messages[0].split("\n")
    assert lines[:3] == [
        "validation loss   5.4468; before training 8.3365",
        "unigram baseline  6.2835; the model is 0.8367 better",
        "accuracy          15.8%; before training 0.0%",
    ]
    assert lines[3:] == [
        f"model             {run_dir.model}",
        f"report            {run_dir.report}",
        f"metrics           {run_dir.metrics}",
        "verdict           It learnt.",
        "next              Train longer.",
        "                    mlm-dist train",
    ]


def test_a_download_counts_megabytes() -> None:
    one = Stage("downloading model.safetensors", unit="MB")
    with downloads.counting(one)(total=5_000_000, initial=1_000_000, desc="x", unit="B", unit_scale=True) as bar:
        bar.update(1_500_000)
    assert (one.done, one.total) == (2.5, 5.0)


def test_only_named_messages_of_libraries_are_silenced() -> None:
    script = (
        "import logging, warnings; from mlm_dist.terminal import library_messages; library_messages.silence()\n"
        "for name, text in library_messages.LOGGED.items():\n"
        "    logging.getLogger(name).warning('\\n*****\\n' + text + ' and so on')\n"
        "    logging.getLogger(name).warning('a problem of %s', name)\n"
        "for text in library_messages.WARNED:\n"
        "    warnings.warn(text + ', use another', FutureWarning)\n"
        "warnings.warn('something else is deprecated', FutureWarning)\n"
    )
    ended = launching.run([sys.executable, "-c", script])
    assert ended.returncode == 0, ended.output
    for text in (*library_messages.LOGGED.values(), *library_messages.WARNED):
        assert text not in ended.output
    for name in library_messages.LOGGED:
        assert f"a problem of {name}" in ended.output
    assert "something else is deprecated" in ended.output


def on_terminal(columns: int, rows: int, *arguments: str, resize: int | None = None, **environ: str) -> str:
    """What a program writes to a terminal of this size, which may get other columns while it runs."""
    mine, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    variables = launching.environment(**{"TERM": "xterm-256color"} | environ)
    variables.pop("COLUMNS", None)
    program = subprocess.Popen(
        [sys.executable, *arguments], stdin=its, stdout=its, stderr=its, env=variables, start_new_session=True
    )
    os.close(its)
    written, began = b"", time.monotonic()
    while True:
        if resize is not None and b"step" in written and time.monotonic() > began:
            fcntl.ioctl(mine, termios.TIOCSWINSZ, struct.pack("HHHH", rows, resize, 0, 0))
            resize = None
        try:
            written += os.read(mine, 65536)
        except OSError:  # the program has ended
            break
    os.close(mine)
    assert program.wait(60) == 0, written.decode()
    return written.decode()


def frames(written: str) -> list[str]:
    """The lines that were written, without escape codes and in order."""
    return [line for line in re.split(r"[\r\n]+", ESCAPE.sub("", written)) if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 80, 160])
def test_no_line_is_wider_than_the_terminal(columns: int) -> None:
    written = on_terminal(columns, 24, str(DEMO), "3")
    shown = frames(written)
    assert max(map(len, shown)) < columns
    steps = [line for line in shown if line.startswith("step ")]
    assert len(steps) > 5
    assert all(re.match(r"step +\d+/400 +\d+%  ETA [-\d:]+", line) for line in steps)
    assert any(line.startswith("validation ") and "/120 rows" in line for line in shown)
    assert "WARNING: half of the steps are done" in shown
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert re.fullmatch(r"training +400 steps, loss 4\.0000, .*", shown[-1])


@pytest.mark.slow
def test_lines_that_a_narrower_terminal_breaks_are_removed() -> None:
    """After the resize, the first refresh goes up one row more than there are lines."""
    written = on_terminal(120, 24, str(DEMO), "3", resize=70)
    shown = frames(written)
    wide = [i for i, line in enumerate(shown) if len(line) > 70 and line.startswith("step")]
    assert wide and all(len(line) < 70 for line in shown[wide[-1] + 1 :])
    last = ESCAPE.sub("", written).index(shown[wide[-1]]) if wide else 0
    assert last >= 0
    after = written[written.rindex("grad norm") :]
    assert after.index("\x1b[1A") < after.index("step")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environ", "stamp"),
    [({"TERM": "dumb"}, r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "), ({"JPY_PARENT_PID": "7"}, r"\d\d:\d\d:\d\d ")],
    ids=["dumb terminal", "notebook"],
)
def test_other_outputs_are_plain_lines_with_times(environ: dict[str, str], stamp: str) -> None:
    written = on_terminal(80, 24, str(DEMO), "1", resize=None, **environ)
    assert "\x1b" not in written and "\r" not in written.replace("\r\n", "\n")
    assert all(re.match(stamp, line) for line in written.splitlines())
    assert len(re.findall(r"step +\d+/400", written)) == (1 if "JPY_PARENT_PID" in environ else 40)


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["cpu_2", "zero2"])
def test_a_launch_shows_no_noise_of_libraries(topology: str, tmp_path: Path, prose: Path) -> None:
    on_cpu = ["--gpu_ids=-1,-1", "--num_processes=2"] if topology == "zero2" else []
    ended = launching.run(
        [
            *(sys.executable, "-m", "mlm_dist.program", "train", "--topology", topology, *on_cpu),
            f"--main_process_port={launching.free_port()}",
            *(f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}"),
            *(f"--output_dir={tmp_path / 'run'}", *launching.SHORT),
        ]
    )
    assert ended.returncode == 0, ended.output
    for text in (*library_messages.LOGGED.values(), *library_messages.WARNED):
        assert text not in ended.output
    assert ended.stderr == ""
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in ended.stdout.splitlines()), ended.stdout
    assert len(re.findall(r"step +12/12 ", ended.stdout)) == 1, "rank 0 only"


def test_each_line_of_a_log_has_a_time_but_a_result_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = console.console_of(Output.PLAIN, io.StringIO())
    monkeypatch.setattr(console, "console", shown)
    monkeypatch.setattr(console, "output", Output.PLAIN)
    for name, level, text in (("mlm_dist.train", 30, "a\nb"), ("mlm_dist.plan", 20, "seed: 1\noutput_dir: c")):
        console.ConsoleHandler().emit(logging.LogRecord(name, level, "", 0, text, (), None))
    assert isinstance(shown.file, io.StringIO)
    first, second, *rest = shown.file.getvalue().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
    assert re.fullmatch(stamp + "WARNING: a", first) and re.fullmatch(stamp + "b", second)
    assert rest == ["seed: 1", "output_dir: c"]


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_of_a_corpus_fits_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    address, commit = "https://github.com/someone/" + "a-long-name-" * 4, "8f3c5d2a" * 5
    source = {"name": "", "kind": "git", "location": address, "commit": commit, "files": 332, "dropped": {}}
    manifest = {
        "sources": [source | {"unmatched": {".png": 400, ".yml": 30}}],
        "documents": {"found": 332, "kept": 328, "train": 320, "validation": 8, "dropped": {"duplicate": 4}},
        "tokens": {"kept": 521_801, "dropped": 0, "padded": 1_669, "unknown": 0},
        "rows": {"train": 4_037, "validation": 120},
        "config": {"corpus": {"signed": True}, "rows": {"mode": "pack", "max_length": 128}},
        "domain_tokens": None,
        "notes": {},
    }
    monkeypatch.setattr(console, "output", Output.TERMINAL)
    monkeypatch.setattr(console, "console", Console(width=width))
    lines = console.text_of(summary.table(manifest, "/cache/0123456789abcdef")).split("\n")
    assert max(map(len, lines)) <= width
    third = "".join(line.split("│")[3].strip() for line in lines if line.startswith("│"))
    assert address in third and commit in third, "nothing is cut"
