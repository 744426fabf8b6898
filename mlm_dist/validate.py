"""Evaluate a model on the validation set of a corpus, with the masks that training validates with.

    python mlm_dist/validate.py runs/mine
    python mlm_dist/validate.py runs/mine --validation.model runs/mine/checkpoints/step-00000500
    python mlm_dist/validate.py runs/mine --validation.model average --export.average ema
    python mlm_dist/validate.py --corpus.source docs/ --validation.model start --model.name_or_path bert-base-uncased
    python mlm_dist/validate.py runs/mine --validation.tasks retrieval
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/validate.py runs/mine

If output_dir holds a run, its config applies, and flags override it. The results go to validation.json there, those of
validation.tasks to tasks.json.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

from mlm_dist import __version__, environment, runtime, system_errors
from mlm_dist.batches.global_batch import spread
from mlm_dist.checkpoint import find, format
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.config import BatchConfig, Config, ModelConfig, TrackingConfig
from mlm_dist.corpora import load_or_prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.start import start_engine
from mlm_dist.errors import ConfigError, ModelError
from mlm_dist.evaluation.tasks import TaskFiles, Tasks
from mlm_dist.evaluation.validation_set import ValidationSet
from mlm_dist.files import write_json
from mlm_dist.model import rotary
from mlm_dist.model.precision import in_precision
from mlm_dist.objectives import OBJECTIVES
from mlm_dist.objectives.figures import sources_of
from mlm_dist.optim.optimizers import build_optimizer
from mlm_dist.resolve import resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec
from mlm_dist.terminal.stages import stage
from mlm_dist.trained_model import build_model, build_start
from mlm_dist.training import averages
from mlm_dist.training.progress import describe_bands

logger = logging.getLogger("mlm_dist.validate")  # __name__ is __main__ if this file is launched


class Evaluated(NamedTuple):
    """The model that `validation.model` names.

    Args:
        model: What it is built from.
        weights: Its weights, in checkpoints; None if `model` has them.
        is_start: Whether it is built as the starting model is, domain tokens included.
    """

    model: ModelConfig
    weights: SavedWeights | None
    is_start: bool

    @property
    def name(self) -> str:
        """Its name for people and records."""
        return self.model.name_or_path if self.weights is None else self.weights.name

    @property
    def step(self) -> int | None:
        """The step of its checkpoint; None without one."""
        return None if self.weights is None else self.weights.step

    def build(self, spec: Spec, corpus: PreparedCorpus) -> Any:
        """The transformers model."""
        if self.is_start and self.weights is None:
            return build_start(self.model, spec, corpus)
        model = build_model(self.model, spec, corpus, is_start=self.is_start)
        if self.weights is not None:
            rotary.set_theta(model, self.weights.rope_theta)
        return model


@environment.restored()
@system_errors.explained()
def run(config: Config) -> dict[str, Any]:
    """Evaluate a model on a validation set; called on every rank.

    Returns:
        The content of validation.json.

    Raises:
        UserError: There is no such model, it does not fit the corpus, or the corpus has no validation set.
    """
    launch = Launch.read()
    if config.validation.model == "average":
        averages.check_kept(config.export.average, config.optim.ema_decay, config.checkpoint.keep_last)
    spec = resolve(_for_validation(config, launch.world_size), launch)
    if config.validation.tasks and launch.world_size > 1:
        raise ConfigError("validation.tasks needs one process; start it as python mlm_dist/validate.py")
    files = TaskFiles.read(config.validation.queries, config.validation.labels)
    run_dir = RunDir(spec.output_dir)
    evaluated = _evaluated(config.validation.model, config.model, spec, run_dir)
    corpora = load_or_prepare(spec)
    corpus = corpora.main
    validation_set = ValidationSet(corpus, spec.trained_on)
    if not len(validation_set):
        raise ConfigError(
            f"corpus.validation_fraction: {corpus.folder} has no validation set; prepare the corpus with a larger value"
        )
    tasks = Tasks(config.validation.tasks, files, corpus) if config.validation.tasks else None
    with start_engine(spec) as engine:
        phase = spec.phases[0]
        objective = OBJECTIVES[phase.objective].create(phase, spec.seed, corpus)
        model = evaluated.build(spec, corpus)
        with in_precision(launch.trial_precision):
            module = objective.module(model, masked_head=spec.model.masked_head, packed=corpus.is_packed)
        if evaluated.weights is not None:
            evaluated.weights.load(module)
        if tasks is not None:
            models = {"start": model}
            if config.validation.model != "start":
                models = {"start": build_start(config.model, spec, corpus), "trained": model}
            with stage("tasks", leaves_after=2):
                tasks.measure({name: one.to(engine.device) for name, one in models.items()})
        # The optimizer takes no step; with it the model is placed and sharded as in training.
        engine.setup(module, build_optimizer(module, spec.optim))
        micro_size = phase.batch.micro_size
        validated = validation_set.evaluate(engine, objective, micro_size)
        sentences = validation_set.pseudo_likelihood(engine, objective, config.validation.sentences, micro_size)
        figures: dict[str, Any] = {
            "kind": "validation",
            "version": __version__,
            "model": evaluated.name,
            "step": evaluated.step,
            **validated.figures(),
            **(sentences.figures() if sentences is not None else {}),
            **validation_set.baseline(objective),
            "corpus": corpus.digest,
            "world_size": launch.world_size,
            "device": launch.device.kind,
            "sharding": launch.sharding_name,
            "precision": launch.precision,
        }
        results = [] if tasks is None else tasks.results()
        average = None if evaluated.weights is None else evaluated.weights.average_of
        measured = None if tasks is None else {"average": average, **tasks.to_json(results)}
        engine.on_main(lambda: _write(run_dir, figures, measured))
    if launch.is_main:
        _log(run_dir, figures, len(validation_set))
        lines = [sentences.describe()] if sentences else []
        for line in [*lines, *(line for result in results for line in result.describe())]:
            logger.info(line)
    return figures


def _for_validation(config: Config, world_size: int) -> Config:
    """Validation has no global batch and no trackers: each rank takes the micro-batch of a single process."""
    phases = [{name: value for name, value in phase.items() if name != "batch"} for phase in config.phases]
    micro_size = spread(config.batch, config.rows.max_length, 1).micro_size
    batch = BatchConfig(global_size=micro_size * world_size, micro_size=micro_size)
    return dataclasses.replace(config, batch=batch, phases=phases, tracking=TrackingConfig([]))


def _write(run_dir: RunDir, figures: dict[str, Any], tasks: dict[str, Any] | None) -> None:
    run_dir.path.mkdir(parents=True, exist_ok=True)
    write_json(run_dir.validation, figures, indent=1)
    if tasks is not None:
        about = {name: figures[name] for name in ("version", "model", "step", "corpus")}
        write_json(run_dir.tasks, {"kind": "tasks", **about, **tasks}, indent=1)


def _log(run_dir: RunDir, figures: dict[str, Any], num_rows: int) -> None:
    logger.info(
        f"{figures['model']} on {num_rows:,} validation rows of {figures['corpus']}: loss {_number(figures['loss'])}, "
        f"perplexity {_number(figures['perplexity'])}, accuracy {figures['accuracy']:.1%} of "
        f"{figures['masked_tokens']:,} masked tokens; unigram baseline {figures['unigram_loss']:.4f}"
    )
    logger.info("accuracy by frequency in the training rows: %s", describe_bands(figures))
    for name in sources_of(figures):
        apart = ", not trained on" if name in figures.get("validation_only", ()) else ""
        loss, accuracy, count = (figures[f"source_{name}_{key}"] for key in ("loss", "accuracy", "masked_tokens"))
        logger.info(f"source {name}{apart}: loss {_number(loss)}, accuracy {accuracy:.1%} of {count:,} masked tokens")
    logger.info("written to %s", run_dir.validation)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _evaluated(name: str, start: ModelConfig, spec: Spec, run_dir: RunDir) -> Evaluated:
    """The model that `validation.model` names.

    Args:
        name: The value of the key.
        start: The model before training.
        spec: The run, whose average may be evaluated.
        run_dir: The run directory.
    """
    match name:
        case "start":
            return Evaluated(start, None, is_start=True)
        case "checkpoint":
            return Evaluated(start, SavedWeights((find.require_newest(run_dir.checkpoints),)), is_start=True)
        case "average":
            if spec.export.average is None:
                raise ConfigError("validation.model: average needs export.average; set it to ema or a number")
            saved = SavedWeights.average(run_dir.checkpoints, spec.export.average, spec.checkpoint.every)
            return Evaluated(start, saved, is_start=True)
        case "model":
            folder = run_dir.model
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"validation.model: there is no exported model in {run_dir.path}; name the output_dir of a "
                    "finished run, or evaluate a checkpoint or start with --validation.model checkpoint or start"
                )
        case named:
            folder = Path(named).expanduser()
            if format.is_name(folder.name) and folder.is_dir():
                return Evaluated(start, SavedWeights((find.named(named, "validation.model"),)), is_start=True)
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"validation.model: {named} is neither model, checkpoint, average nor start, nor the folder of a "
                    "checkpoint or a model; for a model of the Hub write --validation.model start --model.name_or_path "
                    "NAME"
                )
    padded = {name: value for name, value in start.overrides.items() if name == "vocab_size"}
    model = ModelConfig(name_or_path=str(folder), overrides=padded, masked_head=start.masked_head)
    return Evaluated(model, None, is_start=False)


if __name__ == "__main__":
    runtime.main(run, prog="validate.py", description=__doc__, of_a_run=True)
