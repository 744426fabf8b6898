"""The page of a run directory: report.html from the records beside it, also while the run trains."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlm_dist.config import to_yaml
from mlm_dist.errors import ConfigError, UserError, reason
from mlm_dist.files import write_bytes
from mlm_dist.pages.examples import Comparison
from mlm_dist.pages.model_use import exported_model
from mlm_dist.pages.page import Content, page
from mlm_dist.pages.record import Record, read_record
from mlm_dist.pages.resolved import read_yaml
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.run_dir import RunDir
from mlm_dist.training.callbacks import Callback

T = TypeVar("T")
Compare = Callable[[Record, StartingPoint, list[str]], Comparison]

logger = logging.getLogger(__name__)


def write_page(run_dir: RunDir, config: Mapping[str, Any], compare: Compare, *, is_running: bool = False) -> Path:
    """Write report.html; what cannot be read is logged, and named on the page.

    Args:
        run_dir: The run directory.
        config: The config as it was written, without credentials.
        compare: The predictions of the starting and the trained model; it adds to the warnings what is missing.
        is_running: Whether this run writes the page while it trains.

    Raises:
        ConfigError: There is no run, or its records hold what no run writes.
    """
    if not run_dir.metrics.is_file():
        raise ConfigError(f"output_dir: {run_dir.path} has no metrics.jsonl; name the directory of a run")
    record = read_record(run_dir.path)
    warnings: list[str] = []
    start = _read(
        run_dir.start_of_report, StartingPoint.load, "corpus and predictions before training are missing", warnings
    )
    if start is None and not run_dir.start_of_report.exists():
        warnings.append("There is no report.json: corpus and predictions before training are missing.")
    content = Content(
        name=run_dir.path.resolve().name,
        record=record,
        corpus=None if start is None else start.corpus,
        comparison=None if start is None else compare(record, start, warnings),
        config_yaml=to_yaml(config),
        warnings=warnings,
        validation=_read(run_dir.validation, _json, "this result of the validate job is missing", warnings),
        tasks=_read(run_dir.tasks, _json, "this result of the validate job is missing", warnings),
        samples=() if start is None else start.samples,
        resolved=_read(run_dir.resolved, read_yaml, "the schedule is missing", warnings),
        config=config,
        run=run_dir.path.resolve(),
        model=exported_model(run_dir.model, record.is_finished),
        is_running=is_running,
    )
    try:
        text = page(content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"{type(error).__name__}: {reason(error)}"
        raise ConfigError(
            f"output_dir: the records of {run_dir.path} hold fields or values that no run writes ({problem}); restore "
            "metrics.jsonl, report.json, validation.json and tasks.json, or remove the damaged one"
        ) from error
    write_bytes(run_dir.report, text.encode("utf-8", "backslashreplace"), durable=False)
    for warning in [] if is_running else warnings:  # once, at the end
        logger.warning("report.html: %s", warning)
    return run_dir.report


class LivePage(Callback):
    """Writes the page again at each validation, in a thread beside the training; on rank 0.

    A validation that comes while the page is being written is shown the next time. A failure is logged and does not end
    the run.

    Args:
        run_dir: The run directory.
        config: The config as it was written, without credentials.
    """

    def __init__(self, run_dir: RunDir, config: Mapping[str, Any]) -> None:
        self._run_dir, self._config = run_dir, config
        self._writer: threading.Thread | None = None

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        if self._writer is None or not self._writer.is_alive():
            self._writer = threading.Thread(target=self._write, name="report", daemon=True)
            self._writer.start()

    def on_end(self, step: int, *, is_finished: bool) -> None:
        """Wait for the page that is being written: a later one replaces it."""
        if self._writer is not None:
            self._writer.join()

    def _write(self) -> None:
        log_failure(
            "the report is not written",
            lambda: write_page(self._run_dir, self._config, without_training, is_running=True),
        )


def without_training(record: Record, start: StartingPoint, warnings: list[str]) -> Comparison:
    """The predictions of the starting model only: nothing is loaded."""
    return Comparison(start.examples, start.before, None, 0)


def log_failure(what: str, work: Callable[[], object]) -> None:
    """Do some work; a failure is logged: no report is worth a run."""
    try:
        work()
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        logger.warning("%s (%s%s)", what, kind, reason(error))


def _json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _read(path: Path, load: Callable[[Path], T], missing: str, warnings: list[str]) -> T | None:
    """A file of the run; None without it. If it cannot be read, a warning says what is missing."""
    try:
        return load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, AttributeError) as error:
        warnings.append(f"{path.name} cannot be read ({reason(error)}): {missing}.")
        return None
