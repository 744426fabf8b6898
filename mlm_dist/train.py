"""Train a masked-language model on documents.

    python mlm_dist/train.py
    accelerate launch mlm_dist/train.py --corpus.source docs/
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/train.py --config configs/runs/azure_docs.yaml

A run is a function of (seed, step): order, masks, dropout and learning rate are computed from them.
"""

from __future__ import annotations

import time
from pathlib import Path

from mlm_dist import __version__, job
from mlm_dist.batching.loader import TrainingBatches, validation_batches
from mlm_dist.batching.masking import Masker
from mlm_dist.batching.plan import batch_plan, num_updates
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus import summary, tokens
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.export import export
from mlm_dist.modeling.build import architecture, build, starts_from_scratch, tokenizer_of
from mlm_dist.modeling.masked_head import MaskedLanguageModel
from mlm_dist.prepare import prepare
from mlm_dist.training import distributed
from mlm_dist.training.metrics import Metrics
from mlm_dist.training.optim import build_optimizer, lr_at, peak_lr, set_lr, warmup_updates
from mlm_dist.training.progress import TrainingProgress
from mlm_dist.training.step import optimizer_step, reseed
from mlm_dist.training.validation import MASK_SEED, evaluate, unigram_loss


def main(config: Config) -> None:
    """Prepare the corpus if need be, train, validate, and export the model."""
    # What can be refused is refused before any work is done.
    rank, world_size = job.rank_and_world_size()
    plan = batch_plan(config, world_size)
    distributed.check(config, plan)
    path = tokenizer_of(config)
    architecture(config, None if path is None else tokens.load(*path))
    run = _run_directory(config)

    corpus = prepare(config)
    rows, held_out = corpus.rows("train"), corpus.rows("validation")
    updates, samples = num_updates(config, len(rows))
    found = architecture(config, corpus.tokenizer)
    peak = peak_lr(config.optim, from_scratch=starts_from_scratch(config.model), hidden_size=found.hidden_size)

    accelerator = distributed.start(config, plan)
    core = MaskedLanguageModel(build(config, found), masked_head=config.model.masked_head)
    _introduce(config, corpus, core, plan.describe(), distributed.describe(accelerator), updates, peak)
    model, optimizer = distributed.prepare(accelerator, core, build_optimizer(core, config.optim, peak))

    special = tokens.special_tokens(corpus.tokenizer)
    masker = Masker(config.masking, config.seed, special.mask, special.all, len(corpus.tokenizer))
    fixed_masker = Masker(config.masking, MASK_SEED, special.mask, special.all, len(corpus.tokenizer))
    batches = TrainingBatches(rows, masker, plan, config.seed, samples, rank)
    metrics = Metrics(accelerator, run / "metrics.jsonl")
    progress = TrainingProgress(updates, is_main=accelerator.is_main_process)

    def validate(step: int) -> float:
        metrics.pause()
        share = validation_batches(held_out, fixed_masker, plan.micro_size, world_size, rank)
        line = metrics.validation_line(step, evaluate(accelerator, model, share))
        progress.validation(line)
        metrics.resume()
        return line["loss"]

    accelerator.init_trackers("tensorboard")
    metrics.start(
        version=__version__,
        corpus=corpus.digest,
        rows=len(rows),
        updates=updates,
        samples=samples,
        peak_learning_rate=peak,
        processes=distributed.describe(accelerator),
        batch=plan.describe(),
        parameters=core.num_parameters,
        masked_head=core.masked_head,
    )
    began = time.perf_counter()
    with progress:
        before = validate(0) if len(held_out) else None
        after = before
        step = 0
        metrics.resume()
        model.train()
        while step < updates:
            lr = lr_at(step, config.optim, peak, updates)
            set_lr(optimizer, lr)
            reseed(config.seed, step, rank)
            result = optimizer_step(accelerator, model, optimizer, batches.window(step), config.optim.max_grad_norm)
            step += 1
            metrics.record(result)
            progress.advance(step)
            if _due(step, config.logging.every, updates):
                progress.train(metrics.train_line(step, batches.samples_before(step), lr))
            if len(held_out) and _due(step, config.validation.every, updates):
                after = validate(step)
    batches.close()

    facts = {"corpus": f"{config.corpus.source}, digest {corpus.digest}", "updates": f"{updates:,}"}
    outcome = {}
    if before is not None and after is not None:
        everything = validation_batches(held_out, fixed_masker, plan.micro_size, 1, 0)
        unigram = unigram_loss(corpus.token_counts, everything)
        outcome = {"loss_before": before, "loss_after": after, "unigram_loss": unigram}
        facts["held-out loss"] = f"{after:.4f} nats per masked token ({before:.4f} before, {unigram:.4f} by word frequency)"
    export(accelerator, core, corpus.tokenizer, run / "model", config, facts)
    metrics.end(step=updates, seconds=round(time.perf_counter() - began, 1), skipped_steps=metrics.skipped_steps, **outcome)
    accelerator.end_training()
    if outcome:
        job.say(
            f"held-out loss {before:.4f} before, {after:.4f} after; guessing by word frequency alone gives {unigram:.4f} on "
            f"the same rows ({unigram - after:+.4f} nats better than that)"
        )
    job.say(f"model in {run / 'model'}, metrics in {run / 'metrics.jsonl'}")


def _due(step: int, every: int | None, updates: int) -> bool:
    """Whether something that happens every so many updates, and at the end, happens after this one."""
    return step == updates or (every is not None and step % every == 0)


def _run_directory(config: Config) -> Path:
    """Make the run directory and leave the merged configuration in it."""
    run = Path(config.output_dir).expanduser()
    try:
        run.mkdir(parents=True, exist_ok=True)
        if job.is_main_process():
            (run / "config.yaml").write_text(to_yaml(config), "utf-8")
    except OSError as error:
        raise ConfigError(f"output_dir: cannot write to {run} ({error.strerror}); name another folder") from None
    return run


def _introduce(
    config: Config,
    corpus: PreparedCorpus,
    core: MaskedLanguageModel,
    batch: str,
    processes: str,
    updates: int,
    peak: float,
) -> None:
    """Say what is about to happen, with its arithmetic."""
    if not job.is_main_process():
        return
    job.console().print(summary.table(corpus.manifest, str(corpus.folder)))
    rows, optim = corpus.manifest["rows"]["train"], config.optim
    length = f"{updates} x {config.batch.global_size} rows" if optim.steps else f"{optim.epochs:g} epochs of {rows:,} rows"
    head = "logits at masked positions only" if core.masked_head else "dense logits"
    start = "random weights" if starts_from_scratch(config.model) else "its weights"
    job.say(f"model      {config.model.name_or_path} from {start}, {core.num_parameters:,} parameters, {head}")
    job.say(f"processes  {processes}")
    job.say(f"batch      {batch}")
    job.say(f"updates    {updates:,} ({length})")
    job.say(f"rate       {peak:.3g} after {warmup_updates(optim, updates)} updates, then {optim.schedule}")


if __name__ == "__main__":
    job.run(main, prog="train.py", description=__doc__)
