"""Export a checkpoint of a run in Hugging Face format, for `from_pretrained` and `pipeline("fill-mask")`.

    python mlm_dist/export.py --output_dir runs/mine
    python mlm_dist/export.py --output_dir runs/mine --export.checkpoint runs/mine/checkpoints/step-00000500
    python mlm_dist/export.py --output_dir runs/mine --export.dtype bfloat16 --export.push_to_hub me/my-model

It exports the newest or the best checkpoint of the run in output_dir (see export.checkpoint). The config of that run
applies, and flags override it. Training exports its model itself.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from mlm_dist import runtime
from mlm_dist.checkpoint import best, find, format
from mlm_dist.config import Config, to_yaml
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine import distributed
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.hf_model import upload
from mlm_dist.hf_model.model_card import CardContent, base_model, model_card
from mlm_dist.hf_model.write import with_parameters, write_model
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.pages.record import read_record
from mlm_dist.redaction import config_without_credentials
from mlm_dist.trained_model import load_checkpoint, load_model

logger = logging.getLogger(__name__)


def main(config: Config) -> None:
    """Export a checkpoint of the run in output_dir."""
    if runtime.rank_and_world_size()[1] > 1:
        raise ConfigError("the export job needs one process; start it as python mlm_dist/export.py")
    upload.check(config.export.push_to_hub)
    point = _checkpoint(config)
    model, corpus, step = load_checkpoint(config, point)
    try:
        _write(model, corpus, config, step)
    except OSError as error:
        raise ConfigError(f"output_dir: cannot write {_folder(config)} ({error.strerror}); free disk space") from None
    logger.info("%s exported as %s to %s", point, config.export.dtype, _folder(config))
    push(config)


def export(
    accelerator: Accelerator, core: MaskedLanguageModel, corpus: PreparedCorpus, config: Config, step: int
) -> None:
    """Export the model in memory, or the best checkpoint if that is wanted; a collective.

    Args:
        accelerator: The processes.
        core: The model as it was before `prepare`.
        corpus: The corpus it was trained on.
        config: The run.
        step: Step of the weights in memory.

    Raises:
        ModelError: The exported model does not load, or is not the one in memory.
        CheckpointError: There is no best checkpoint.
    """
    if best.is_exported(config):
        distributed.on_main(accelerator, lambda: _write_best(corpus, config))
        return
    parameters = _gather_parameters(accelerator, core)
    distributed.on_main(accelerator, lambda: _write(with_parameters(core.model, parameters), corpus, config, step))


def push(config: Config) -> None:
    """Upload the exported model from the main process, if export.push_to_hub is set."""
    if config.export.push_to_hub is not None and runtime.is_main_process():
        upload.push(_folder(config), config.export.push_to_hub)


def _gather_parameters(accelerator: Accelerator, core: MaskedLanguageModel) -> dict[str, torch.Tensor]:
    """{name: full fp32 values} of the transformers model on the main process, {} elsewhere; a collective."""
    parameters = {}
    for name, value in distributed.full_parameters(accelerator, core):
        if accelerator.is_main_process:
            parameters[name.removeprefix("model.")] = value
    return parameters


def _write_best(corpus: PreparedCorpus, config: Config) -> None:
    point = find.require_best(Path(config.output_dir).expanduser() / "checkpoints", runtime.say)
    model, step = load_model(config, corpus, point)
    _write(model, corpus, config, step)


def _write(model: Any, corpus: PreparedCorpus, config: Config, step: int) -> None:
    """Write an fp32 model on the CPU to `model/` of the run directory."""
    folder = _folder(config)
    card = CardContent(
        name=folder.parent.resolve().name,
        location=config.export.push_to_hub or str(folder),
        model_type=model.config.model_type,
        base_model=base_model(config.model),
        dtype=config.export.dtype,
        mask_token=corpus.tokenizer.mask_token,
        step=step,
        manifest=corpus.manifest,
        record=read_record(folder.parent),
        config_yaml=to_yaml(config_without_credentials(config)),
    )
    write_model(
        model,
        corpus.tokenizer,
        model_card(card),
        folder,
        dtype=config.export.dtype,
        max_length=config.rows.max_length,
        verify=config.export.verify,
    )


def _folder(config: Config) -> Path:
    return Path(config.output_dir).expanduser() / "model"


def _checkpoint(config: Config) -> Path:
    """The checkpoint that export.checkpoint names, verified."""
    folder, name = Path(config.output_dir).expanduser() / "checkpoints", config.export.checkpoint
    if best.is_exported(config):
        return find.require_best(folder, runtime.say)
    if name in (None, "newest"):
        return find.require_newest(folder, runtime.say)
    point = Path(name).expanduser()
    if not format.is_name(point.name) or not point.is_dir():
        raise CheckpointError(f"export.checkpoint: {point} is not a checkpoint; name a folder such as step-00000500")
    format.verify(point)
    return point


if __name__ == "__main__":
    runtime.run(main, prog="export.py", description=__doc__, of_a_run=True)
