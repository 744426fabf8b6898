"""Evaluate a model on the held-out rows of a corpus, with the masks that training validates with.

    python mlm_dist/validate.py --output_dir runs/mine
    python mlm_dist/validate.py --output_dir runs/mine --validation.model runs/mine/checkpoints/step-00000500
    python mlm_dist/validate.py --corpus.source docs/ --validation.model start --model.name_or_path bert-base-uncased
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/validate.py --output_dir runs/mine

Where output_dir holds a run, its configuration is read before all flags. The figures go to validation.json there.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from mlm_dist import job
from mlm_dist.batching.loader import validation_batches
from mlm_dist.batching.masking import Masker
from mlm_dist.batching.plan import batch_plan
from mlm_dist.config import Config, ModelConfig
from mlm_dist.corpus import tokens
from mlm_dist.errors import ConfigError, ModelError
from mlm_dist.files import write_json
from mlm_dist.modeling.build import architecture, build
from mlm_dist.modeling.masked_head import MaskedLanguageModel
from mlm_dist.prepare import prepare
from mlm_dist.training import checkpoint, distributed, trackers
from mlm_dist.training.optim import build_optimizer
from mlm_dist.training.validation import evaluate, held_out_masks, unigram_loss


def main(config: Config) -> None:
    """Load the model, evaluate it, and write down what came of it."""
    config = trackers.without(config)
    rank, world_size = job.rank_and_world_size()
    # Validation has no global batch: each process takes as many rows at once as it would in training.
    alone = batch_plan(config, 1)
    plan = dataclasses.replace(
        alone, global_size=alone.micro_size * world_size, accumulation=1, num_processes=world_size
    )
    distributed.check(config, plan)
    run = Path(config.output_dir).expanduser()
    meant, weights = _meant(config, run)

    corpus = prepare(config)
    held_out = corpus.rows("validation")
    if not len(held_out):
        raise ConfigError(
            f"corpus.validation_fraction: no row of {corpus.folder} is held out; prepare the corpus with a larger one"
        )
    # A model of a folder has the tokens that were added for the documents; the starting one gets them when it is built.
    added = corpus.domain_tokens if meant is config else {}
    found = architecture(meant, corpus.tokenizer, len(added))
    accelerator = distributed.start(config, plan)
    core = MaskedLanguageModel(
        build(meant, found, added), masked_head=config.model.masked_head, packed=config.rows.mode == "pack"
    )
    if weights is not None:
        checkpoint.load_weights(weights, core)
    # The optimizer updates nothing; with it the model is placed and sharded just as in training.
    model, _ = distributed.prepare(accelerator, core, build_optimizer(core, config.optim, peak=0.0))

    special = tokens.special_tokens(corpus.tokenizer)
    masker = held_out_masks(Masker(config.masking, config.seed, special.mask, special.all, len(corpus.tokenizer)))
    share = validation_batches(held_out, masker, plan.micro_size, world_size, rank)
    result = evaluate(accelerator, model, share)
    name = str(weights or meant.model.name_or_path)

    def tell() -> None:
        everything = validation_batches(held_out, masker, plan.micro_size, 1, 0)
        figures: dict[str, Any] = {
            "kind": "validation",
            "model": name,
            "step": None if weights is None else checkpoint.read_state(weights)[0].step,
            "loss": _finite(result.loss),
            "perplexity": _finite(result.perplexity),
            "accuracy": result.accuracy,
            "masked_tokens": result.num_masked,
            "unigram_loss": unigram_loss(corpus.token_counts, everything),
            "corpus": corpus.digest,
            "processes": distributed.describe(accelerator),
        }
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / "validation.json", figures, indent=1)
        job.say(
            f"{name} on {len(held_out):,} held-out rows of {corpus.digest}: loss {result.loss:.4f}, perplexity "
            f"{result.perplexity:.4f}, accuracy {result.accuracy:.1%} of {result.num_masked:,} masked tokens; word "
            f"frequencies alone give a loss of {figures['unigram_loss']:.4f}"
        )
        job.say(f"written to {run / 'validation.json'}")

    distributed.on_main(accelerator, tell)
    accelerator.free_memory(model)
    accelerator.end_training()


def _meant(config: Config, run: Path) -> tuple[Config, Path | None]:
    """What `validation.model` means: the config to build it from, and the checkpoint its weights are in, if any."""
    match config.validation.model:
        case "start":
            return config, None
        case "checkpoint":
            return config, checkpoint.require_newest(run / "checkpoints", job.say)
        case "model":
            folder = run / "model"
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"validation.model: there is no exported model in {run}; name the output_dir of a finished run, "
                    "or evaluate a checkpoint or start with --validation.model checkpoint or start"
                )
        case named:
            folder = Path(named).expanduser()
            if checkpoint.is_name(folder.name) and folder.is_dir():
                checkpoint.verify(folder)
                return config, folder
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"validation.model: {named} is neither model, checkpoint nor start, nor the folder of a checkpoint "
                    "or a model; for a model of the hub write --validation.model start --model.name_or_path NAME"
                )
    padded = {name: value for name, value in config.model.overrides.items() if name == "vocab_size"}
    model = ModelConfig(name_or_path=str(folder), overrides=padded, masked_head=config.model.masked_head)
    return dataclasses.replace(config, model=model), None


def _finite(value: float) -> float | None:
    """JSON has no NaN or infinity; null stands for them."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    job.run(main, prog="validate.py", description=__doc__, of_a_run=True)
