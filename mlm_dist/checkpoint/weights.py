"""Weights in checkpoints: those of one, their exponential moving average, or the mean of several."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mlm_dist.checkpoint import find, format
from mlm_dist.errors import CheckpointError
from mlm_dist.files import open_tensors
from mlm_dist.model import rotary
from mlm_dist.optim.ema import EMA

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedWeights:
    """Weights of verified checkpoints of one run, read parameter by parameter.

    Args:
        checkpoints: The checkpoints, by step; the weights are the mean of several.
        is_ema: Whether the weights are the exponential moving average that one checkpoint holds.
    """

    checkpoints: tuple[Path, ...]
    is_ema: bool = False

    @classmethod
    def average(
        cls, folder: Path, average: int | Literal["ema"], every: int | None, at: Path | None = None
    ) -> SavedWeights:
        """The average that `export.average` names, of the checkpoints below a folder; logs those that are not good.

        Args:
            folder: `checkpoints/` of a run directory.
            average: ema, or how many of the newest good checkpoints.
            every: Steps between checkpoints; others than these are averaged only if they are the newest.
            at: A verified checkpoint whose average is wanted, instead of that of the newest good one.

        Raises:
            CheckpointError: There is no good checkpoint, or it has no average.
        """
        if average != "ema":
            paths = find.require_last(folder, average, every)
            if len(paths) < average:
                logger.warning("export.average: %d checkpoints are wanted, but there are %d", average, len(paths))
            return cls(tuple(paths))
        saved = cls((at or find.require_newest(folder),), is_ema=True)
        with saved.reading():  # refuses a checkpoint without an average
            return saved

    @property
    def newest(self) -> Path:
        """The newest of the checkpoints."""
        return self.checkpoints[-1]

    @property
    def step(self) -> int:
        """The step of the newest checkpoint."""
        return int(format.read_state(self.newest)["step"])

    @property
    def average_of(self) -> int | Literal["ema"] | None:
        """What they are the average of: ema, a number of checkpoints, or None for the weights of one step."""
        return "ema" if self.is_ema else len(self.checkpoints) if len(self.checkpoints) > 1 else None

    @property
    def rope_theta(self) -> float | None:
        """The base of the rotary angles that the newest was trained with, see `rotary.theta_of_state`."""
        return rotary.theta_of_state(format.read_state(self.newest))

    @property
    def name(self) -> str:
        """What they are, for people and records."""
        if self.is_ema:
            return f"exponential moving average of {self.newest}"
        others = [path.name for path in self.checkpoints[:-1]]
        return f"mean of {', '.join([*others, str(self.newest)])}" if others else str(self.newest)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[str], torch.Tensor]]:
        """What reads the fp32 values of a parameter inside; nothing else is in memory.

        A mean is computed in float64 and rounded once. A parameter that is not trained has no average of its own.

        Raises:
            CheckpointError: A checkpoint has no average, no such parameter, or another shape than the others.
        """
        with contextlib.ExitStack() as opened:
            weights = [_Tensors(path / "model.safetensors", opened) for path in self.checkpoints]
            averages = _Tensors(self.newest / "optimizer.safetensors", opened) if self.is_ema else None
            if averages is not None and not any(name.startswith(f"{EMA}/") for name in averages.names):
                raise CheckpointError(f"{self.newest} has no average of the weights: optim.ema_decay was not set")

            def read(name: str) -> torch.Tensor:
                if averages is not None and f"{EMA}/{name}" in averages.names:
                    return averages.get(f"{EMA}/{name}")
                total = weights[-1].get(name)
                if len(weights) == 1:
                    return total
                total = total.double()
                for other in weights[:-1]:
                    value = other.get(name)
                    if value.shape != total.shape:
                        raise CheckpointError(f"{other.path}: {name} has another shape; it belongs to another model")
                    total += value
                return (total / len(weights)).float()

            yield read

    def load(self, module: nn.Module) -> None:
        """Load them into a module that is not set up yet.

        Raises:
            CheckpointError: A parameter is missing or has another shape.
        """
        with self.reading() as read, torch.no_grad():
            for name, parameter in module.named_parameters():
                value = read(name)
                if value.shape != parameter.shape:
                    path = self.newest / "model.safetensors"
                    raise CheckpointError(f"{path}: {name} has another shape; it belongs to another model")
                parameter.copy_(value)


class _Tensors:
    """An open safetensors file."""

    def __init__(self, path: Path, opened: contextlib.ExitStack) -> None:
        self.path = path
        self._file: Any = opened.enter_context(open_tensors(path))
        self.names = frozenset(self._file.keys())

    def get(self, name: str) -> torch.Tensor:
        """The values of a tensor, which may be a view of the file."""
        if name not in self.names:
            raise CheckpointError(f"{self.path} has no {name}; it belongs to another model")
        value: torch.Tensor = self._file.get_tensor(name)
        return value
