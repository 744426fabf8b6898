"""Write a model so that `from_pretrained` and `pipeline("fill-mask")` load it: weights, tokenizer and model card."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mlm_dist.hf_model import reload_check


def write_model(
    model: Any, tokenizer: Any, card: Any, folder: Path, *, dtype: str, max_length: int, verify: bool
) -> None:
    """Write a model to a folder, whole or not at all; an older model in the folder is replaced.

    Args:
        model: A transformers model in fp32 on the CPU; afterwards its weights are rounded to `dtype`.
        tokenizer: Its tokenizer.
        card: Its `huggingface_hub.ModelCard`.
        folder: The folder to write, such as `model/` of the run directory.
        dtype: float32, bfloat16 or float16.
        max_length: Tokens per row; the written tokenizer allows at least as many.
        verify: Load the written model in a new process and compare it, before it replaces an older one.

    Raises:
        ModelError: The written model does not load, or differs from the one in memory.
        OSError: The folder cannot be written.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _deepspeed_silent():
            model.to(getattr(torch, dtype)).save_pretrained(str(temporary))
        # The tokenizer of a checkpoint can have a lower limit than the positions that the model has now.
        tokenizer.model_max_length = max(tokenizer.model_max_length, max_length)
        tokenizer.save_pretrained(str(temporary))
        card.save(temporary / "README.md")
        temporary.chmod(0o755)
        for path in temporary.iterdir():
            path.chmod(0o644)
        if verify:
            reload_check.check(temporary, model.float(), tokenizer)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _deepspeed_silent() -> Iterator[None]:
    """Saving imports DeepSpeed if it is installed, which then logs to stdout what its device is."""
    logger = logging.getLogger("DeepSpeed")
    logger.addFilter(_no_record)
    try:
        yield
    finally:
        logger.removeFilter(_no_record)


def _no_record(record: logging.LogRecord) -> bool:
    return False


def with_parameters(trained: Any, parameters: Mapping[str, torch.Tensor]) -> Any:
    """A new fp32 model on the CPU with the configuration and buffers of a trained one and the given parameters.

    Args:
        trained: The trained model; its parameters may be sharded.
        parameters: {name: full tensor} of all parameters; of tied ones, one name is enough.
    """
    model = type(trained)._from_config(trained.config, dtype=torch.float32)
    state = {name: buffer.detach().cpu() for name, buffer in trained.named_buffers()} | dict(parameters)
    missing, _ = model.load_state_dict(state, strict=False)
    model.tie_weights()
    # Tied weights are one parameter with several names; any other missing one is a fault.
    lost = set(missing) & set(dict(model.named_parameters()))
    assert not lost, f"parameters are missing: {sorted(lost)}"
    return model
