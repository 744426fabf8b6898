"""Packed rows: the arguments with which a transformers model computes each chunk as if it were alone in its row."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from mlm_dist.model import attention, trial, variable_length
from mlm_dist.model import precision as precisions
from mlm_dist.model.inference import undone
from mlm_dist.model.layers import encoder_layers
from mlm_dist.model.positions import first_position
from mlm_dist.model.precision import Precision, precision_of_run
from mlm_dist.model.variable_length import Window


class MaskStyle(NamedTuple):
    """How an architecture takes which tokens attend to each other.

    Args:
        place: What a mask is an argument of: the model, its encoder behind the embeddings, each of the encoder's
            layers, or the kernel of `attention.attend`. lengths is no mask: that kernel gets the lengths of chunks.
        form: boolean is [rows, 1, length, length], True for tokens that attend to each other. additive has the same
            shape and is added to the scores: 0, or the smallest number. square is [rows, length, length], 1 or 0. none
            is no mask; by_kind no mask for each kind of attention, so that the model makes none itself.
    """

    place: Literal["model", "encoder", "layers", "kernel", "lengths"]
    form: Literal["boolean", "additive", "square", "none", "by_kind"]


STYLES = (
    MaskStyle("model", "boolean"),
    MaskStyle("model", "additive"),
    MaskStyle("encoder", "boolean"),
    MaskStyle("kernel", "boolean"),
    MaskStyle("layers", "additive"),
    MaskStyle("layers", "boolean"),
    MaskStyle("layers", "square"),
)
LENGTHS = (MaskStyle("lengths", "by_kind"), MaskStyle("lengths", "none"))
# Of the largest logit. Rows of the same shape round alike, so that only a mixture of chunks makes a difference.
UNCHANGED = 1e-6
_MASK_NAMES = ("attention_mask", "mask")  # of arguments of encoders and layers


class PackedAttention:
    """Turns the first positions of chunks into arguments of a model's forward pass.

    Args:
        model: A transformers masked-language model.
        style: How it takes them.
    """

    def __init__(self, model: Any, style: MaskStyle) -> None:
        self._model, self.style = model, style
        self._first_position = first_position(model.config)
        self._takes_positions = trial.takes(model, "position_ids")
        self._mask: torch.Tensor | None = None  # of the last packed rows
        self._all_ones: torch.Tensor | None = None  # the mask that the model was called with for them
        self._hooks: list[Any] = []
        encoder = getattr(model.base_model, "encoder", None)
        inside = {"encoder": [encoder] if isinstance(encoder, torch.nn.Module) else [], "layers": encoder_layers(model)}
        for module in inside.get(style.place, []):
            names = list(inspect.signature(module.forward).parameters)
            if name := next((each for each in _MASK_NAMES if each in names), None):
                hook: Any = _SetArgument(name, names.index(name), lambda: self._mask)
                self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        if self._hooks:
            self._hooks.append(model.register_forward_pre_hook(self._forget_stale, with_kwargs=True))

    def remove(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def arguments(
        self,
        input_ids: torch.Tensor,
        cu_seq_lens: torch.Tensor,
        dtype: torch.dtype | None = None,
        longest: int | None = None,
        *,
        is_causal: bool = False,
    ) -> dict[str, Any]:
        """The arguments of the model's forward pass.

        Args:
            input_ids: [rows, length].
            cu_seq_lens: [chunks + 1], int32, the first position of each chunk in the flattened rows, and their end.
                Padding is a chunk too, because a token that attends to nothing gives NaN.
            dtype: Of the model's weights, if it is not the model's own.
            longest: For the style lengths, see `variable_length.attend`.
            is_causal: Whether each token attends to itself and those before it in its chunk only.
        """
        arguments: dict[str, Any] = {"input_ids": input_ids}
        if self.style.form == "by_kind":
            arguments["attention_mask"] = {"full_attention": None, "sliding_attention": None}
        if self.style.place == "lengths":
            arguments |= {"cu_seq_lens_q": cu_seq_lens, "max_length_q": longest}
            arguments |= {"causal_chunks": True} if is_causal else {}
            if not self._takes_positions:
                return arguments
        numbers = variable_length.chunk_numbers(cu_seq_lens, *input_ids.shape)
        if self.style.place != "lengths":
            arguments |= self._masks(numbers, input_ids, dtype or self._model.dtype, is_causal)
        if self._takes_positions:
            of_chunks = variable_length.chunk_positions(cu_seq_lens, numbers)
            arguments["position_ids"] = of_chunks + self._first_position
        return arguments

    def _masks(
        self, numbers: torch.Tensor, input_ids: torch.Tensor, dtype: torch.dtype, is_causal: bool
    ) -> dict[str, Any]:
        """The arguments that hold the mask of chunks with these numbers, or lead to it."""
        if input_ids.device.type != "cpu":
            dtype = precisions.working_dtype(input_ids.device.type, dtype)
        mask = self._formed(variable_length.chunk_mask(numbers, Window.of(None, is_causal=is_causal)), dtype)
        if self.style.place == "kernel":
            return {"chunk_mask": mask}
        if self.style.place != "model":
            self._mask, self._all_ones = mask, torch.ones_like(input_ids)
            return {"attention_mask": self._all_ones}
        if tokens := reach(self._model.config):
            if len(_windows(self._model.config)) > 1:
                raise NotImplementedError("its layers have windows of several sizes")
            # Layers with sliding attention use a given mask as it is, so it must hold their limit as well.
            near = self._formed(variable_length.chunk_mask(numbers, Window.of(tokens, is_causal=is_causal)), dtype)
            return {"attention_mask": {"full_attention": mask, "sliding_attention": near}}
        return {"attention_mask": mask}

    def _formed(self, mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if self.style.form == "additive":
            return attention.additive(mask, dtype)
        return mask if self.style.form == "boolean" else mask[:, 0].long()

    def _forget_stale(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Drop the mask of earlier rows when the model is called without `arguments`.

        Not at the end of the forward pass, as layers that are recomputed in the backward pass need it again.
        """
        if kwargs.get("attention_mask") is not self._all_ones:
            self._mask = self._all_ones = None


@dataclass(frozen=True)
class _SetArgument:
    """A hook that replaces an argument of a module, if there is a value for it."""

    name: str
    index: int
    value: Callable[[], torch.Tensor | None]

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = self.value()
        if value is None:
            return None
        if self.name in kwargs or len(args) <= self.index:
            return args, kwargs | {self.name: value}
        return (*args[: self.index], value, *args[self.index + 1 :]), kwargs


def fault(model: Any, packed: PackedAttention, least_length: int = 0) -> str | None:
    """Why the chunks of packed rows do not have the logits that each has alone; None if they do.

    Two rows hold chunks of several lengths, longer than sliding attention reaches, and padding. Each chunk must have
    the logits that it has alone, and must not change when the others in its row do, in evaluation and in training.

    Args:
        model: A transformers masked-language model.
        packed: A way to give it packed rows.
        least_length: Tokens of a row, at least.
    """
    with undone(model):
        try:
            return _fault(model, packed, least_length)
        except Exception as error:  # the model does not accept such a mask
            return trial.first_line(error)


def _fault(model: Any, packed: PackedAttention, least_length: int) -> str | None:
    config, device = model.config, next(model.parameters()).device
    length = trial.row_length(config, max(least_length, (reach(config) or 0) + 24))
    lengths = [length - 7, 4, 3, 5, length - 5]  # two chunks and padding in a row, two chunks in the other
    if min(lengths) < 1:
        return f"its rows have {length} positions only"
    ends = torch.tensor([0, *lengths], device=device).cumsum(0)
    cu_seq_lens = ends.to(torch.int32)
    spans = [slice(begin, end) for begin, end in itertools.pairwise(ends.tolist())]
    chunks = [spans[i] for i in (0, 1, 3, 4)]
    first = trial.tokens(config, 2, length).to(device)
    other = first.flip(1)  # other tokens, and its masks are elsewhere

    def of_rows(input_ids: torch.Tensor, precision: Precision | None) -> torch.Tensor:
        dtype = precision.dtype if precision is not None and precision.rounds_weights else None
        return trial.logits(model, precision, **packed.arguments(input_ids, cu_seq_lens, dtype)).flatten(0, 1)

    exact: dict[int, torch.Tensor] = {}
    for precision in (None, precision_of_run()):
        if precision is not None and precision.name == "fp32":
            continue
        found = of_rows(first, precision)
        for i, chunk in enumerate(chunks):
            alone = trial.logits(model, precision, input_ids=first.flatten()[None, chunk])[0]
            if not trial.close(found[chunk], alone, exact.get(i)):
                return "a chunk does not have the logits that it has alone"
            exact.setdefault(i, alone)
        for training in (False, True):
            model.train(training)
            for kept in ((0, 4), (1, 3)):
                mixed = other.flatten().clone()
                for i in kept:
                    mixed[spans[i]] = first.flatten()[spans[i]]
                torch.manual_seed(0)
                before = of_rows(first, precision)
                torch.manual_seed(0)
                after = of_rows(mixed.view_as(first), precision)
                for i in kept:
                    change = (before[spans[i]] - after[spans[i]]).abs().max()
                    if not change <= UNCHANGED * before[spans[i]].abs().max():
                        return "a chunk changes with the others in its row"
        model.eval()
    return None


def reach(config: Any) -> int | None:
    """Tokens to either side that sliding attention reaches, at most; None if no layer has sliding attention."""
    if "sliding_attention" not in (getattr(config, "layer_types", None) or ()):
        return None
    return max(_windows(config))


def _windows(config: Any) -> set[int]:
    """The windows of all layers with sliding attention."""
    try:
        return {int(config.sliding_window)}
    except Exception:  # NeoMME has several, and refuses to give one of them
        return {int(one.sliding_window) for one in config.per_layer_config if one.sliding_window is not None}
