"""Activation checkpointing: the backward pass recomputes each encoder layer, of which only the input is kept.

Chen et al., 2016 (https://arxiv.org/abs/1604.06174). It costs one more forward pass of the layers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mlm_dist.errors import ModelError
from mlm_dist.model.dropout import masks_of
from mlm_dist.model.layers import encoder_layers


def checkpoint_layers(model: Any) -> None:
    """Make the backward pass recompute each encoder layer; losses and gradients stay the same.

    Only `forward` of the layers is replaced. Hooks of a layer, such as those with which FSDP2 gathers its weights, stay
    around it and are not called again. Passes without gradients are as before.

    Args:
        model: A transformers model with a `base_model`.

    Raises:
        ModelError: The model keeps no list of layers.
    """
    layers = list(_with_forward(encoder_layers(model)))
    if not layers:
        raise ModelError(
            f"model.checkpointing: no list of layers was found in a {model.config.model_type} model; set it to none"
        )
    draws = _has_dropout(model)
    for layer in layers:
        layer.forward = CheckpointedForward(layer, draws)


class CheckpointedForward:
    """The forward function of a layer, which the backward pass calls again.

    Args:
        layer: The layer.
        draws: Whether it may draw from torch's generators.
    """

    def __init__(self, layer: nn.Module, draws: bool) -> None:
        from transformers import Cache

        self.inner: Callable[..., Any] = layer.forward
        self._layer, self._draws = layer, draws
        self._cache_kind = Cache
        functools.update_wrapper(self, layer.forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the layer."""
        # On a GPU the state of a generator is read and set only if need be, because this waits for the device.
        settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": self._draws}
        if not torch.compiler.is_compiling():  # the compiler duplicates operations, and draws each mask once
            settings["context_fn"] = self._contexts
        # A cache of keys and values, which decoders and XLM fill in training too, would be filled again.
        kept: list[Any] = [None if isinstance(value, self._cache_kind) else value for value in args]
        named: dict[str, Any] = {
            name: None if isinstance(value, self._cache_kind) else value for name, value in kwargs.items()
        }
        return checkpoint(self.inner, *kept, **settings, **named)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The contexts of the forward pass and of its repetition, which draws the same dropout masks."""
        masks = masks_of(self._layer)
        return nullcontext(), nullcontext() if masks is None else masks.replay()


def _with_forward(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules, and for a list of modules (Funnel's blocks) those that it holds."""
    for module in modules:
        if isinstance(module, nn.ModuleList):
            yield from _with_forward(module)
        else:
            yield module


def _has_dropout(model: nn.Module) -> bool:
    """Whether a configuration, or a module, has a dropout probability over 0."""
    settings = {name: value for name, value in vars(model.config).items() if "drop" in name}
    in_modules = (module.p for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    return any(isinstance(p, int | float) and p > 0 for p in (*settings.values(), *in_modules))
