"""Evaluation mode for the length of a block, and forward passes that leave no trace."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients; its mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def undone(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards the model and all random-number generators are as before.

    Restored are the mode, the attributes, buffers and submodules of each module, and the configuration: BigBird, for
    example, exchanges its attention for good when a row is short.
    """
    modules = [(module, _snapshot(module)) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    config = dict(vars(model.config))
    python, numpy = random.getstate(), np.random.get_state()
    device = next(model.parameters()).device
    devices = [] if device.type in ("cpu", "meta") else [device]
    try:
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"), torch.no_grad():
            model.eval()
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, (attributes, parts) in modules:
            vars(module).clear()
            vars(module).update(attributes)
            for name, part in parts.items():
                attributes[name].clear()
                attributes[name].update(part)
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        vars(model.config).clear()
        vars(model.config).update(config)


def _snapshot(module: nn.Module) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    attributes = dict(vars(module))
    return attributes, {name: dict(attributes[name]) for name in ("_modules", "_buffers", "_parameters")}
