"""Engine datatrove: its executors run the parts of a preparation as tasks, and this process publishes the corpus."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from mlm_dist.corpus.engines import executors, slurm_jobs
from mlm_dist.corpus.engines.task_plan import PARTS, Part, TaskPlan, await_files, read_json
from mlm_dist.corpus.preparation import Preparation
from mlm_dist.corpus.row_preparation import RowPreparation
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)

STAGES = {"documents": "cleaning documents", "selection": "selecting documents", "rows": "making rows"}
PROGRESS_SECONDS = 0.5


class DatatroveEngine:
    """The process that launches the tasks of a preparation.

    Args:
        preparation: The preparation.
        plan: What the tasks need.
        options: `corpus.executor_options`, which name an account or an environment and are no part of the plan.
    """

    def __init__(self, preparation: Preparation, plan: TaskPlan, options: dict[str, Any]) -> None:
        self._preparation, self._plan, self._store, self._options = preparation, plan, plan.store, options
        self._config = plan.spec.documents

    def run(self) -> None:
        """Write the documents, select them, and write and publish the rows.

        Raises:
            CorpusError: No document is left to train on, the tokenizer knows none of the tokens, a file changed while
                it was read, or tasks did not finish their work.
        """
        if self._config.tasks > (count := len(self._preparation.sizes)):
            logger.info("corpus.tasks: %s tasks, but there are %s shards; so many run", self._config.tasks, count)
        with _quiet(), _ray() if self._config.executor == "ray" else contextlib.nullcontext():
            rows = self._run_parts()
        await_files([self._store.record(key) for key in rows.made])
        shutil.rmtree(self._plan.folder, ignore_errors=True)
        self._preparation.publish(rows)

    def _run_parts(self) -> RowPreparation:
        shards = range(len(self._preparation.sizes))
        has_documents = all(map(self._preparation.has_documents, shards))
        jobs = self._jobs(has_documents) if self._config.executor == "slurm" else None
        if not has_documents:
            self._finish("documents", jobs, self._preparation.keys)
        self._finish("selection", jobs, [])
        await_files([self._plan.selected])
        selected = read_json(self._plan.selected)
        for level, message in selected["messages"]:
            logger.log(level, "%s", message)
        rows = self._preparation.rows(selected["tokenizer"])
        if jobs or not all(rows.has_rows(i) and rows.has_word_starts(i) for i in shards):
            self._finish("rows", jobs, [key.rows for key in rows.keys])
        return rows

    def _finish(self, part: Part, jobs: slurm_jobs.Jobs | None, keys: Sequence[str]) -> None:
        """Run the tasks of a part, or wait for its job, and show how many of the shards with some keys are finished."""
        with self._progress(part, keys):
            try:
                if jobs is None:
                    self._executor(part).run()
                else:
                    slurm_jobs.wait(jobs, part, self._plan)
            except Exception:
                if jobs is not None:
                    slurm_jobs.cancel(jobs)
                self._plan.raise_failure()
                raise
            self._plan.raise_failure()  # Ray's executor does not raise it

    def _jobs(self, has_documents: bool) -> slurm_jobs.Jobs:
        """The jobs that were submitted before, or new ones."""
        jobs = slurm_jobs.submitted(self._plan.folder)
        if jobs is not None:
            logger.info("waiting for the jobs of an earlier command: %s", slurm_jobs.names(jobs))
            return jobs
        before: Any = None
        chain: dict[Part, Any] = {}
        for part in PARTS[1:] if has_documents else PARTS:
            before = chain[part] = self._executor(part, depends=before)
        return slurm_jobs.submit(chain, self._plan.folder)

    def _executor(self, part: Part, **more: Any) -> Any:
        """The executor of a part."""
        from mlm_dist.corpus.engines.datatrove_tasks import PreparationStep

        config, options = self._config, dict(self._options)
        tasks = 1 if part == "selection" else max(1, min(config.tasks, len(self._preparation.sizes)))
        if config.executor == "slurm":
            options = {"job_name": f"mlm_dist-{part}"} | options
            options["sbatch_args"] = slurm_jobs.SBATCH | (options.get("sbatch_args") or {})
            options.setdefault("slurm_logs_folder", str(self._plan.cache_dir / "slurm_logs" / self._plan.digest))
        return executors.constructor(config.executor)(
            [PreparationStep(self._plan, part)],
            tasks=tasks,
            workers=min(config.workers or tasks, tasks),
            logging_dir=str(self._plan.folder / part),
            **options,
            **more,
        )

    @contextlib.contextmanager
    def _progress(self, part: Part, keys: Sequence[str]) -> Iterator[None]:
        """Show a stage whose progress is the number of records of shards, counted in megabytes of their files."""
        megabytes = {
            key: size / 1e6
            for key, size in zip(keys, self._preparation.sizes, strict=False)
            if not self._store.record(key).exists()
        }
        ended = threading.Event()
        leaves_after = 0 if keys else None  # the selection has stages of its own
        with stage(STAGES[part], sum(megabytes.values()), "MB" if keys else "", leaves_after=leaves_after) as shown:

            def count() -> None:
                names = os.listdir(self._store.partial / "shards")
                shown.done = sum(megabytes.get(name.removesuffix(".json"), 0.0) for name in names)

            def watch() -> None:
                while not ended.wait(PROGRESS_SECONDS):
                    with contextlib.suppress(OSError):
                        count()

            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
            await_files([self._store.record(key) for key in keys])
            count()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep datatrove's messages out of the terminal inside: stages show the progress, and failures are raised."""
    from loguru import logger as of_datatrove

    of_datatrove.disable("datatrove")
    try:
        yield
    finally:
        of_datatrove.enable("datatrove")


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    """Connect to the Ray cluster that runs, or start one on this machine, unless this process is connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        if is_ours:
            ray.shutdown()
