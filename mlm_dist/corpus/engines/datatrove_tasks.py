"""What runs in the tasks of engine datatrove, and its executors. Imported only if datatrove is used."""

from __future__ import annotations

import logging
import signal
from typing import Any

import multiprocess
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from loguru import logger

from mlm_dist.corpus.engines.task_plan import Part, TaskPlan, await_files, read_json
from mlm_dist.corpus.shares import share
from mlm_dist.files import write_json
from mlm_dist.terminal.console import is_log_shown


class PreparationStep(PipelineStep):  # type: ignore[misc]  # datatrove has no types
    """One part of a preparation, as a step of a pipeline of datatrove: each task runs its share of the shards.

    Args:
        plan: The preparation.
        part: Which part.
    """

    type = "mlm_dist"

    def __init__(self, plan: TaskPlan, part: Part) -> None:
        super().__init__()
        self.plan, self.part, self.name = plan, part, part

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> None:
        """Run the share of a task; it reads no documents of a step before it, and yields none."""
        try:
            {"documents": _write_documents, "selection": _select, "rows": _write_rows}[self.part](
                self.plan, rank, world_size
            )
        except Exception as error:
            self.plan.fail(error)
            raise


def _write_documents(plan: TaskPlan, rank: int, world_size: int) -> None:
    preparation = plan.preparation()
    for i in share(preparation.sizes, rank, world_size):
        if not preparation.has_documents(i):
            preparation.write_documents(i)


def _select(plan: TaskPlan, rank: int, world_size: int) -> None:
    preparation = plan.preparation()
    await_files([plan.store.record(key) for key in preparation.keys])
    messages = _Messages()
    log = logging.getLogger("mlm_dist")
    if not is_log_shown():  # the process that launched the task shows them
        log.addHandler(messages)
        log.setLevel(logging.INFO)
    try:
        digest = preparation.select()
    finally:
        log.removeHandler(messages)
    write_json(plan.selected, {"tokenizer": digest, "messages": messages.taken})


def _write_rows(plan: TaskPlan, rank: int, world_size: int) -> None:
    preparation = plan.preparation()
    await_files([plan.selected])
    rows = preparation.rows(read_json(plan.selected)["tokenizer"])
    for i in share(preparation.sizes, rank, world_size):
        if not rows.has_rows(i):
            rows.write(i)
        if not rows.has_word_starts(i):
            rows.write_word_starts(i)


class _Messages(logging.Handler):
    """Keeps log messages: (level, text)."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.taken.append((record.levelno, record.getMessage()))


class _Quiet(PipelineExecutor):  # type: ignore[misc]
    """An executor whose messages stay out of the terminal; failures are recorded by the step."""

    def _run_for_rank(self, *arguments: Any, **options: Any) -> Any:
        logger.disable("datatrove")
        if multiprocess.parent_process() is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that launched this one
        return super()._run_for_rank(*arguments, **options)


class _Local(_Quiet, LocalPipelineExecutor):  # type: ignore[misc]
    pass


class _Slurm(_Quiet, SlurmPipelineExecutor):  # type: ignore[misc]
    def launch_merge_stats(self) -> None:
        """Submit no job that would write statistics into the folder of a corpus that is published meanwhile."""


class _Ray(_Quiet, RayPipelineExecutor):  # type: ignore[misc]
    pass


EXECUTORS = {"local": _Local, "slurm": _Slurm, "ray": _Ray}
