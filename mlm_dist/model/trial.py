"""The trial of a model: a few rows of arbitrary tokens, computed as in the run and without a trace in the model."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch

from mlm_dist.errors import ModelError, reason
from mlm_dist.model import positions, sparse_attention
from mlm_dist.model.inference import undone
from mlm_dist.model.precision import Precision, precision_of_run

LENGTH = 16  # tokens of a row, where the length does not change the computation
LONGEST = 4096  # tokens of a row, as the memory of attention may grow with their square
MASKS = (3, 4)  # positions that hold a mask token
# Of the largest logit: products of other shapes round differently.
TOLERANCE = 1e-4
# A lower precision may differ by so many times the rounding errors of the unpacked logits, with this floor.
ROUNDING_ERRORS, FLOOR = 4.0, 1e-2


def logits(model: Any, precision: Precision | None = None, **arguments: Any) -> torch.Tensor:
    """[rows, positions, vocabulary] logits in fp32; by default of a forward pass in fp32.

    Args:
        model: A transformers model in fp32.
        precision: Another precision.
        arguments: Of its forward pass; those that are None, or that it does not have, are ignored.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    if not takes(model, "attention_mask"):
        given.pop("attention_mask", None)
    sparse_attention.fit(model, given["input_ids"].shape[1])
    if precision is None or precision.name == "fp32":
        scores: torch.Tensor = model(**given).logits
    elif precision.rounds_weights:
        states = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        rounded = {name: state.to(precision.dtype) for name, state in states if state.is_floating_point()}
        scores = torch.func.functional_call(model, rounded, kwargs=given, tie_weights=False).logits
    else:
        with torch.autocast(next(model.parameters()).device.type, precision.dtype):
            scores = model(**given).logits
    return scores.float()


def takes(model: Any, name: str) -> bool:
    """Whether a model's forward pass has an argument of this name."""
    return name in inspect.signature(model.forward).parameters


def tokens(config: Any, rows: int, length: int) -> torch.Tensor:
    """[rows, length] arbitrary ordinary tokens with two mask tokens in each row.

    Some models scale embeddings by the number of masks in a row.
    """
    special = {value for name, value in vars(config).items() if name.endswith("token_id") and isinstance(value, int)}
    # The first ones are special in most vocabularies, whether or not the configuration says so.
    ordinary = [i for i in range(5, min(int(config.vocab_size), 64 + len(special))) if i not in special] or [0]
    found = (torch.arange(rows * length) * 7 + 5) % len(ordinary)
    input_ids = torch.tensor(ordinary)[found].view(rows, length)
    mask = getattr(config, "mask_token_id", None)
    if isinstance(mask, int) and 0 <= mask < int(config.vocab_size):
        input_ids[:, [i for i in MASKS if i < length]] = mask
    return input_ids


def row_length(config: Any, wanted: int) -> int:
    """`wanted`, or as many tokens as the model has positions for."""
    room = positions.max_positions(config)
    return wanted if room is None else max(1, min(wanted, room))


def require_forward(model: Any, lengths: Sequence[int] = (), *, backward: bool = False) -> int:
    """Compute a full row and one with padding, in evaluation and in training; returns their length.

    Args:
        model: A transformers masked-language model.
        lengths: Of rows to try, until one succeeds. By default a few tokens, then all positions that the model has:
            Reformer and Perceiver compute rows of one length only.
        backward: Whether to compute gradients as well, which are dropped.

    Raises:
        ModelError: The forward pass fails, its logits do not belong to the tokens of the rows, or are not finite. The
            message has the library's reason.
    """
    wanted = lengths or (LENGTH, positions.max_positions(model.config) or LENGTH)
    tried = sorted({row_length(model.config, length) for length in wanted if length <= LONGEST})
    for length in tried:
        try:
            _require_rows(model, length, backward)
        except _NotThisLength:
            if length == tried[-1]:
                raise
        else:
            return length
    raise AssertionError("there is a length")


def masked_head_fault(wrapped: Any, length: int) -> str | None:
    """Why the masked head of a `MaskedLanguageModel` does not give the logits of the dense one; None if it does.

    Args:
        wrapped: The model.
        length: Tokens of a row.
    """
    model = wrapped.model
    device = next(model.parameters()).device
    input_ids = tokens(model.config, 2, length).to(device)
    where = torch.tensor([1 % length, length - 1, length + length // 2], device=device)

    def both(precision: Precision | None) -> tuple[torch.Tensor, torch.Tensor]:
        dense = logits(model, precision, input_ids=input_ids).flatten(0, 1)[where]
        with wrapped.kept_positions(where):
            return logits(model, precision, input_ids=input_ids).flatten(0, 1), dense

    with undone(model):
        try:
            masked, dense = both(None)
            if not close(masked, dense):
                return "the head mixes positions"
            if precision_of_run().name != "fp32":
                rounded, dense_rounded = both(precision_of_run())
                if not close(rounded, dense_rounded, exact=dense):
                    return f"the head mixes positions in {precision_of_run().name}"
        except Exception as error:  # a head that needs all positions
            return first_line(error)
    return None


def close(found: torch.Tensor, expected: torch.Tensor, exact: torch.Tensor | None = None) -> bool:
    """Whether logits are the same but for rounding.

    Args:
        found: Logits.
        expected: What they should be, in the same precision.
        exact: What they should be in fp32, if that precision is a lower one.
    """
    if found.shape != expected.shape:
        return False
    allowed = TOLERANCE * expected.abs().max().clamp(min=0.1)
    if exact is not None:
        allowed = ROUNDING_ERRORS * (expected - exact).abs().max() + FLOOR * exact.abs().max()
    return bool((found - expected).abs().max() <= allowed)  # False for NaN


class _NotThisLength(ModelError):
    """A row of this length cannot be computed; one of another length may."""


def _require_rows(model: Any, length: int, backward: bool) -> None:
    config, device = model.config, next(model.parameters()).device
    name = f"model.name_or_path: a {config.model_type} model"
    input_ids = tokens(config, 2, length).to(device)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, length // 2 + 1 :] = 0
    with undone(model):
        try:
            found = logits(model, input_ids=input_ids)
            torch.manual_seed(1)
            again = logits(model, input_ids=input_ids)
            states = []
            for mask in (None, attention_mask):
                model.train()
                torch.manual_seed(1)
                with torch.set_grad_enabled(backward):
                    scores = logits(model, input_ids=input_ids, attention_mask=mask)
                    if backward:
                        scores.mean().backward()  # type: ignore[no-untyped-call]
                states.append(torch.get_rng_state())
        except Exception as error:  # the library raises many kinds
            _reraise_out_of_memory(error)
            raise _NotThisLength(f"{name} fails on a row of {length} tokens ({first_line(error)})") from error
        finally:
            if backward:
                model.zero_grad(set_to_none=True)
        if found.shape[:-1] != input_ids.shape:
            raise _NotThisLength(
                f"{name} gives logits at {found.shape[-2]} positions for rows of {length} tokens; masked tokens are "
                "predicted at their own positions, so use rows of that length or an encoder with logits for each token"
            )
        if not found.isfinite().all():
            raise ModelError(f"{name} gives logits that are not finite: {_cause_of_nan(model)}")
        if not close(found, again):
            raise ModelError(
                f"{name} gives other logits each time, because it draws random numbers in evaluation, too; fix their "
                "seed with --model.overrides (Reformer's is hash_seed), or choose another architecture"
            )
        if not torch.equal(*states):
            raise ModelError(
                f"{name} seeds its random numbers itself in training, so a run could not be resumed with the same "
                "losses; choose another architecture"
            )
        precision = precision_of_run()
        if precision.name != "fp32":
            model.eval()
            _require_precision(model, input_ids, precision)


def _require_precision(model: Any, input_ids: torch.Tensor, precision: Precision) -> None:
    """Raise a ModelError if the model cannot compute in a precision."""
    remedy = 'set mixed_precision: "no" in the accelerate file, or use --mixed_precision no'
    name = f"mixed_precision: a {model.config.model_type} model"
    try:
        found = logits(model, precision, input_ids=input_ids, attention_mask=torch.ones_like(input_ids))
    except Exception as error:
        _reraise_out_of_memory(error)
        raise ModelError(f"{name} cannot compute in {precision.name} ({first_line(error)}); {remedy}") from error
    if not found.isfinite().all():
        raise ModelError(f"{name} gives logits that are not finite in {precision.name}; {remedy}")


def _reraise_out_of_memory(error: Exception) -> None:
    """A lack of memory says nothing about the model."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        raise error


def _cause_of_nan(model: Any) -> str:
    broken = [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()]
    if broken:
        return f"{len(broken)} of its weights hold NaN or infinite values, the first is {broken[0]}"
    return "its weights are finite, but too large to compute with"


def first_line(error: Exception) -> str:
    """The reason that a library gives, with the kind of error where the message alone says little."""
    return f"{type(error).__name__}: {reason(error)}" if isinstance(error, LookupError) else reason(error)
