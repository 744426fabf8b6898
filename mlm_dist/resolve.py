"""From what the user wrote to what will happen: every open value decided once, every contradiction refused.

`resolve` needs the config and the launch only, and nothing below the jobs reads the config. What depends on the rows
is decided by `lengths.complete`, once they are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_dist import objectives
from mlm_dist.batches.global_batch import spread
from mlm_dist.config import Config, ExportConfig, ModelConfig, OptimConfig, RowsConfig, ValidationConfig, to_dict
from mlm_dist.config.phases import Phase, phases_of
from mlm_dist.corpus import cleaners, filters
from mlm_dist.corpus.engines import executors
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine import compiler, conflicts, memory, trackers
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError
from mlm_dist.hf_model import onnx_graph, upload
from mlm_dist.model import checkpoint_files, growable, rotary
from mlm_dist.model.architecture import (
    architecture,
    default_row_mode,
    starts_from_scratch,
    takes_tokenizer,
    tokenizer_source,
)
from mlm_dist.model.suitability import require_suited
from mlm_dist.optim import optimizers
from mlm_dist.optim.schedule import default_lr, last_rate
from mlm_dist.pretrained import KEY, locate
from mlm_dist.redaction import config_without_credentials
from mlm_dist.spec import (
    BatchSpec,
    CheckpointSpec,
    CorpusSpec,
    ExportSpec,
    OptimSpec,
    PhaseSpec,
    RateSpec,
    RowsSpec,
    SourceSpec,
    Spec,
    TokenizerSpec,
    ValidationSpec,
)
from mlm_dist.spec.corpus import PACKED
from mlm_dist.training import averages


def resolve(config: Config, launch: Launch) -> Spec:
    """Decide every open value of a config for a launch, and refuse what cannot work, before any work is done.

    Raises:
        ConfigError: Keys contradict each other, the accelerate file, the DeepSpeed JSON or this machine.
        ModelError: The model or the tokenizer does not exist, or they do not fit each other.
    """
    phases = phases_of(config)
    for phase in phases:
        with phase.named():
            objectives.check(phase.objective)
            objectives.check_batch(phase.objective, phase.batch)
    objectives.check_together([phase.objective for phase in phases])
    optimizers.check_name(config.optim.name)
    trackers.check(config.tracking.trackers)
    compile_ = config.model.compile or "none"  # what is decided below can be compiled
    for phase in phases:
        with phase.named():
            _check_launch(config.optim, compile_, launch, spread(phase.batch, phase.rows.max_length, launch.world_size))
    upload.check(config.export.push_to_hub)
    onnx_graph.check(config.export.format)
    averages.check(config.export.average, config.optim.ema_decay, config.checkpoint.keep_last)

    model = dataclasses.replace(config.model, from_scratch=starts_from_scratch(config.model))
    corpus = corpus_spec(config)
    tokenizer = corpus.tokenizer
    named = None if tokenizer.path is None else loading.load(tokenizer.path, tokenizer.key, tokenizer.revision)
    tokenizer_name = config.tokenizer.path or ("the corpus" if config.tokenizer.train_vocab_size else "")
    _check_weights(model)
    found = architecture(
        *(config.model, corpus.longest_row, named, 0, tokenizer_name, tokenizer.add_domain_tokens),
        train_vocab_size=tokenizer.train_vocab_size,
    )
    require_suited(found, corpus.rows, launch.trial_precision)
    for phase in phases:
        with phase.named():
            rows, is_causal = _rows(config.model, phase.rows, phase.objective), objectives.is_causal(phase.objective)
            require_suited(found, rows, launch.trial_precision, causal=is_causal)
    on_cpu = launch.device.kind == "cpu"
    shape = memory.shape_of(found, on_cpu=on_cpu, kernel=launch.has_variable_length_kernel)
    if config.model.compile is None:
        model = dataclasses.replace(model, compile=compiler.default(launch, fused=shape.fused))
    model = dataclasses.replace(model, **_frozen_in_all(phases))
    specs: list[PhaseSpec] = []
    for phase in phases:
        with phase.named():
            if (phase.model.trainable_layers or 0) > shape.layers:
                raise ConfigError(f"model.trainable_layers: must be at most the {shape.layers} layers of the model")
            rotary.check(found, phase.model.rope_theta, specs[-1].rope_theta if specs else None)
            specs.append(_phase(phase, model, launch, shape, specs))
            _check_launch(config.optim, compile_, launch, specs[-1].batch)  # with the micro-batch that fits the memory
    _check_best(config.validation, config.export, phases)
    is_best = config.export.is_best(config.validation.patience)
    return Spec(
        output_dir=Path(config.output_dir).expanduser(),
        seed=config.seed,
        launch=launch,
        corpus=corpus,
        model=model,
        tokenizer_name=tokenizer_name,
        architecture=found,
        shape=shape,
        optim=OptimSpec(
            *(config.optim.name, config.optim.layer_lr_decay, config.optim.weight_decay),
            *(config.optim.betas, config.optim.eps, config.optim.max_grad_norm),
            ema_decay=config.optim.ema_decay,
        ),
        phases=tuple(specs),
        validation=ValidationSpec(config.validation.every, config.validation.max_rows, config.validation.patience),
        checkpoint=CheckpointSpec(
            *(config.checkpoint.every, config.checkpoint.keep_last, is_best),
            config.checkpoint.resume_of(config.output_dir, is_restarted=launch.is_restarted),
            config.export.average if isinstance(config.export.average, int) else 0,
            *(len(specs) - 1, config.checkpoint.store),
        ),
        export=ExportSpec(
            config.export.dtype,
            config.export.checkpoint or ("best" if is_best else "newest"),
            *(config.export.verify, config.export.push_to_hub, config.export.format),
            *(config.export.license, tuple(config.export.language), config.export.average),
        ),
        tracking=config.tracking,
        logging=config.logging,
        watchdog=config.watchdog,
        written=to_dict(config_without_credentials(config)),
    )


def corpus_spec(config: Config) -> CorpusSpec:
    """Everything the prepared corpus of a run depends on.

    Raises:
        ConfigError: There is no such `corpus.clean`, no such filter, or no such option of the executor.
        ModelError: `rows.mode` is open, and the model does not exist.
    """
    source, phases = tokenizer_source(config.model, config.tokenizer), phases_of(config)
    for key, one in (named := config.corpus.named_sources()).items():
        cleaners.check(one.clean, f"{key}.clean")
    executors.check(config.corpus)
    filters.check(config.corpus.filters)
    return CorpusSpec(
        sources=tuple(SourceSpec(key, one) for key, one in named.items()),
        documents=config.corpus,
        tokenizer=TokenizerSpec(
            path=None if source is None else source[0],
            key="tokenizer.train_vocab_size" if source is None else source[1],
            train_vocab_size=config.tokenizer.train_vocab_size or loading.DEFAULT_VOCAB_SIZE,
            train_kind=config.tokenizer.train_kind,
            train_uncased=config.tokenizer.train_uncased,
            add_domain_tokens=config.tokenizer.add_domain_tokens or 0,
            revision=config.model.revision if source is not None and source[1] == "model.name_or_path" else None,
        ),
        rows=_rows(config.model, config.rows),
        longest_row=max(config.rows.max_length, *(phase.rows.max_length for phase in phases)),
        needs_word_starts=any(phase.masking.unit != "token" for phase in phases),
    )


def _check_weights(model: ModelConfig) -> None:
    """Refuse a start whose weights are missing or damaged, without reading them."""
    if model.from_scratch:
        return
    named = (model.init_from, growable.KEY, None) if model.init_from else (model.name_or_path, KEY, model.revision)
    start = locate(*named)
    with start.named():
        checkpoint_files.check(start)


def _rows(model: ModelConfig, rows: RowsConfig, objective: str | None = None) -> RowsSpec:
    """The rows of a phase with an objective, else those that masked tokens are predicted in."""
    if objective is not None and objectives.is_contrastive(objective):
        return RowsSpec("pairs", rows.max_length)
    return RowsSpec(rows.mode or default_row_mode(model, rows.max_length), rows.max_length)


def _phase(
    phase: Phase, model: ModelConfig, launch: Launch, shape: memory.Shape, before: Sequence[PhaseSpec]
) -> PhaseSpec:
    """The spec of a phase.

    Args:
        phase: The phase.
        model: The model.
        launch: The launch.
        shape: The shape of the model.
        before: The phases before it.
    """
    rows, optim = _rows(model, phase.rows, phase.objective), phase.optim
    settings = memory.Settings(
        rows.max_length,
        predicted=objectives.predicted_fraction(phase.objective, phase.masking) if model.masked_head else 1.0,
        optimizer=optim.name,
        freeze_embeddings=model.freeze_embeddings,
        trainable_layers=model.trainable_layers,
        checkpointing=model.checkpointing,
        is_packed=rows.mode in PACKED,
        ema=optim.ema_decay is not None,
    )
    batch = spread(phase.batch, rows.max_length, launch.world_size, memory.most_rows(settings, shape, launch))
    peak = default_lr(takes_tokenizer(model), shape.hidden) if optim.lr is None else optim.lr
    return PhaseSpec(
        *(phase.name, phase.objective, phase.mix, rows, phase.masking, phase.contrastive, batch),
        rate=RateSpec(peak, optim.warmup, optim.schedule, optim.floor, last_rate(before[-1].rate) if before else 0.0),
        duration=phase.duration,
        freeze_embeddings=phase.model.freeze_embeddings,
        trainable_layers=phase.model.trainable_layers,
        rope_theta=phase.model.rope_theta,
        memory=memory.estimate(settings, shape, launch, batch.micro_size),
    )


def _frozen_in_all(phases: Sequence[Phase]) -> dict[str, Any]:
    """What no phase trains: it has no gradients and no moments."""
    layers = [phase.model.trainable_layers for phase in phases]
    return {
        "freeze_embeddings": all(phase.model.freeze_embeddings for phase in phases),
        "trainable_layers": None if None in layers else max(layer or 0 for layer in layers),
    }


def _check_best(validation: ValidationConfig, export: ExportConfig, phases: Sequence[Phase]) -> None:
    """Refuse what depends on the lowest validation loss if no phase lowers it."""
    if all(objectives.is_causal(phase.objective) for phase in phases):
        for key, is_set in (
            ("validation.patience", validation.patience is not None),
            ("export.checkpoint: best", export.checkpoint == "best"),
        ):
            if is_set:
                raise ConfigError(f"{key} has no effect: validations of causal_lm are not compared; remove it")


def _check_launch(optim: OptimConfig, compile_: str, launch: Launch, batch: BatchSpec) -> None:
    conflicts.check(conflicts.RunSettings(batch, optim.name, optim.max_grad_norm, compile_), launch)
