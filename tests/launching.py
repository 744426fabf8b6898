"""Launch jobs as a user would, or run them in this process, which saves seconds of imports."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from mlm_dist.config import parse, parse_of_run

ROOT = Path(__file__).resolve().parent.parent
# A small corpus, quickly tokenized; every test that trains uses it, so that it is prepared once.
# What the export proves by loading the model in a process of its own has its own tests.
TINY = ("--tokenizer.train_vocab_size=1000", "--rows.max_length=64", "--export.verify=false")
# A model with dropout.
DROPOUT = (
    "--model.name_or_path=bert-tiny",
    "--model.overrides={hidden_dropout_prob: 0.1, attention_probs_dropout_prob: 0.1}",
)
# A run of a few steps on a folder of documents, with a checkpoint half way.
SHORT = (
    *("--corpus.validation_fraction=0.2", "--optim.duration=12 steps"),
    *("--logging.every=2", "--validation.every=6", "--checkpoint.every=6", *TINY),
)
# A run that soon gets worse, and ends for it.
PATIENT = (
    *("--optim.duration=60 steps", "--optim.lr=0.05", "--optim.schedule=constant", "--optim.warmup=0"),
    *("--validation.every=2", "--validation.patience=2", "--checkpoint.every=100", "--checkpoint.keep_last=1"),
)
ACCELERATE = ROOT / "configs" / "accelerate"


def heed_ctrl_c() -> None:
    """For a process that is to get a Ctrl-C: tests may run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Ended:
    """A job that has ended."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All it said."""
        return self.stdout + self.stderr


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def environment(**changes: str) -> dict[str, str]:
    """This environment without what another launcher, or a hub, would leave in it."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in launcher}
    return inherited | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"} | changes


def run(command: list[str], *, timeout: float = 300, cwd: Path = ROOT, **changes: str) -> Ended:
    """Run a command to its end; at the timeout its whole process group is killed and the test fails."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        stdout, stderr = process.communicate()
        raise AssertionError(f"{command} did not end in {timeout} s:\n{stdout}\n{stderr}") from None
    return Ended(process.returncode, stdout, stderr)


def python(script: str, *arguments: str, **options: Any) -> Ended:
    """`python mlm_dist/SCRIPT ...`."""
    return run([sys.executable, f"mlm_dist/{script}", *arguments], **options)


def accelerate(topology: str, script: str, *arguments: str, launch: tuple[str, ...] = (), **options: Any) -> Ended:
    """`accelerate launch --config_file configs/accelerate/TOPOLOGY.yaml LAUNCH... mlm_dist/SCRIPT ...`.

    ZeRO computes on the CPU: its files are for GPUs.
    """
    on_cpu = ("--gpu_ids=-1,-1",) if topology.startswith("zero") else ()
    return run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            f"--config_file={ACCELERATE / topology}.yaml",
            f"--main_process_port={free_port()}",
            *on_cpu,
            *launch,
            f"mlm_dist/{script}",
            *arguments,
        ],
        **options,
    )


@dataclass(frozen=True)
class Done:
    """A job that was done in this process.

    Args:
        result: What it returned.
        log: Its log messages.
    """

    result: Any
    log: str


def here(job: str, *arguments: str, of_a_run: bool = False, **changes: Any) -> Done:
    """Run a job in this process, with changes to the environment.

    Raises:
        UserError: The job raised it.
    """
    config = (parse_of_run if of_a_run else parse)(list(arguments), prog=f"{job}.py")
    with mock.patch.dict(os.environ, changes), logged() as log:
        result = importlib.import_module(f"mlm_dist.{job}").run(config)
    return Done(result, log.getvalue())


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """What the package logs inside; warnings of libraries are ignored there."""
    logger, log = logging.getLogger("mlm_dist"), io.StringIO()
    handler, level = logging.StreamHandler(log), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield log
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def copy_of_package(place: Path) -> Path:
    """Copy what is needed to install the package, so that building it leaves nothing in this checkout."""
    for name in ("mlm_dist", "configs", "launch"):
        shutil.copytree(ROOT / name, place / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / name)
    return place


def finish(run_directory: Path, documents: Path) -> Path:
    """A run of a few steps on a folder of documents, to its end; the cache is beside the folder."""
    here(
        "train",
        *(f"--corpus.source={documents}", f"--corpus.cache_dir={documents.parent / 'prose-cache'}"),
        *(f"--output_dir={run_directory}", *SHORT),
    )
    return run_directory


def metrics(run_directory: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's metrics.jsonl."""
    lines = (run_directory / "metrics.jsonl").read_text("utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["kind"] == kind]
