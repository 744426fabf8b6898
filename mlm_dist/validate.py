"""Evaluate a model on the held-out rows of a corpus, with the masks that training validates with.

    python mlm_dist/validate.py --output_dir runs/mine
    python mlm_dist/validate.py --output_dir runs/mine --validation.model runs/mine/checkpoints/step-00000500
    python mlm_dist/validate.py --corpus.source docs/ --validation.model start --model.name_or_path bert-base-uncased
    python mlm_dist/validate.py --output_dir runs/mine --validation.probe true
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/validate.py --output_dir runs/mine

Where output_dir holds a run, its configuration is read before all flags. The figures go to validation.json there, those
of the probe to probe.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mlm_dist import runtime, second_corpus
from mlm_dist.batches.global_batch import batch_plan
from mlm_dist.batches.masking import Masker
from mlm_dist.checkpoint import find, format
from mlm_dist.config import Config, ModelConfig
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine import distributed
from mlm_dist.errors import ConfigError, ModelError
from mlm_dist.evaluation.search_probe import Probe
from mlm_dist.evaluation.validation import held_out_masks
from mlm_dist.evaluation.validation_set import HeldOut
from mlm_dist.files import write_json
from mlm_dist.interim import architecture, build, optim_spec
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.optim.optimizers import build_optimizer
from mlm_dist.prepare import prepare
from mlm_dist.training import trackers
from mlm_dist.training.progress import bands_in_words


def main(config: Config) -> None:
    """Load the model, evaluate it, and write down what came of it."""
    config = trackers.without(config)
    _, world_size = runtime.rank_and_world_size()
    # Validation has no global batch: each process takes as many rows at once as it would in training.
    alone = batch_plan(config, 1)
    plan = dataclasses.replace(
        alone, global_size=alone.micro_size * world_size, accumulation=1, num_processes=world_size
    )
    distributed.check(config, plan)
    second_corpus.check(config)
    if config.validation.probe and world_size > 1:
        raise ConfigError("validation.probe: it needs one process; start it as python mlm_dist/validate.py")
    run = Path(config.output_dir).expanduser()
    meant, weights = _meant(config, run)

    corpus = prepare(config)
    rows = HeldOut(config, corpus)
    if not len(rows):
        raise ConfigError(
            f"corpus.validation_fraction: no row of {corpus.folder} is held out; prepare the corpus with a larger one"
        )
    probe = Probe(corpus) if config.validation.probe else None
    # A model of a folder has the tokens that were added for the documents; the starting one gets them when it is built.
    added = corpus.domain_tokens if meant is config else {}
    found = architecture(meant, corpus.tokenizer, len(added))
    accelerator = distributed.start(config, plan)
    core = MaskedLanguageModel(
        build(meant, found, added), masked_head=config.model.masked_head, packed=corpus.is_packed
    )
    if weights is not None:
        format.load_weights(weights, core)
    name = str(weights or meant.model.name_or_path)
    step = None if weights is None else format.read_state(weights)[0].step
    if probe is not None:
        is_start = config.validation.model == "start"
        probe.put_to("start" if is_start else "trained", core.model.to(accelerator.device))
        if not is_start:
            probe.put_to("start", _start(config, corpus).to(accelerator.device))
    # The optimizer updates nothing; with it the model is placed and sharded just as in training.
    model, _ = distributed.prepare(accelerator, core, build_optimizer(core, optim_spec(config, lr=0.0)))

    special = loading.special_tokens(corpus.tokenizer)
    masker = held_out_masks(Masker(config.masking, config.seed, special.mask, special.all, len(corpus.tokenizer)))
    result = rows.evaluate(accelerator, model, masker, plan.micro_size)
    of_sentences = rows.pseudo_likelihood(accelerator, model, config.validation.sentences, plan.micro_size)

    def tell() -> None:
        figures: dict[str, Any] = {
            "kind": "validation",
            "model": name,
            "step": step,
            **result.figures(),
            **(of_sentences.figures() if of_sentences is not None else {}),
            **rows.facts(masker),
            "corpus": corpus.digest,
            "processes": distributed.describe(accelerator),
        }
        run.mkdir(parents=True, exist_ok=True)
        write_json(run / "validation.json", figures, indent=1)
        runtime.say(
            f"{name} on {len(rows):,} held-out rows of {corpus.digest}: loss {result.loss:.4f}, perplexity "
            f"{result.perplexity:.4f}, accuracy {result.accuracy:.1%} of {result.num_masked:,} masked tokens; word "
            f"frequencies alone give a loss of {figures['unigram_loss']:.4f}"
        )
        runtime.say(f"accuracy by how often a token stands in the training rows: {bands_in_words(figures)}")
        if second := result.second:
            runtime.say(
                f"on {figures['second_source']}: loss {second.loss:.4f}, accuracy {second.accuracy:.1%} of "
                f"{second.num_masked:,} masked tokens"
            )
        if of_sentences is not None:
            runtime.say(of_sentences.describe())
        runtime.say(f"written to {run / 'validation.json'}")
        if probe is not None:
            about = {"kind": "probe", "model": name, "step": step, "corpus": corpus.digest}
            write_json(run / "probe.json", about | {"questions": probe.answers}, indent=1)
            runtime.say("\n".join([*probe.describe(), f"written to {run / 'probe.json'}"]))

    distributed.on_main(accelerator, tell)
    accelerator.free_memory(model)
    accelerator.end_training()


def _start(config: Config, corpus: PreparedCorpus) -> Any:
    """The model as it was before the first update."""
    found = architecture(config, corpus.tokenizer, len(corpus.domain_tokens))
    return build(config, found, corpus.domain_tokens)


def _meant(config: Config, run: Path) -> tuple[Config, Path | None]:
    """What `validation.model` means: the config to build it from, and the checkpoint its weights are in, if any."""
    match config.validation.model:
        case "start":
            return config, None
        case "checkpoint":
            return config, find.require_newest(run / "checkpoints", runtime.say)
        case "model":
            folder = run / "model"
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"validation.model: there is no exported model in {run}; name the output_dir of a finished run, "
                    "or evaluate a checkpoint or start with --validation.model checkpoint or start"
                )
        case named:
            folder = Path(named).expanduser()
            if format.is_name(folder.name) and folder.is_dir():
                format.verify(folder)
                return config, folder
            if not (folder / "config.json").is_file():
                raise ModelError(
                    f"validation.model: {named} is neither model, checkpoint nor start, nor the folder of a checkpoint "
                    "or a model; for a model of the hub write --validation.model start --model.name_or_path NAME"
                )
    padded = {name: value for name, value in config.model.overrides.items() if name == "vocab_size"}
    model = ModelConfig(name_or_path=str(folder), overrides=padded, masked_head=config.model.masked_head)
    return dataclasses.replace(config, model=model), None


if __name__ == "__main__":
    runtime.run(main, prog="validate.py", description=__doc__, of_a_run=True)
