"""torch.compile in place: the model stays the same module with the same names, but computes by fused kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

import torch
from torch import nn

from mlm_dist.model.masked_lm import MaskedLanguageModel

# Graphs of one function that torch keeps; layers of several kinds, with and without a mask, in training and evaluation.
MAX_GRAPHS = 64


class Compiling:
    """How often this process compiled something since this was made, and how long it took.

    Args:
        enabled: Whether anything will be compiled; else torch's compiler is not even imported, which takes a second.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.seconds = 0.0
        self._graphs: Callable[[], int] = lambda: 0
        self._told = 0
        self._began = 0.0
        self._pause: Callable[[], AbstractContextManager[None]] | None = None
        self._paused: AbstractContextManager[None] | None = None
        if enabled:
            from torch._dynamo import callback, utils

            before = utils.counters["stats"]["unique_graphs"]
            self._graphs = lambda: utils.counters["stats"]["unique_graphs"] - before
            callback.on_compile_start(self._start)
            callback.on_compile_end(self._end)

    @property
    def num_graphs(self) -> int:
        """Graphs compiled so far, each with its backward pass."""
        return self._graphs()

    def pause(self, pause: Callable[[], AbstractContextManager[None]]) -> None:
        """Spend the time of compiling inside such contexts from now on."""
        self._pause = pause

    def tell(self, say: Callable[[str], None]) -> None:
        """Say what was compiled since the last call, if anything was."""
        new, self._told = self.num_graphs - self._told, self.num_graphs
        if new:
            more = "" if new == self._told else " more, for shapes that had not come before"
            say(f"compiled {new} graph{'s' if new > 1 else ''}{more}; {self.seconds:.1f} s so far, not in tokens/s")

    def _start(self, _: Any) -> None:
        self._began = time.perf_counter()
        if self._pause is not None:
            self._paused = self._pause()
            self._paused.__enter__()

    def _end(self, _: Any) -> None:
        self.seconds += time.perf_counter() - self._began
        if self._paused is not None:
            self._paused.__exit__(None, None, None)
            self._paused = None


def compile_forward(core: MaskedLanguageModel, how: str) -> Compiling:
    """Compile a model's forward pass, and with it its backward pass, when first used with each shape.

    Only functions are replaced, so that names, parameters, hooks and what wraps the model stay as they are.

    Args:
        core: The model; prepared or not.
        how: none; regional, each layer by itself, all of a kind by the same graph; or whole, from tokens to loss.
    """
    found = Compiling(enabled=how != "none")
    if how == "none":
        return found
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_GRAPHS)
    if how == "whole":
        core.loss = torch.compile(core.loss, dynamic=False)  # type: ignore[method-assign]
        return found
    # Gradients come layer by layer as it is: DDP need not cut a layer's graph in two to have them early.
    dynamo.optimize_ddp = False
    compiled: dict[type, Callable[..., Any]] = {}
    for layer in layers(core):
        kind = type(layer)
        if kind not in compiled:
            compiled[kind] = torch.compile(kind.forward, dynamic=False)
        layer.forward = MethodType(compiled[kind], layer)
    return found


def layers(core: nn.Module) -> list[nn.Module]:
    """The encoder's layers: the modules of the list that holds the most parameters."""
    lists = [module for module in core.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=lambda one: sum(_size(p) for p in one.parameters()), default=[]))


def _size(parameter: nn.Parameter) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))  # a parameter that ZeRO-3 has sharded is empty
