"""Write the report of a run as one HTML page: report.html in the run directory.

    python mlm_dist/report.py --output_dir runs/mine

It shows the losses, the validation, the corpus, and what the model predicts before and after training. Training writes
it at its end; this job also works while a run is training, or after it was interrupted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_dist import runtime
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError, UserError, reason
from mlm_dist.evaluation.fill_mask import predict
from mlm_dist.files import write_bytes
from mlm_dist.pages.examples import Comparison
from mlm_dist.pages.page import Content, page
from mlm_dist.pages.record import Record, read_record
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.redaction import config_without_credentials
from mlm_dist.trained_model import load_trained_model

logger = logging.getLogger(__name__)


def main(config: Config) -> None:
    """Write the report of the run in output_dir."""
    if runtime.is_main_process():
        logger.info("report written to %s", write_report(config))


def record_start(run: Path, model: Any, corpus: PreparedCorpus) -> None:
    """Write report.json, unless the run has one; a failure is logged and does not end the run.

    A resumed run keeps its own. If it has none, the starting model is the same, because it depends on seed and config.

    Args:
        run: The run directory.
        model: The starting model, on the main process, before it is sharded or trained.
        corpus: The corpus it will be trained on.
    """
    path = run / "report.json"
    if not path.exists():
        _log_failure(
            "the predictions of the starting model are not recorded", lambda: StartingPoint.of(model, corpus).save(path)
        )


def write_after_training(config: Config) -> None:
    """Write the report on the main process; a failure is logged and does not end the run."""
    if runtime.is_main_process():
        _log_failure("the report is not written", lambda: write_report(config))


def write_report(config: Config) -> Path:
    """Write the report of the run in output_dir; what cannot be read is logged, and named on the page.

    Raises:
        ConfigError: There is no run in output_dir.
    """
    run = Path(config.output_dir).expanduser()
    if not (run / "metrics.jsonl").is_file():
        raise ConfigError(f"output_dir: {run} has no metrics.jsonl; name the directory of a run")
    record = read_record(run)
    warnings: list[str] = []
    start = _read_start(run, warnings)
    content = Content(
        name=run.resolve().name,
        record=record,
        corpus=None if start is None else start.corpus,
        comparison=None if start is None else _comparison(config, run, record, start, warnings),
        config_yaml=to_yaml(config_without_credentials(config)),
        warnings=warnings,
        validation=_read_result(run / "validation.json", warnings),
        probe=_read_result(run / "probe.json", warnings),
    )
    path = run / "report.html"
    write_bytes(path, page(content).encode("utf-8", "backslashreplace"), durable=False)
    for warning in warnings:
        logger.warning("report.html: %s", warning)
    return path


def _log_failure(what: str, work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:  # no report is worth a run
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        logger.warning("%s (%s%s)", what, kind, reason(error))


def _read_start(run: Path, warnings: list[str]) -> StartingPoint | None:
    try:
        return StartingPoint.load(run / "report.json")
    except (OSError, ValueError) as error:
        warnings.append(
            f"report.json cannot be read ({reason(error)}): corpus and predictions before training are missing."
        )
        return None


def _read_result(path: Path, warnings: list[str]) -> dict[str, Any] | None:
    """A result of the validate job; None if there is none."""
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warnings.append(f"{path.name} cannot be read ({reason(error)}): this result of the validate job is missing.")
        return None
    return result


def _comparison(config: Config, run: Path, record: Record, start: StartingPoint, warnings: list[str]) -> Comparison:
    """The predictions of the starting model and, if there is one, of the trained model."""
    after, step = None, 0
    try:
        if start.examples and (trained := load_trained_model(config, run, record)) is not None:
            model, tokenizer, step = trained
            after = predict(model, tokenizer, start.examples)
    except (UserError, OSError, ValueError) as error:
        warnings.append(f"The trained model cannot be loaded ({reason(error)}): its predictions are missing.")
    return Comparison(start.examples, start.before, after, step)


if __name__ == "__main__":
    runtime.run(main, prog="report.py", description=__doc__, of_a_run=True)
