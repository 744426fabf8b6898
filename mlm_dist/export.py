"""Export a checkpoint of a run in Hugging Face format, for `from_pretrained` and `pipeline("fill-mask")`.

    python mlm_dist/export.py runs/mine
    python mlm_dist/export.py runs/mine --export.checkpoint runs/mine/checkpoints/step-00000500
    python mlm_dist/export.py runs/mine --export.average ema
    python mlm_dist/export.py runs/mine --export.dtype bfloat16 --export.push_to_hub me/my-model

It exports the newest or the best checkpoint of the run in output_dir (see export.checkpoint), or averaged weights (see
export.average). The config of that run applies, and flags override it. Training exports its model itself.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal

from mlm_dist import environment, runtime, system_errors
from mlm_dist.checkpoint import find
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import ConfigError, ModelError
from mlm_dist.hf_model import sentence_transformer, upload
from mlm_dist.hf_model.model_card import CardContent, base_model, model_card
from mlm_dist.hf_model.task_section import tasks_of
from mlm_dist.hf_model.write import ModelFiles, write_model
from mlm_dist.model.plain_copy import with_parameters
from mlm_dist.pages.record import read_record
from mlm_dist.redaction import without_places
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import ExportSpec, Spec
from mlm_dist.spec.settings import settings
from mlm_dist.terminal.stages import stage
from mlm_dist.trained_model import load_checkpoint, load_model
from mlm_dist.training import averages

logger = logging.getLogger("mlm_dist.export")  # __name__ is __main__ if this file is launched


@environment.restored()
@system_errors.explained()
def run(config: Config) -> Path:
    """Export a checkpoint of the run in output_dir; returns the folder of the model.

    Raises:
        UserError: There is no such checkpoint, it is damaged, or the model cannot be written.
    """
    launch = Launch.read()
    if launch.world_size > 1:
        raise ConfigError("the export job needs one process; start it as python mlm_dist/export.py")
    averages.check_kept(config.export.average, config.optim.ema_decay, config.checkpoint.keep_last)
    spec = resolve(config, launch)
    run_dir = RunDir(spec.output_dir)
    saved = _weights(run_dir, spec)
    model, corpus, step = load_checkpoint(spec, saved)
    try:
        average = _averaged(spec.export, saved)
        _write(spec, run_dir, corpus, model, step, average, tasks_of(run_dir.tasks, run_dir.model, step, average))
    except OSError as error:
        raise ConfigError(f"output_dir: cannot write {run_dir.model} ({error.strerror}); free disk space") from None
    logger.info("%s exported as %s to %s", saved.name, spec.export.dtype, run_dir.model)
    push(run_dir, spec.export)
    return run_dir.model


def export_trained(
    spec: Spec,
    corpus: PreparedCorpus,
    run_dir: RunDir,
    engine: Engine,
    model: Any,
    step: int,
    average: int | Literal["ema"] | None,
) -> None:
    """Export the model in memory, averaged if that is wanted, or the best checkpoint; collective.

    Args:
        spec: The run.
        corpus: The corpus it was trained on.
        run_dir: The run directory.
        engine: The engine that trained it.
        model: The transformers model, which the engine may have sharded.
        step: Step of the weights in memory.
        average: What they are the average of: ema, a number of checkpoints, or None for the weights of the step.

    Raises:
        ModelError: The exported model does not load, or is not the one in memory.
        CheckpointError: There is no best checkpoint.
    """
    if spec.export.checkpoint == "best":
        engine.on_main(lambda: _write_best(spec, corpus, run_dir))
        return
    parameters = {}
    for name, value in engine.parameters():
        # An objective may have a head of its own beside the model.
        if value is not None and name.startswith("model."):
            parameters[name.removeprefix("model.")] = value.to("cpu")
    engine.on_main(lambda: _write(spec, run_dir, corpus, with_parameters(model, parameters), step, average))


def model_files(spec: Spec, corpus: PreparedCorpus) -> ModelFiles:
    """What the exported folder holds besides the weights: the tokenizer, and modules that the start had after it."""
    tokenizer, named = corpus.tokenizer, spec.corpus.tokenizer
    original = tokenizer
    if named.path is not None:
        try:
            original = loading.load(named.path, named.key, named.revision)
        except ModelError as error:  # it may have been moved since the run began
            logger.warning("%s; the exported tokenizer has the settings of the corpus", error)
    max_length = spec.corpus.longest_row
    if spec.phases[-1].rows.mode == "pairs":
        modules = sentence_transformer.of_search_model(max_length)
        return ModelFiles(tokenizer, original, max_length, modules, graph_output="last_hidden_state")
    start = None if spec.model.from_scratch or spec.model.init_from is not None else spec.model.name_or_path
    return ModelFiles(tokenizer, original, max_length, sentence_transformer.read(start))


def push(run_dir: RunDir, export: ExportSpec) -> None:
    """Upload the exported model, if `export.push_to_hub` is set; on rank 0."""
    if export.push_to_hub is not None:
        upload.push(run_dir.model, export.push_to_hub)


def _write_best(spec: Spec, corpus: PreparedCorpus, run_dir: RunDir) -> None:
    model, step = load_model(spec, corpus, SavedWeights((find.require_best(run_dir.checkpoints),)))
    _write(spec, run_dir, corpus, model, step)


def _write(
    spec: Spec,
    run_dir: RunDir,
    corpus: PreparedCorpus,
    model: Any,
    step: int,
    average: int | Literal["ema"] | None = None,
    tasks: dict[str, Any] | None = None,
) -> None:
    """Write an fp32 model on the CPU to `model/` of the run directory."""
    record = read_record(run_dir.path)
    card = CardContent(
        name=run_dir.path.resolve().name,
        location=spec.export.push_to_hub,
        model_type=model.config.model_type,
        base_model=base_model(spec.model),
        dtype=spec.export.dtype,
        mask_token=corpus.tokenizer.mask_token,
        step=step,
        average=average,
        tasks=tasks,
        manifest=corpus.manifest | {"sources": without_places(corpus.manifest["sources"])},
        record=dataclasses.replace(record, start=without_places(record.start)),
        config_yaml=to_yaml(without_places(spec.written)),
        license=spec.export.license,
        language=spec.export.language,
        settings=without_places(settings(spec.written, spec.to_dict())),
    )
    with stage("exporting model", leaves_after=2):
        write_model(model, model_files(spec, corpus), model_card(card), run_dir.model, spec.export)


def _averaged(export: ExportSpec, saved: SavedWeights) -> int | Literal["ema"] | None:
    """What weights are the average of; there may be fewer checkpoints than wanted."""
    return len(saved.checkpoints) if isinstance(export.average, int) else export.average


def _weights(run_dir: RunDir, spec: Spec) -> SavedWeights:
    """The weights that export.checkpoint and export.average name, in verified checkpoints."""
    wanted, folder = spec.export.checkpoint, run_dir.checkpoints
    named = None if wanted in ("newest", "best") else find.named(wanted, "export.checkpoint")
    if spec.export.average is not None:
        return SavedWeights.average(folder, spec.export.average, spec.checkpoint.every, named)
    found = find.require_best(folder) if wanted == "best" else named or find.require_newest(folder)
    return SavedWeights((found,))


if __name__ == "__main__":
    runtime.main(run, prog="export.py", description=__doc__, of_a_run=True)
