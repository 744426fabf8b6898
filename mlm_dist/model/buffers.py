"""Buffers of a model: the same on all ranks and in all steps."""

from __future__ import annotations

from typing import Any

import torch

from mlm_dist.errors import ModelError
from mlm_dist.model import trial
from mlm_dist.model.inference import undone


def require_constant(model: Any, length: int) -> None:
    """Refuse a model that training changes through its buffers, such as the running statistics of batch normalization.

    Checkpoints hold no buffers, and ranks do not exchange them. A buffer that changes without an effect is allowed, as
    the ranges that I-BERT records without its quant_mode.

    Args:
        model: A transformers masked-language model.
        length: Tokens of a row that it can compute.

    Raises:
        ModelError: The message names the buffer.
    """
    input_ids = trial.tokens(model.config, 2, length).to(next(model.parameters()).device)
    with undone(model):
        before = {name: value.clone() for name, value in _saved(model).items()}
        model.train()
        trial.logits(model, input_ids=input_ids)
        changed = {name: value for name, value in _saved(model).items() if not value.equal(before[name])}
        if not changed:
            return
        model.eval()
        after = trial.logits(model, input_ids=input_ids)
        for name, value in changed.items():
            value.copy_(before[name])
        if not trial.close(trial.logits(model, input_ids=input_ids), after):
            name = next(iter(changed))
            raise ModelError(
                f"model.name_or_path: {name} of a {model.config.model_type} model changes in training without being "
                "trained, so checkpoints would not hold it; choose another architecture, or turn that off with "
                "--model.overrides (I-BERT's is quant_mode)"
            )


def _saved(model: Any) -> dict[str, torch.Tensor]:
    """The buffers that belong to the state of a model; others are caches."""
    state = model.state_dict()
    return {name: state[name] for name, _ in model.named_buffers() if name in state}
