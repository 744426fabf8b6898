"""Runs jobs whose n-th operation on a file fails, or whose disk forgets what was not synced; see test_io_faults.py.

It is a program of its own, because the library that lets operations fail must be there when it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import forking
import launching
from making import made_up_prose

from mlm_dist.checkpoint import format
from mlm_dist.errors import CheckpointError
from mlm_dist.files import sha256_of

STEPS = 6
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EMFILE": errno.EMFILE}
# What fails, and how often: a full disk stays full, a bad block may be read the next time.
KINDS = (("ENOSPC", True), ("EIO", False), ("EMFILE", False))
JOBS = ("prepare", "train", "resume", "export", "report")


class Case(NamedTuple):
    """One fault.

    Args:
        job: The job that meets it.
        n: The number of the operation.
        error: Its name, or `kill`: the job ends there, and the disk keeps what was synced.
        lasting: Whether all operations after it fail as well.
    """

    job: str
    n: int
    error: str
    lasting: bool = False


class Bench:
    """The folder that all cases use, so that the same paths are in all files.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.case, self.replaced = folder, folder / "case", folder / "replaced"
        self.log, self.journal = folder / "log", folder / "journal"
        self.run, self.cache = self.case / "run", self.case / "cache"
        documents = folder / "documents"
        documents.mkdir()
        for i in range(12):
            (documents / f"{i:02d}.txt").write_text(made_up_prose(i, 12), "utf-8")
        self.flags = [
            *(f"--corpus.source={documents}", f"--corpus.cache_dir={self.cache}", f"--output_dir={self.run}"),
            *(f"--optim.duration={STEPS} steps", "--batch.global_size=4", "--checkpoint.every=2"),
            *("--checkpoint.keep_last=1", "--validation.every=3", "--corpus.validation_fraction=0.2"),
            *("--logging.every=1", *launching.TINY, "--tokenizer.train_vocab_size=300"),
        ]
        self._expected: dict[str, Any] = {}
        self._operations: dict[str, int] = {}
        self._library = ctypes.CDLL(None)

    def prepare_templates(self, wanted: Sequence[str]) -> None:
        """Make what each job begins with, and what it ends with if nothing fails; up to the last job that is wanted."""
        for job in JOBS[: max(map(JOBS.index, wanted)) + 1]:
            if job == "prepare":
                self.case.mkdir()
            elif job == "resume":
                killed = forking.forked(
                    lambda: forking.job("train", *self.flags, MLM_DIST_FAULT="mid_step@4"), self.log
                )
                assert killed.returncode == -9, killed.output
            (self.case / "tmp").mkdir(exist_ok=True)
            shutil.copytree(self.case, self.folder / job, symlinks=True)
            ended = self._ended(job)
            assert ended.returncode == 0, ended.output
            self._expected[job] = self.results()
            self._operations[job] = len(self.journal.read_text().splitlines())
            if job == "train":  # the run that is killed begins where this one did
                shutil.copytree(self.case, self.folder / "finished", symlinks=True)
                self.begin("train")
        if "resume" in self._expected:
            assert self._expected["resume"] == self._expected["train"]

    def import_all(self) -> None:
        """Import what jobs need, once for all cases. To run one here would start threads, which forked ones lack."""
        names = self.folder / "modules"

        def work() -> None:
            try:
                for job in ("train", "report"):
                    launching.here(job, *self.flags)
            finally:
                names.write_text("\n".join(sys.modules))

        ended = forking.forked(work, self.log)
        assert ended.returncode == 0, ended.output
        shutil.rmtree(self.case)
        for name in names.read_text().splitlines():
            with contextlib.suppress(Exception):
                importlib.import_module(name)

    def operations(self, job: str) -> int:
        """The number of operations on files of a job."""
        return self._operations[job]

    def begin(self, job: str) -> None:
        """Put in place what a job begins with."""
        for folder, template in ((self.case, self.folder / job), (self.replaced, None)):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(template, folder, symlinks=True) if template else folder.mkdir()

    def results(self) -> dict[str, Any]:
        """What must not depend on faults."""
        files = [path for path in self.case.rglob("*") if path.is_file() and path.name != ".lock"]
        wanted: tuple[str, ...] = (
            "*/cache/*/*/*.arrow",
            "*/cache/*/manifest.json",
            "*/run/checkpoints/step-*/*.safetensors",
        )
        wanted = (*wanted, "*/run/model/*.safetensors", "*/run/model/*.json", "*/run/checkpoints/step-*/state.json")
        found: dict[str, Any] = {
            str(path.relative_to(self.case)): sha256_of(path)
            for path in files
            if any(path.match(pattern) for pattern in wanted) and "rendezvous" not in path.parts
        }
        if (self.run / "metrics.jsonl").exists():
            lines = [*launching.metrics(self.run, "train"), *launching.metrics(self.run, "validation")]
            found["metrics"] = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]
            found["report"] = (self.run / "report.html").is_file()
        return found

    def problems(self, case: Case) -> list[str]:
        """What is wrong after a fault, and after the same command without it."""
        self.begin(case.job)
        before = self.results()
        ended = self._ended(case.job, case)
        problems = []
        if case.error == "kill":
            lose_unsynced(self.journal.read_text("utf-8"), self.replaced)
        else:
            problems += self._wrong_end(ended)
        for path in format.published(self.run / "checkpoints"):
            try:
                format.verify(path)
            except CheckpointError as error:
                problems.append(f"a damaged checkpoint is published: {error}")
        if not format.published(self.run / "checkpoints") and any("checkpoints" in name for name in before):
            problems.append("no checkpoint is left")
        problems += [f"{path} is cut" for path in self.run.glob("*.json") if not _is_json(path)]
        again = self._ended(case.job)
        if again.returncode:
            problems.append(f"the same command ends with {again.returncode}: {again.output}")
        elif problems_of := _difference(self.results(), self._expected[case.job]):
            problems.append(f"other results: {problems_of}")
        if problems:
            problems.append(f"it said: {ended.output}")
        return problems

    def _wrong_end(self, ended: forking.Ended) -> list[str]:
        errors = [line for line in ended.output.splitlines() if line.startswith("error: ")]
        problems = []
        if "Traceback" in ended.output:
            problems.append("a traceback")
        if ended.returncode == 2:
            if len(errors) != 1 or str(self.case) not in errors[0]:
                problems.append(f"no line that names the path: {errors}")
        elif ended.returncode != 0:
            problems.append(f"exit code {ended.returncode}")
        return problems

    def _ended(self, job: str, case: Case | None = None) -> forking.Ended:
        name = {"resume": "train"}.get(job, job)
        more = (f"--output_dir={self.run}",) if name in ("export", "report") else self.flags

        def work() -> None:
            os.environ["TMPDIR"] = tempfile.tempdir = str(self.case / "tmp")
            paths = [os.fsencode(path) for path in (self.case, self.journal, self.replaced)]
            error = ERRORS.get(case.error, 0) if case else 0
            n, lasting, keep = (case.n, case.lasting, case.error == "kill") if case else (0, False, False)
            arm: Callable[..., None] = self._library.io_faults_arm
            arm(paths[0], None, ctypes.c_long(n), error, int(lasting), paths[1], paths[2] if keep else None)
            forking.job(name, *more, of_a_run=name in ("export", "report"))

        return forking.forked(work, self.log)


def lose_unsynced(journal: str, replaced: Path) -> None:
    """Bring the disk to a state that a power failure may leave.

    Bytes that were written after the last fsync of their file are lost, and renames are undone unless their folder was
    synced afterwards. Removals are kept.

    Args:
        journal: The operations until the failure.
        replaced: Files that were replaced, named by the number of their rename.
    """
    safe: dict[str, int] = {}  # bytes of the files that were changed
    pending: list[tuple[int, str, str]] = []
    for n, line in enumerate(journal.splitlines(), 1):
        mark, what, path, other = line.split("\t")
        if mark == "!":
            break
        if what == "create":
            safe[path] = 0
        elif what in ("write", "open", "truncate"):
            safe.setdefault(path, 0 if not Path(path).exists() or what == "open" else Path(path).stat().st_size)
        elif what == "fsync" and Path(path).is_dir():
            pending = [one for one in pending if os.path.dirname(one[2]) != path]
        elif what == "fsync":
            safe[path] = int(other)
        elif what == "rename":
            moved = {name: other + name[len(path) :] for name in safe if name == path or name.startswith(path + "/")}
            safe = {moved.get(name, name): size for name, size in safe.items()}
            pending.append((n, path, other))
    for name, size in safe.items():
        if os.path.isfile(name) and os.path.getsize(name) > size:
            os.truncate(name, size)
    for n, path, other in reversed(pending):
        if os.path.lexists(other) and not os.path.lexists(path) and os.path.isdir(os.path.dirname(path)):
            os.rename(other, path)
            if (replaced / str(n)).exists():
                shutil.copyfile(replaced / str(n), other)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text("utf-8"))
    except ValueError:
        return False
    return True


def _difference(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]


def cases(bench: Bench, jobs: Sequence[str], number: int, seed: int) -> list[Case]:
    """Some cases of the jobs, or with 0 all of them."""
    every = [
        Case(job, n, error, lasting)
        for job in jobs
        for n in range(1, bench.operations(job) + 1)
        for error, lasting in (*KINDS, ("kill", False))
    ]
    return every if not number else random.Random(seed).sample(every, min(number, len(every)))


def main(folder: str, jobs: str, number: str, seed: str) -> None:
    """Run cases, and print a JSON list for each that fails; the last line is a summary."""
    wanted = jobs.split(",")
    bench = Bench(Path(folder))
    bench.import_all()
    bench.prepare_templates(wanted)
    counts = {job: bench.operations(job) for job in wanted}
    print(json.dumps({"operations": counts}), flush=True)
    chosen = cases(bench, wanted, int(number), int(seed))
    for case in chosen:
        if problems := bench.problems(case):
            print(json.dumps([case, problems]), flush=True)
    print(json.dumps({"cases": len(chosen)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
