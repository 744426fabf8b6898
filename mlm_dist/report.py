"""Write the report of a run as one HTML page: report.html in the run directory.

    python mlm_dist/report.py runs/mine

It shows the losses, the validation, the corpus, and what the model predicts before and after training. Training writes
it at its end; this job also works while a run is training, or after it was interrupted.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlm_dist import environment, ranks, runtime, system_errors
from mlm_dist.checkpoint import find
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import Config, to_dict
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import UserError, reason
from mlm_dist.evaluation.fill_mask import TOP_K, predict
from mlm_dist.pages.examples import Comparison, num_in_top
from mlm_dist.pages.next_steps import next_steps
from mlm_dist.pages.record import Record, read_record
from mlm_dist.pages.run_page import LivePage, log_failure, without_training, write_page
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.pages.verdict import verdict
from mlm_dist.redaction import config_without_credentials
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec
from mlm_dist.terminal.stages import stage
from mlm_dist.trained_model import load_checkpoint, load_exported
from mlm_dist.training.callbacks import Callback

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
    if ranks.is_main():
        with stage("writing report", leaves_after=2):
            write_page(run_dir, written, _with_trained(run_dir, lambda: resolve(config, Launch.read())))
    logger.info("report written to %s", run_dir.report)
    return run_dir.report


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
            log_failure(
                "the predictions of the starting model are not recorded",
                lambda: StartingPoint.of(model, corpus).save(path),
            )


def while_training(run_dir: RunDir, spec: Spec) -> Sequence[Callback]:
    """What writes the report at each validation, on rank 0; a failure is logged and does not end the run."""
    return [LivePage(run_dir, spec.written)] if ranks.is_main() else []


def after_training(run_dir: RunDir, spec: Spec, *, is_finished: bool = True) -> list[tuple[str, str]]:
    """Write the report; a failure is logged and does not end the run; on rank 0.

    Args:
        run_dir: The run directory.
        spec: The run.
        is_finished: Whether the run is complete; after a signal there is no time to load a model.

    Returns:
        (name, text) of a line on the report's examples; none without examples or a trained model.
    """
    compare = _with_trained(run_dir, lambda: spec) if is_finished else without_training
    lines: list[tuple[str, str]] = []

    def compare_and_count(record: Record, start: StartingPoint, warnings: list[str]) -> Comparison:
        found = compare(record, start, warnings)
        if found.after:
            right = f"{num_in_top(found.after)} of {len(found.examples)} right words among the first {TOP_K}"
            lines.append(("examples", f"{right}; before training {num_in_top(found.before)}"))
        return found

    with stage("writing report", leaves_after=2):
        log_failure("the report is not written", lambda: write_page(run_dir, spec.written, compare_and_count))
    return lines


def advice(run_dir: RunDir, spec: Spec) -> list[tuple[str, str]]:
    """(name, text) of the verdict on a finished run and of what to do next with it, as the report has them."""
    lines: list[tuple[str, str]] = []

    def judge() -> None:
        record = read_record(run_dir.path)
        judged = verdict(record)
        lines.append(("verdict", judged.headline))
        for i, one in enumerate(next_steps(record, judged, run_dir.path, spec.written)):
            lines.extend([("" if i else "next", one.text), ("", f"  {one.command}")])

    log_failure("there is no verdict on the run", judge)
    return lines


def _with_trained(
    run_dir: RunDir, spec: Callable[[], Spec]
) -> Callable[[Record, StartingPoint, list[str]], Comparison]:
    return lambda record, start, warnings: _comparison(run_dir, record, start, spec, warnings)


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
    model, corpus, step = load_checkpoint(spec(), SavedWeights((path,)))
    return model, corpus.tokenizer, step


if __name__ == "__main__":
    runtime.main(run, prog="report.py", description=__doc__, of_a_run=True)
