"""torch.compile in place: the model stays the same module with the same parameter names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import MethodType
from typing import Any

import torch
from torch import nn

from mlm_dist.model import variable_length
from mlm_dist.model.activation_checkpointing import CheckpointedForward
from mlm_dist.model.dropout import masks_of
from mlm_dist.model.layers import encoder_layers
from mlm_dist.model.loss import summed_cross_entropy
from mlm_dist.model.masked_lm import MaskedLanguageModel

# Graphs that torch keeps per function: layers of several kinds, with and without a mask, in training and evaluation.
MAX_GRAPHS = 64

logger = logging.getLogger(__name__)


class CompileStats:
    """The number of graphs that this process compiles from now on, and the time this takes.

    Args:
        enabled: Whether anything is compiled. If not, torch's compiler is not imported, which saves a second.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.seconds = 0.0
        self._num_graphs: Callable[[], int] = lambda: 0
        self._num_logged = 0
        self._began = 0.0
        self._pause: Callable[[], AbstractContextManager[None]] | None = None
        self._paused: AbstractContextManager[None] | None = None
        self._handler: Any = None
        if enabled:
            from torch._dynamo import callback, utils

            before = utils.counters["stats"]["unique_graphs"]
            self._num_graphs = lambda: utils.counters["stats"]["unique_graphs"] - before
            callback.on_compile_start(self._start)
            callback.on_compile_end(self._end)
            self._handler = callback.callback_handler

    @property
    def num_graphs(self) -> int:
        """Graphs compiled so far, each with its backward pass."""
        return self._num_graphs()

    def pause(self, pause: Callable[[], AbstractContextManager[None]]) -> None:
        """Enter such a context around every compilation from now on."""
        self._pause = pause

    def close(self) -> None:
        """Observe no compilation any more."""
        if self._handler is not None:
            self._handler.remove_start_callback(self._start)
            self._handler.remove_end_callback(self._end)
            self._handler = None

    def log(self) -> None:
        """Log the graphs compiled since the last call, if there are any."""
        new, self._num_logged = self.num_graphs - self._num_logged, self.num_graphs
        if new:
            more = "" if new == self._num_logged else " more, for new shapes"
            logger.info(
                f"compiled {new} graph{'s' if new > 1 else ''}{more}; {self.seconds:.1f} s so far, not counted in "
                "tokens/s"
            )

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


def compile_forward(core: MaskedLanguageModel, how: str | None) -> CompileStats:
    """Compile a model's forward and backward pass, each when it first meets a shape.

    Only functions are replaced: parameters, their names, hooks and wrappers of the model stay the same.

    Args:
        core: The model, before or after it is prepared for training.
        how: none or None; regional, which compiles one layer and uses its graph for all layers of its class, and on
            a GPU the head and the loss as well; or whole, which compiles the model from tokens to loss.
    """
    stats = CompileStats(enabled=how not in ("none", None))
    if how in ("none", None):
        return stats
    import torch._dynamo.config as dynamo

    # The compiler calls it and takes the result, instead of tracing into it. As a decorator, this would import the
    # compiler at every start.
    torch.compiler.assume_constant_result(variable_length.has_kernel)  # type: ignore[no-untyped-call]
    dynamo.recompile_limit = max(dynamo.recompile_limit, MAX_GRAPHS)
    bound = _Bound()
    if how == "whole":
        checkpointed = [layer for layer in encoder_layers(core.model) if isinstance(layer.forward, CheckpointedForward)]
        if any(map(_has_hooks_inside, checkpointed)):
            for layer in checkpointed:  # a graph ends at each hook, and a repeated layer cannot be a part of it
                repeated: Any = layer.forward
                repeated.inner = bound(layer)
                layer.forward = torch.compiler.disable(repeated)  # type: ignore[no-untyped-call]
        elif checkpointed:
            dynamo.skip_fwd_side_effects_in_bwd_under_checkpoint = True  # counting of draws, once per forward pass
            if (masks := masks_of(core.model)) is not None:
                masks.in_one_graph = True
        core.loss = torch.compile(core.loss, dynamic=False)  # type: ignore[method-assign]
        return stats
    # Gradients arrive layer by layer already: DDP need not split a layer's graph to have them early.
    dynamo.optimize_ddp = False
    for layer in encoder_layers(core.model):
        if isinstance(layer.forward, CheckpointedForward):
            layer.forward.inner = bound(layer)  # checkpointing stays around the graph
        else:
            layer.forward = bound(layer)
    if next(core.parameters()).device.type != "cpu":  # the CPU has a loss of its own, which keeps values in the cache
        compile_head(core)
    return stats


def _has_hooks_inside(layer: nn.Module) -> bool:
    """Whether something is called around parts of a layer, as ZeRO-3 does to gather their weights."""
    return any(part._forward_pre_hooks or part._forward_hooks for part in layer.modules() if part is not layer)


def compile_head(core: MaskedLanguageModel) -> None:
    """Compile what comes after the encoder: the head but for its last product, and the loss."""
    bound = _Bound()
    for module in core.model.children():
        if module is not core.model.base_model and not isinstance(module, nn.Linear):
            module.forward = bound(module)
    core.cross_entropy = torch.compile(summed_cross_entropy, dynamic=False)


class _Bound:
    """Compiled forward methods: one for all modules of a class."""

    def __init__(self) -> None:
        self._compiled: dict[type, Callable[..., Any]] = {}

    def __call__(self, module: nn.Module) -> Callable[..., Any]:
        kind = type(module)
        if kind not in self._compiled:
            self._compiled[kind] = torch.compile(kind.forward, dynamic=False)
        return MethodType(self._compiled[kind], module)
