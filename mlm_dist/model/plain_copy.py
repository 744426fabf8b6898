"""A new model of the configuration of another one, with its parameters: as transformers builds it, nothing added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F


def plain_copy(model: Any) -> Any:
    """A copy of an fp32 model on the CPU, with the parameters that a new model of its configuration has.

    `resize_token_embeddings` leaves an untied head with other parameters than a new model: BERT's two biases become
    one, and one of RoBERTa's keeps its old length. Such a model could be trained, but not exported. A bias of ESM that
    keeps its old length is in use, so that its model cannot run; the biases of new tokens are 0.
    """
    return with_parameters(model, dict(model.named_parameters()), grown=True)


@torch.no_grad()
def with_parameters(trained: Any, parameters: Mapping[str, torch.Tensor], *, grown: bool = False) -> Any:
    """A new fp32 model on the CPU with the configuration and buffers of a trained one and the given parameters.

    Args:
        trained: The trained model; its parameters may be sharded.
        parameters: {name: full tensor} of all parameters; of tied ones, one name is enough.
        grown: Whether a vector that is too short, because it was not resized, is filled with 0.
    """
    model = _uninitialized(trained)
    partners = _partners(trained)
    lost = []
    for name, parameter in model.named_parameters():
        candidates = (parameters.get(one) for one in (name, *partners.get(name, ())))
        value = next((one for one in candidates if one is not None and one.shape == parameter.shape), None)
        own = parameters.get(name)
        if value is None and grown and own is not None and own.ndim == 1 and len(own) < len(parameter):
            value = F.pad(own, (0, len(parameter) - len(own)))
        if value is None:
            lost.append(name)
        else:
            parameter.copy_(value)
    assert not lost, f"parameters are missing: {sorted(lost)}"
    more = parameters.keys() - {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert not more, f"the configuration has no place for the parameters {sorted(more)}"
    buffers = dict(model.named_buffers())
    for name, buffer in trained.named_buffers():
        if name in buffers and buffers[name].shape == buffer.shape:
            buffers[name].copy_(buffer)
    return model


def _partners(model: Any) -> dict[str, list[str]]:
    """{name of a parameter: other names of it, or of one that the class would tie to it}."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = getattr(model, "_tied_weights_keys", None) or {}
    groups = [*names.values(), *(map(list, tied.items()) if isinstance(tied, dict) else ())]
    partners: dict[str, list[str]] = {}
    for group in groups:
        for name in group:
            partners.setdefault(name, []).extend(one for one in group if one != name)
    return partners


def _uninitialized(trained: Any) -> Any:
    """A new model of the same configuration; drawing random weights would take time and numbers of the run."""
    from transformers.initialization import no_init_weights

    with torch.random.fork_rng(devices=[]), no_init_weights():
        model = type(trained)._from_config(trained.config, dtype=torch.float32)
    model.tie_weights()
    return model
