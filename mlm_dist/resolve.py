"""From what the user wrote to what will happen: every open value decided once, every contradiction refused.

`resolve` needs the config and the launch only, and nothing below the jobs reads the config. `complete` decides what
depends on the rows, once they are known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mlm_dist import objectives
from mlm_dist.batches.global_batch import spread
from mlm_dist.batches.ramp import Ramp
from mlm_dist.config import Config, Duration, ExportConfig, ModelConfig, OptimConfig, to_dict
from mlm_dist.corpus import cleaners, sources
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine import compiler, conflicts, memory, trackers
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError, CorpusError
from mlm_dist.hf_model import onnx_graph, upload
from mlm_dist.model import checkpoint_files, growable
from mlm_dist.model.architecture import (
    architecture,
    default_row_mode,
    starts_from_scratch,
    takes_tokenizer,
    tokenizer_source,
)
from mlm_dist.model.suitability import require_suited
from mlm_dist.optim import optimizers
from mlm_dist.optim.schedule import default_lr, warmup_steps
from mlm_dist.pretrained import KEY, locate
from mlm_dist.redaction import config_without_credentials
from mlm_dist.spec import (
    BatchSpec,
    CheckpointSpec,
    CorpusSpec,
    ExportSpec,
    Length,
    OptimSpec,
    RowsSpec,
    SourceSpec,
    Spec,
    TokenizerSpec,
    ValidationSpec,
)
from mlm_dist.training import averages

SECOND_SOURCE, REPLAY_SOURCE = "validation.second_source", "corpus.replay_source"


def resolve(config: Config, launch: Launch) -> Spec:
    """Decide every open value of a config for a launch, and refuse what cannot work, before any work is done.

    Raises:
        ConfigError: Keys contradict each other, the accelerate file, the DeepSpeed JSON or this machine.
        ModelError: The model or the tokenizer does not exist, or they do not fit each other.
    """
    length = config.rows.max_length
    objectives.check(config.objective)
    optimizers.check_name(config.optim.name)
    trackers.check(config.tracking.trackers)
    compile_ = config.model.compile or "none"  # what is decided below can be compiled
    _check_launch(config.optim, compile_, launch, spread(config.batch, length, launch.world_size))
    _check_sources({SECOND_SOURCE: config.validation.second_source, REPLAY_SOURCE: config.corpus.replay_source})
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
        *(config.model, length, named, 0, tokenizer_name, tokenizer.add_domain_tokens),
        train_vocab_size=tokenizer.train_vocab_size,
    )
    require_suited(found, corpus.rows, launch.trial_precision)
    shape = memory.shape_of(found, on_cpu=launch.device.kind == "cpu", kernel=launch.has_variable_length_kernel)
    if config.model.compile is None:
        model = dataclasses.replace(model, compile=compiler.default(launch, fused=shape.fused))
    if (config.model.trainable_layers or 0) > shape.layers:
        raise ConfigError(f"model.trainable_layers: must be at most the {shape.layers} layers of the model")
    settings = memory.Settings(
        length,
        predicted=config.masking.highest_probability if config.model.masked_head else 1.0,
        optimizer=config.optim.name,
        freeze_embeddings=config.model.freeze_embeddings,
        trainable_layers=config.model.trainable_layers,
        checkpointing=config.model.checkpointing,
        is_packed=corpus.rows.mode == "pack",
        ema=config.optim.ema_decay is not None,
    )
    most_rows = memory.most_rows(settings, shape, launch)
    batch = spread(config.batch, length, launch.world_size, most_rows)
    _check_launch(config.optim, compile_, launch, batch)  # with the micro-batch that the memory allows
    is_best = _exports_best(config.export, config.validation.patience)
    return Spec(
        output_dir=Path(config.output_dir).expanduser(),
        seed=config.seed,
        objective=config.objective,
        launch=launch,
        corpus=corpus,
        replay_source=config.corpus.replay_source,
        replay_share=config.corpus.replay_share if config.corpus.replay_source is not None else 0.0,
        second_source=config.validation.second_source,
        masking=config.masking,
        model=model,
        tokenizer_name=tokenizer_name,
        architecture=found,
        shape=shape,
        memory=memory.estimate(settings, shape, launch, batch.micro_size),
        batch=batch,
        optim=_optim(config.optim, takes_tokenizer(config.model), shape.hidden),
        length=Length(),
        validation=ValidationSpec(config.validation.every, config.validation.max_rows, config.validation.patience),
        checkpoint=CheckpointSpec(
            *(config.checkpoint.every, config.checkpoint.keep_last, is_best),
            "auto" if launch.is_restarted else config.checkpoint.resume,
            config.export.average if isinstance(config.export.average, int) else 0,
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


def complete(spec: Spec, corpus: PreparedCorpus) -> Spec:
    """The spec with its length, which depends on the training rows.

    An epoch is one pass over the training rows; with replay it takes 1 / (1 - replay_share) times as many samples. A
    duration in tokens counts tokens that are not padding, by their mean number per row.

    Args:
        spec: The spec.
        corpus: The corpus to train on.

    Raises:
        ConfigError: It has fewer training rows than one global batch.
    """
    num_rows, size = int(corpus.manifest["rows"]["train"]), spec.batch.global_size
    if not num_rows:
        raise ConfigError("corpus.source: its training documents hold no tokens, so there are no rows; use another one")
    if num_rows < size:
        raise ConfigError(
            f"batch.global_size: {size} rows per step, but the corpus has only {num_rows} training rows; lower it to "
            f"{num_rows} or less, add documents or lower corpus.min_chars or rows.max_length"
        )
    duration, ramp = spec.optim.duration, Ramp(spec.batch, spec.corpus.rows.max_length)
    if duration.unit == "hours":
        return dataclasses.replace(spec, length=Length())
    if duration.unit == "steps":
        steps = int(duration.value)
        samples = ramp.samples_before(steps)
    else:
        # Only a duration in tokens needs the rows; loading them takes most of a second.
        divisor = 1 - spec.replay_share if duration.unit == "epochs" else corpus.rows("train").num_tokens
        samples = max(1, round(duration.value * num_rows / divisor))
        steps = ramp.steps(samples)
    spec.checkpoint.require_saved(spec.export.average, steps)
    return dataclasses.replace(spec, length=Length(steps, samples, warmup_steps(spec.optim.warmup, steps)))


def corpus_spec(config: Config) -> CorpusSpec:
    """Everything the prepared corpus of a run depends on.

    Raises:
        ConfigError: There is no such `corpus.clean`.
        ModelError: `rows.mode` is open, and the model does not exist.
    """
    source = tokenizer_source(config.model, config.tokenizer)
    named = config.corpus.named_sources()
    for key, one in named.items():
        cleaners.check(one.clean, f"{key}.clean")
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
        rows=RowsSpec(
            config.rows.mode or default_row_mode(config.model, config.rows.max_length), config.rows.max_length
        ),
        needs_word_starts=config.masking.unit != "token",
    )


def _check_weights(model: ModelConfig) -> None:
    """Refuse a start whose weights are missing or damaged, without reading them."""
    if model.from_scratch:
        return
    named = (model.init_from, growable.KEY, None) if model.init_from else (model.name_or_path, KEY, model.revision)
    start = locate(*named)
    with start.named():
        checkpoint_files.check(start)


def _optim(optim: OptimConfig, from_scratch: bool, hidden_size: int) -> OptimSpec:
    return OptimSpec(
        name=optim.name,
        lr=default_lr(from_scratch, hidden_size) if optim.lr is None else optim.lr,
        layer_lr_decay=optim.layer_lr_decay,
        weight_decay=optim.weight_decay,
        betas=optim.betas,
        eps=optim.eps,
        max_grad_norm=optim.max_grad_norm,
        warmup=optim.warmup,
        schedule=optim.schedule,
        duration=Duration.parse(optim.duration),
        ema_decay=optim.ema_decay,
    )


def _exports_best(export: ExportConfig, patience: int | None) -> bool:
    """Whether the checkpoint with the lowest validation loss is kept and exported."""
    if export.checkpoint is None:
        return patience is not None and export.average is None
    return export.checkpoint == "best"


def _check_launch(optim: OptimConfig, compile_: str, launch: Launch, batch: BatchSpec) -> None:
    conflicts.check(conflicts.RunSettings(batch, optim.name, optim.max_grad_norm, compile_), launch)


def _check_sources(names: Mapping[str, str | None]) -> None:
    """Refuse a second source, by its key, that does not exist and cannot be fetched."""
    for key, name in names.items():
        if name is not None:
            try:
                sources.recognize(name, key)
            except CorpusError as error:
                raise ConfigError(str(error)) from None
