"""Train a masked-language model on documents.

    python mlm_dist/train.py
    accelerate launch mlm_dist/train.py --corpus.source docs/
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/train.py --optim.lr 3e-5

A run is a function of (seed, step): order, masks, dropout and learning rate are computed from them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from mlm_dist import __version__, report, runtime
from mlm_dist.batches.global_batch import num_updates
from mlm_dist.batches.loader import TrainingBatches
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.ramp import Ramp
from mlm_dist.checkpoint import best, find, format
from mlm_dist.checkpoint import save as saving
from mlm_dist.checkpoint.format import RunState
from mlm_dist.checkpoint.save import Checkpoints
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus import summary
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine import distributed
from mlm_dist.errors import ConfigError, Interrupted
from mlm_dist.evaluation.validation import held_out_masks
from mlm_dist.evaluation.validation_set import HeldOut
from mlm_dist.export import export, public, push
from mlm_dist.files import lock
from mlm_dist.hf_model import upload
from mlm_dist.interim import architecture, build, optim_spec
from mlm_dist.model.architecture import starts_from_scratch
from mlm_dist.model.compilation import compile_forward
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.optim.optimizers import build_optimizer, set_lr
from mlm_dist.optim.schedule import learning_rate, warmup_steps
from mlm_dist.plan import foresee
from mlm_dist.prepare import prepare
from mlm_dist.second_corpus import to_train_on
from mlm_dist.training import fit_memory, trackers
from mlm_dist.training.guard import Guard, StopSignal
from mlm_dist.training.horizon import Horizon
from mlm_dist.training.metrics import Metrics
from mlm_dist.training.progress import TrainingProgress
from mlm_dist.training.step import optimizer_step, reseed


def main(config: Config) -> None:
    """Prepare the corpus if need be, train, validate, and export the model."""
    # What can be refused is refused before any work is done.
    rank, _ = runtime.rank_and_world_size()
    plan = foresee(config).batch
    upload.check(config)

    corpus = prepare(config)
    own, held_out = corpus.rows("train"), HeldOut(config, corpus)
    updates, samples = num_updates(config, len(own))
    rows, order, replayed = to_train_on(config, corpus, own)
    found = architecture(config, corpus.tokenizer, len(corpus.domain_tokens))
    optim = optim_spec(config, hidden_size=found.hidden_size)

    run = _run_directory(config)

    accelerator = distributed.start(config, plan)
    claims: list[object] = []  # held while this function runs
    distributed.on_main(accelerator, lambda: claims.append(_claim(run)))
    core = MaskedLanguageModel(
        build(config, found, corpus.domain_tokens),
        masked_head=config.model.masked_head,
        packed=corpus.is_packed,
    )
    identity = _identity(config, corpus, found, replayed)
    resume = "auto" if runtime.is_restarted() else config.checkpoint.resume
    point = find.resume_point(accelerator, resume, run / "checkpoints", identity, runtime.say)
    state = RunState() if point is None else format.read_state(point)[0]
    checkpoints = Checkpoints(
        run / "checkpoints", config.checkpoint.keep_last, identity, keep_best=best.is_exported(config)
    )

    def take_over() -> None:
        if place := find.set_aside(run, point):
            runtime.say(f"what an earlier run left in {run} was moved to {place}")
        checkpoints.clean()
        saving.preflight(run, core, best.num_kept(config))
        (run / "config.yaml").write_text(to_yaml(public(config)), "utf-8")
        report.begin(run, core.model, corpus)

    distributed.on_main(accelerator, take_over)
    lowest = checkpoints.still_there(state.best)

    special = loading.special_tokens(corpus.tokenizer)
    masker = Masker(config.masking, config.seed, special.mask, special.all, len(corpus.tokenizer))
    fixed_masker = held_out_masks(masker)
    plan = fit_memory.fit(accelerator, core, plan, rows, masker, runtime.say)
    static = config.model.compile != "none"  # one shape for all micro-batches, so that nothing is compiled twice
    batches = TrainingBatches(
        rows, masker, plan, Ramp(config), order, samples, rank, static=static, device=accelerator.device
    )

    if point is not None:
        format.load_weights(point, core)
    with fit_memory.explained(plan):
        model, optimizer = distributed.prepare(accelerator, core, build_optimizer(core, optim))
        compiled = compile_forward(core, config.model.compile)
        if point is not None:
            runtime.say(f"going on from {point}: {state.step:,} updates, {state.samples:,} samples")
            set_lr(optimizer, 0.0)
            distributed.wake(accelerator, model, batches.window(0))
            format.load_moments(point, accelerator, core, optimizer, state)

    metrics = Metrics(accelerator, run / "metrics.jsonl", state.step, state.tokens, state.skipped_steps)
    compiled.pause(metrics.paused)
    guard = Guard(batches.samples, runtime.say)
    signals = StopSignal()
    horizon = Horizon(config, updates, state, is_main=accelerator.is_main_process)
    progress = TrainingProgress(horizon.fixed, is_main=accelerator.is_main_process)

    facts: dict[str, object] = {
        "version": __version__,
        "corpus": corpus.digest,
        "model": f"{config.model.name_or_path}{' from random weights' if starts_from_scratch(config.model) else ''}",
        "parameters": core.num_parameters,
        "logits": "at masked positions only" if core.masked_head else "at all positions",
        "compile": config.model.compile,
        "processes": distributed.describe(accelerator),
        "batch": plan.describe(),
        "rows": len(rows),
        **horizon.describe(samples, warmup_steps(config.optim.warmup, updates)),
        "peak_learning_rate": optim.lr,
        **(held_out.facts(fixed_masker) if accelerator.is_main_process else {}),
    }
    runtime.show(summary.table(corpus.manifest, str(corpus.folder)))
    progress.introduce(facts)
    distributed.on_main(accelerator, lambda: trackers.start(accelerator, public(config), run))
    metrics.start(**facts, resumed_from=state.step)

    def validate() -> None:
        nonlocal lowest
        with metrics.paused():
            found = held_out.evaluate(accelerator, model, fixed_masker, plan.micro_size, static=static)
            progress.validation(metrics.validation_line(step, found))
            lowest = lowest.after(step, found.loss)

    def save() -> None:
        with metrics.paused():
            metrics.skipped_steps += guard.check()
            scale = distributed.loss_scale_of(accelerator, optimizer)
            counts = (step, batches.samples_before(step), metrics.tokens, metrics.skipped_steps)
            reached = RunState(*counts, scale, horizon.seconds, horizon.estimate, lowest)
            checkpoints.save(accelerator, core, optimizer, reached)

    began = time.perf_counter()
    with progress, fit_memory.explained(plan):
        step = state.step
        if len(held_out) and point is None:
            validate()
        horizon.begin()
        while step < horizon.updates and not lowest.ends(config):
            lr = learning_rate(step, optim, horizon.updates)
            set_lr(optimizer, lr)
            reseed(config.seed, step, rank)
            window = batches.window(step)
            result = optimizer_step(
                accelerator,
                model,
                optimizer,
                window,
                config.optim.max_grad_norm,
                step=step,
                stop_requested=signals.requested,
                milliseconds=horizon.milliseconds_to_tell,
            )
            guard.watch(step, result)
            step += 1
            metrics.record(result)
            progress.advance(step)
            horizon.look(step, result)
            line_due = _due(step, config.logging.every, horizon.updates)
            stopping = signals.agreed(result, line_due=line_due)
            if line_due or stopping:
                metrics.skipped_steps += guard.check()
                compiled.log()
                line = metrics.train_line(step, batches.samples_before(step), lr, guard.is_spike, horizon.facts)
                progress.train(line)
            if len(held_out) and _due(step, config.validation.every, horizon.updates):
                validate()
            if stopping or lowest.saves(step, config) or _due(step, config.checkpoint.every, horizon.updates):
                save()
            if stopping:
                break
        checkpoints.finish(accelerator)
    batches.close()
    updates = horizon.updates

    is_finished = step == updates or lowest.ends(config)
    outcome: dict[str, float] = {}
    if accelerator.is_main_process and metrics.held_out and is_finished:
        outcome = {
            "loss_before": metrics.held_out.get(0, math.nan),
            "loss_after": metrics.held_out[max(metrics.held_out)],
            "unigram_loss": float(str(facts["unigram_loss"])),
        }
    if is_finished:
        export(accelerator, core, corpus, run, config, step)
    seconds = round(time.perf_counter() - began, 1)
    metrics.end(
        step=step,
        seconds=seconds,
        compile_seconds=round(compiled.seconds, 1),
        skipped_steps=metrics.skipped_steps,
        **outcome,
        **lowest.facts(config),
    )
    # In this order: a process group that outlives its last user only in the model's gradient reducer can hang there.
    model, optimizer = accelerator.free_memory(model, optimizer)
    accelerator.end_training()
    if not is_finished:
        raise Interrupted(
            f"stopped by a signal and saved after update {step}; run it again with checkpoint.resume auto"
        )
    report.end(config)
    if outcome:
        before, after, unigram = outcome.values()
        runtime.say(
            f"held-out loss {before:.4f} before, {after:.4f} after; word frequencies alone give {unigram:.4f} on the "
            f"same rows, {abs(unigram - after):.4f} nats {'more' if after < unigram else 'less'}"
        )
    model_is = f"model{lowest.describe(config)} in {run / 'model'}"
    runtime.say(f"{model_is}, metrics in {run / 'metrics.jsonl'}, all at a glance in {run / 'report.html'}")
    push(config)


def _due(step: int, every: int | None, updates: int) -> bool:
    """Whether something that happens every so many updates, and at the end, happens after this one."""
    return step == updates or (every is not None and step % every == 0)


def _identity(config: Config, corpus: PreparedCorpus, found: Any, replayed: str | None) -> dict[str, object]:
    """What a run must have in common with a checkpoint to go on from it; all else may change."""
    names = ("transformers_version", "dtype", "_name_or_path", "architectures")
    shape = {f"model.overrides.{name}": value for name, value in found.to_dict().items() if name not in names}
    masking = {f"masking.{name}": value for name, value in dataclasses.asdict(config.masking).items()}
    identity = {
        "seed": config.seed,
        "corpus.source": f"digest {corpus.digest}",
        "corpus.replay_source": replayed and f"digest {replayed}, share {config.corpus.replay_share}",
        "batch.global_size": config.batch.global_size,
        "batch.ramp_tokens": [config.batch.initial_size, config.batch.initial_length, config.batch.ramp_tokens],
        "model.name_or_path": config.model.name_or_path,
        "model.freeze_embeddings": config.model.freeze_embeddings,
        "optim.name": config.optim.name,
    }
    plain: dict[str, object] = json.loads(json.dumps(masking | identity | shape, default=str))
    return plain


def _run_directory(config: Config) -> Path:
    """Make the run directory."""
    run = Path(config.output_dir).expanduser()
    try:
        run.mkdir(parents=True, exist_ok=True)
        (run / f".writable-{os.getpid()}").touch()
        (run / f".writable-{os.getpid()}").unlink()
    except OSError as error:
        raise ConfigError(f"output_dir: cannot write to {run} ({error.strerror}); name another folder") from None
    return run


def _claim(run: Path) -> object:
    """Keep other runs out of the run directory for as long as what is returned exists."""
    try:
        return lock(run / ".lock", wait=False)
    except BlockingIOError:
        raise ConfigError(f"output_dir: another run is writing to {run}; wait for it or name another folder") from None


if __name__ == "__main__":
    runtime.run(main, prog="train.py", description=__doc__)
