"""The precision of a run's forward passes, in which a model is tried before it is trained."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Precision(NamedTuple):
    """The precision of a run's forward passes.

    Args:
        name: fp32, bf16 or fp16.
        rounds_weights: Whether the weights have it as well, as with DeepSpeed; else autocast applies it.
    """

    name: str = "fp32"
    rounds_weights: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Its torch type."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.name, torch.float32)


_PRECISION: contextvars.ContextVar[Precision | None] = contextvars.ContextVar("precision", default=None)


@contextlib.contextmanager
def in_precision(precision: Precision) -> Iterator[None]:
    """Models that are wrapped inside are tried in this precision, too."""
    token = _PRECISION.set(precision)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def precision_of_run() -> Precision:
    """The precision that `in_precision` has set; fp32 outside of it."""
    return _PRECISION.get() or Precision()


def working_dtype(kind: str, dtype: torch.dtype) -> torch.dtype:
    """The precision of products on a kind of device: that of autocast, or of the operands, `dtype`."""
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
