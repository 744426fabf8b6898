"""Write a trained model so that `from_pretrained` and `pipeline("fill-mask")` load it.

    python mlm_dist/export.py --output_dir runs/mine
    python mlm_dist/export.py --output_dir runs/mine --export.checkpoint runs/mine/checkpoints/step-00000500
    python mlm_dist/export.py --output_dir runs/mine --export.dtype bfloat16 --export.push_to_hub me/my-model

It takes the newest or the best checkpoint of the run in output_dir (see export.checkpoint), whose configuration is read
before all flags, and trains nothing. Training does the same at its end.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mlm_dist import runtime
from mlm_dist.checkpoint import best, find, format
from mlm_dist.config import Config
from mlm_dist.corpus.sources import git
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine import distributed
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.hf_model import reload_check, upload
from mlm_dist.hf_model.model_card import card
from mlm_dist.interim import architecture
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.pages.record import read_record
from mlm_dist.prepare import prepare


def main(config: Config) -> None:
    """Export a checkpoint of a run."""
    if runtime.rank_and_world_size()[1] > 1:
        raise ConfigError("the export job needs one process; start it as python mlm_dist/export.py")
    upload.check(config)
    run = Path(config.output_dir).expanduser()
    point = _point(config, run)
    model, corpus, step = load_checkpoint(config, point)
    try:
        _write(model, corpus, run, config, step)
    except OSError as error:
        raise ConfigError(f"output_dir: cannot write the model to {run} ({error.strerror}); make room") from None
    runtime.say(f"{point} as {config.export.dtype} in {run / 'model'}")
    push(config)


def export(
    accelerator: Accelerator, core: MaskedLanguageModel, corpus: PreparedCorpus, run: Path, config: Config, step: int
) -> None:
    """Write weights, tokenizer and model card to `model/` of the run directory, whole or not at all; a collective.

    The weights are those in memory, or where the best are wanted, those of the best checkpoint.

    Args:
        accelerator: The processes.
        core: The model as it was before it was prepared.
        corpus: What it was trained on; its tokenizer goes with the model.
        run: The run directory; an older model in it is replaced.
        config: The run.
        step: The update the weights are of.

    Raises:
        ModelError: What was written does not load again, or is not what is in memory.
        CheckpointError: There is no best checkpoint.
    """

    def write_best() -> None:
        point = find.require_best(run / "checkpoints", runtime.say)
        model, best_step = _load(config, corpus, point)
        _write(model, corpus, run, config, best_step)

    if best.is_exported(config):
        distributed.on_main(accelerator, write_best)
        return
    values = {}
    for name, value in distributed.full_parameters(accelerator, core):
        if accelerator.is_main_process:
            values[name.removeprefix("model.")] = value
    distributed.on_main(accelerator, lambda: _write(_assembled(core.model, values), corpus, run, config, step))


def load_checkpoint(config: Config, point: Path) -> tuple[Any, PreparedCorpus, int]:
    """The model of a verified checkpoint, in fp32 on the CPU; the corpus it was trained on; and its update.

    Raises:
        CheckpointError: It is of another model, or its corpus is gone and its documents have changed since.
    """
    _, identity = format.read_state(point)
    corpus = _corpus(config, str(identity["corpus.source"]).removeprefix("digest "), point)
    model, step = _load(config, corpus, point)
    return model, corpus, step


def _load(config: Config, corpus: PreparedCorpus, point: Path) -> tuple[Any, int]:
    """The model of a verified checkpoint, and its update."""
    from transformers import AutoModelForMaskedLM

    found = architecture(config, corpus.tokenizer, len(corpus.domain_tokens))
    core = MaskedLanguageModel(AutoModelForMaskedLM.from_config(found, dtype=torch.float32), masked_head=False)
    format.load_weights(point, core)
    core.model.tie_weights()
    return core.model, format.read_state(point)[0].step


def push(config: Config) -> None:
    """Upload the exported model from the main process, if `export.push_to_hub` says where to."""
    if config.export.push_to_hub is not None and runtime.is_main_process():
        upload.push(Path(config.output_dir).expanduser() / "model", config.export.push_to_hub, runtime.say)


def public(config: Config) -> Config:
    """The configuration as others may see it: without the name and password of a git address."""
    corpus = dataclasses.replace(config.corpus, source=git.without_credentials(config.corpus.source))
    validation = config.validation
    if validation.second_source is not None:
        second = git.without_credentials(validation.second_source)
        validation = dataclasses.replace(validation, second_source=second)
    return dataclasses.replace(config, corpus=corpus, validation=validation)


def _write(model: Any, corpus: PreparedCorpus, run: Path, config: Config, step: int) -> None:
    """Write an fp32 model on the CPU, load it again elsewhere, and put it in place; its weights are rounded."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = run / "model"
    name, mask = run.resolve().name, corpus.tokenizer.mask_token
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=run))
    try:
        model.to(getattr(torch, config.export.dtype)).save_pretrained(str(temporary))
        # A checkpoint's tokenizer may say less than the model has positions for by now.
        corpus.tokenizer.model_max_length = max(corpus.tokenizer.model_max_length, config.rows.max_length)
        corpus.tokenizer.save_pretrained(str(temporary))
        about = card(name, public(config), model, mask, corpus.manifest, read_record(run), step)
        about.save(temporary / "README.md")
        temporary.chmod(0o755)
        for path in temporary.iterdir():
            path.chmod(0o644)
        if config.export.verify:
            reload_check.check(temporary, model.float(), corpus.tokenizer)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _point(config: Config, run: Path) -> Path:
    """The checkpoint that `export.checkpoint` means, verified."""
    if best.is_exported(config):
        return find.require_best(run / "checkpoints", runtime.say)
    if config.export.checkpoint in (None, "newest"):
        return find.require_newest(run / "checkpoints", runtime.say)
    point = Path(config.export.checkpoint).expanduser()
    if not format.is_name(point.name) or not point.is_dir():
        raise CheckpointError(f"export.checkpoint: {point} is no checkpoint; name a folder such as step-00000500")
    format.verify(point)
    return point


def _corpus(config: Config, digest: str, point: Path) -> PreparedCorpus:
    """The corpus a checkpoint was trained on, from the cache; where it is gone, it is prepared again."""
    kept = PreparedCorpus(Path(config.corpus.cache_dir).expanduser() / digest)
    if (kept.folder / "manifest.json").is_file():
        return kept
    corpus = prepare(config)
    if corpus.digest != digest:
        raise CheckpointError(
            f"corpus.source: {point} was trained on the rows {digest}, which are not in corpus.cache_dir, and the "
            f"documents now give {corpus.digest}; restore either"
        )
    return corpus


def _assembled(trained: Any, values: dict[str, torch.Tensor]) -> Any:
    """A fresh model of the same configuration with these parameters, its tied weights tied again."""
    model = type(trained)._from_config(trained.config, dtype=torch.float32)
    state = {name: buffer.detach().cpu() for name, buffer in trained.named_buffers()} | values
    missing, _ = model.load_state_dict(state, strict=False)
    model.tie_weights()
    # Tied weights have one parameter and several names; anything else that is missing is a fault of ours.
    named = dict(model.named_parameters())
    assert not set(missing) & set(named), f"not exported: {sorted(set(missing) & set(named))}"
    return model


if __name__ == "__main__":
    runtime.run(main, prog="export.py", description=__doc__, of_a_run=True)
