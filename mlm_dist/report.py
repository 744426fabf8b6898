"""Write the report of a run as one HTML page: report.html in the run directory.

    python mlm_dist/report.py runs/mine

It shows the losses, the validation, the corpus, and what the model predicts before and after training. Training writes
it at its end; this job also works while a run is training, or after it was interrupted.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlm_dist import environment, ranks, runtime, system_errors
from mlm_dist.checkpoint import find
from mlm_dist.config import Config, to_dict, to_yaml
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError, UserError, reason
from mlm_dist.evaluation.fill_mask import predict
from mlm_dist.files import write_bytes
from mlm_dist.pages.examples import Comparison
from mlm_dist.pages.page import Content, page
from mlm_dist.pages.record import Record, read_record
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.redaction import config_without_credentials
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec
from mlm_dist.stages import stage
from mlm_dist.trained_model import load_checkpoint, load_exported

logger = logging.getLogger("mlm_dist.report")  # __name__ is __main__ if this file is launched


@environment.restored()
@system_errors.explained()
def run(config: Config) -> Path:
    """Write the report of the run in output_dir; returns the page.

    Raises:
        ConfigError: There is no run in output_dir.
    """
    run_dir = RunDir(Path(config.output_dir).expanduser())
    written = to_dict(config_without_credentials(config))
    # Resolving needs the model's configuration, so it waits until a checkpoint is loaded.
    path = run_dir.report
    if ranks.is_main():
        with stage("writing report", leaves_after=2):
            _write(run_dir, written, lambda: resolve(config, Launch.read()))
    logger.info("report written to %s", path)
    return path


def before_training(run_dir: RunDir, model: Any, corpus: PreparedCorpus) -> None:
    """Write report.json, unless the run has one; a failure is logged and does not end the run; on rank 0.

    A resumed run keeps its own. If it has none, the starting model is the same, because it depends on seed and config.

    Args:
        run_dir: The run directory.
        model: The starting transformers model, before it is sharded or trained.
        corpus: The corpus it will be trained on.
    """
    path = run_dir.start_of_report
    if not path.exists():
        with stage("choosing examples", leaves_after=2):
            _log_failure(
                "the predictions of the starting model are not recorded",
                lambda: StartingPoint.of(model, corpus).save(path),
            )


def after_training(run_dir: RunDir, spec: Spec) -> None:
    """Write the report; a failure is logged and does not end the run; on rank 0."""
    with stage("writing report", leaves_after=2):
        _log_failure("the report is not written", lambda: _write(run_dir, spec.written, lambda: spec))


def _write(run_dir: RunDir, written: Mapping[str, Any], spec: Callable[[], Spec]) -> Path:
    """Write the report; what cannot be read is logged, and named on the page."""
    if not run_dir.metrics.is_file():
        raise ConfigError(f"output_dir: {run_dir.path} has no metrics.jsonl; name the directory of a run")
    record = read_record(run_dir.path)
    warnings: list[str] = []
    start = _read_start(run_dir, warnings)
    content = Content(
        name=run_dir.path.resolve().name,
        record=record,
        corpus=None if start is None else start.corpus,
        comparison=None if start is None else _comparison(run_dir, record, start, spec, warnings),
        config_yaml=to_yaml(written),
        warnings=warnings,
        validation=_read_result(run_dir.validation, warnings),
        probe=_read_result(run_dir.probe, warnings),
    )
    try:
        text = page(content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = f"{type(error).__name__}: {reason(error)}"
        raise ConfigError(
            f"output_dir: the records of {run_dir.path} hold fields or values that no run writes ({problem}); restore "
            "metrics.jsonl, report.json, validation.json and probe.json, or remove the damaged one"
        ) from error
    write_bytes(run_dir.report, text.encode("utf-8", "backslashreplace"), durable=False)
    for warning in warnings:
        logger.warning("report.html: %s", warning)
    return run_dir.report


def _log_failure(what: str, work: Callable[[], object]) -> None:
    try:
        work()
    except Exception as error:  # no report is worth a run
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        logger.warning("%s (%s%s)", what, kind, reason(error))


def _read_start(run_dir: RunDir, warnings: list[str]) -> StartingPoint | None:
    try:
        return StartingPoint.load(run_dir.start_of_report)
    except (OSError, ValueError, RecursionError, AttributeError) as error:
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
    except (OSError, ValueError, RecursionError) as error:
        warnings.append(f"{path.name} cannot be read ({reason(error)}): this result of the validate job is missing.")
        return None
    return result


def _comparison(
    run_dir: RunDir, record: Record, start: StartingPoint, spec: Callable[[], Spec], warnings: list[str]
) -> Comparison:
    """The predictions of the starting model and, if there is one, of the trained model."""
    after, step = None, 0
    try:
        if start.examples and (trained := _trained_model(run_dir, record, spec)) is not None:
            model, tokenizer, step = trained
            after = predict(model, tokenizer, start.examples)
    except (UserError, OSError, ValueError) as error:
        warnings.append(f"The trained model cannot be loaded ({reason(error)}): its predictions are missing.")
    return Comparison(start.examples, start.before, after, step)


def _trained_model(run_dir: RunDir, record: Record, spec: Callable[[], Spec]) -> tuple[Any, Any, int] | None:
    """Model, tokenizer and step: the exported model of a finished run, else the newest good checkpoint, if any."""
    if record.is_finished and (run_dir.model / "config.json").is_file():
        return *load_exported(run_dir.model), record.exported_step
    path, _ = find.newest(run_dir.checkpoints)
    if path is None:
        return None
    model, corpus, step = load_checkpoint(spec(), path)
    return model, corpus.tokenizer, step


if __name__ == "__main__":
    runtime.main(run, prog="report.py", description=__doc__, of_a_run=True)
