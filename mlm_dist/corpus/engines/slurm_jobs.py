"""The jobs of a preparation on a Slurm cluster: submitted at once, each after the one before, and waited for."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.corpus.engines.task_plan import Part, TaskPlan, read_json
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_json

logger = logging.getLogger(__name__)

# A job whose predecessor failed leaves the queue.
SBATCH = {"kill-on-invalid-dep": "yes"}
POLL_SECONDS, QUEUE_SECONDS = 0.5, 20.0


@dataclass(frozen=True)
class Job:
    """A job.

    Args:
        id: Its number, as sbatch printed it.
        tasks: Number of its tasks.
    """

    id: str
    tasks: int


Jobs = dict[Part, Job]  # {part of the preparation: its job}


def submit(chain: Mapping[Part, Any], folder: Path) -> Jobs:
    """Submit the jobs of some executors, of which each depends on the one before.

    Args:
        chain: {part of the preparation: its executor}.
        folder: Folder of the tasks, where the numbers of the jobs are kept.

    Raises:
        CorpusError: This process is part of a job, there is no Slurm, or it refuses a job.
    """
    if "SLURM_JOB_ID" in os.environ:
        raise CorpusError(
            "corpus.executor: slurm submits jobs, and this process is part of one, which would wait for them; run "
            "mlm-dist prepare with the same settings outside of a job first, or set corpus.engine to local"
        )
    if missing := [name for name in ("sbatch", "squeue") if shutil.which(name) is None]:
        raise CorpusError(
            f"corpus.executor: slurm needs the program {missing[0]}, which is not on PATH; run this on a machine that "
            "submits jobs, or choose another executor"
        )
    try:
        list(chain.values())[-1].run()
    except subprocess.CalledProcessError as error:
        cancel({part: Job(one.job_id, one.world_size) for part, one in chain.items() if one.job_id})
        raise CorpusError(
            f"corpus.executor: sbatch refused a job (code {error.returncode}, its message is above); change "
            "corpus.executor_options"
        ) from None
    jobs = {part: Job(str(one.job_id), one.world_size) for part, one in chain.items()}
    write_json(folder / "jobs.json", {part: dataclasses.asdict(job) for part, job in jobs.items()})
    last = list(jobs.values())[-1].id
    logger.info(
        "submitted jobs %s; this command waits for them and may be stopped: they continue, and the same command, or a "
        "training job with --dependency=afterok:%s, publishes the corpus",
        *(names(jobs), last),
    )
    return jobs


def cancel(jobs: Jobs) -> None:
    """Take jobs out of the queue; those that ended are not changed."""
    if jobs and shutil.which("scancel") is not None:
        subprocess.run(["scancel", *(job.id for job in jobs.values())], check=False, capture_output=True)


def submitted(folder: Path) -> Jobs | None:
    """The jobs that were submitted for the tasks in a folder; None if there are none."""
    path = folder / "jobs.json"
    return {part: Job(**job) for part, job in read_json(path).items()} if path.exists() else None


def are_usable(folder: Path) -> bool:
    """Whether jobs that were submitted before are in the queue, or have done all their work."""
    jobs = submitted(folder)
    if jobs is None or (folder / "failure.json").exists():
        return False
    return all(_num_missing(folder, part, job) == 0 for part, job in jobs.items()) or _are_queued(jobs)


def names(jobs: Jobs) -> str:
    """The numbers of jobs and what they do, in words."""
    return ", ".join(f"{job.id} ({part})" for part, job in jobs.items())


def wait(jobs: Jobs, part: Part, plan: TaskPlan) -> None:
    """Wait until all tasks of a part are complete.

    Raises:
        CorpusError: A task failed, or the jobs ended before.
    """
    asked = time.monotonic()
    while missing := _num_missing(plan.folder, part, jobs[part]):
        plan.raise_failure()
        if time.monotonic() - asked > QUEUE_SECONDS:
            # A task that ended while the queue was asked is complete.
            if not _are_queued(jobs) and (missing := _num_missing(plan.folder, part, jobs[part])):
                raise CorpusError(
                    f"corpus.executor: job {jobs[part].id} ({part}) left the queue, but {missing:,} of its "
                    f"{jobs[part].tasks:,} tasks are not complete; see sacct --jobs={jobs[part].id} and its log, "
                    "change corpus.executor_options if it had too little time or memory, and run the same command again"
                )
            asked = time.monotonic()
        time.sleep(POLL_SECONDS)


def _num_missing(folder: Path, part: Part, job: Job) -> int:
    """Number of tasks of a job that are not complete."""
    completions = folder / part / "completions"
    return job.tasks - (len(os.listdir(completions)) if completions.is_dir() else 0)


def _are_queued(jobs: Jobs) -> bool:
    """Whether Slurm holds or runs one of some jobs; also if it does not answer now."""
    if shutil.which("squeue") is None:
        return False
    command = ["squeue", "--me", "--noheader", "--format=%F"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.returncode != 0 or not {job.id for job in jobs.values()}.isdisjoint(done.stdout.split())
