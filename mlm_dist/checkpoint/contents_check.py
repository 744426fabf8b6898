"""What a checkpoint may hold: a state of the right fields and values, and tensors that belong together."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlm_dist.errors import CheckpointError, reason
from mlm_dist.files import open_tensors

_END = 1 << 62  # of counts, which are int64 on the device


def is_count(value: Any) -> bool:
    """Whether a JSON value is a number of steps, rows or tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _END


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_number(value[0]) and is_count(value[1])


def _are_starts(value: Any) -> bool:
    """Whether a value says how many steps and samples were done when each phase began."""
    if not isinstance(value, list) or not value or value[0] != [0, 0]:
        return False
    if not all(isinstance(one, list) and len(one) == 2 and all(map(is_count, one)) for one in value):
        return False
    return all(one[0] < other[0] and one[1] < other[1] for one, other in itertools.pairwise(value))


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_FIELDS: dict[str, Any] = {
    "step": is_count,
    "samples": is_count,
    "tokens": is_count,
    "skipped_steps": is_count,
    "skipped_in_a_row": is_count,
    "phases": _are_starts,
    "loss_scale": _or_null(_is_pair),
    "seconds": lambda value: _is_number(value) and value >= 0,
    "estimate": _or_null(_is_pair),
    "best": {
        "loss": _or_null(_is_number),
        "step": _or_null(is_count),
        "since": is_count,
        "rows": _or_null(lambda value: isinstance(value, str)),
    },
    "loss_average": {
        "mean": _or_null(_is_number),
        "variance": lambda value: _is_number(value) and value >= 0,
    },
    "divergence": {
        "good_step": is_count,
        "has_begun": lambda value: isinstance(value, bool),
        "limit": _or_null(_is_number),
    },
    "micro_batch": lambda value: is_count(value) and value > 0,
    "identity": lambda value: isinstance(value, dict) and _are_objects(value.get("phases")),
}


def state(path: Path, step: int | None) -> dict[str, Any]:
    """The content of state.json, checked.

    Args:
        path: The file.
        step: The step in the name of its folder; None if the folder has another name.

    Raises:
        CheckpointError: It is no state; the message names the field.
    """
    try:
        found = json.loads(path.read_text("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a state ({reason(error)})") from None
    _check(found, _FIELDS, path, "")
    if step is not None and found["step"] != step:
        raise CheckpointError(f"{path}: step is {found['step']}, but its folder is named after step {step}")
    for smaller, larger in (("skipped_steps", "step"), ("skipped_in_a_row", "skipped_steps")):
        if found[smaller] > found[larger]:
            raise CheckpointError(f"{path}: {smaller} is over {larger}")
    if found["phases"][-1][0] > found["step"]:
        raise CheckpointError(f"{path}: phases has one that begins after the step")
    if len(found["phases"]) > len(found["identity"]["phases"]):
        raise CheckpointError(f"{path}: phases has more than identity.phases")
    checked: dict[str, Any] = found
    return checked


def _refuse(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _check(found: Any, fields: Mapping[str, Any], path: Path, prefix: str) -> None:
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {prefix.rstrip('.') or 'the state'} is not an object")
    for name in found:
        if name not in fields:
            raise CheckpointError(f"{path}: unknown field {prefix}{name}")
    for name, check in fields.items():
        if name not in found:
            raise CheckpointError(f"{path}: no field {prefix}{name}")
        if isinstance(check, Mapping):
            _check(found[name], check, path, f"{prefix}{name}.")
        elif not check(found[name]):
            raise CheckpointError(f"{path}: field {prefix}{name} has a value that no run has")


def tensors(weights: Path, moments: Path) -> None:
    """Check that two files hold fp32 weights, and moments of these weights; reads their headers only.

    Raises:
        CheckpointError: A file is no safetensors file, or a tensor has another type, name or shape.
    """
    shapes = _shapes(weights)
    for name, shape in _shapes(moments).items():
        _, _, of = name.partition("/")
        if of not in shapes:
            raise CheckpointError(f"{moments}: {name} is no moment of a weight in {weights.name}")
        if shapes[of] != shape:
            raise CheckpointError(f"{moments}: {name} has another shape than its weight")


def _shapes(path: Path) -> dict[str, list[int]]:
    from safetensors import SafetensorError

    try:
        with open_tensors(path) as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            for name, part in parts.items():
                if part.get_dtype() != "F32":
                    raise CheckpointError(f"{path}: {name} is {part.get_dtype()}, not F32")
            return {name: part.get_shape() for name, part in parts.items()}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file ({reason(error)})") from None
