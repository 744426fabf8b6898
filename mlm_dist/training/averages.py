"""Averages of the weights at the end of a run: validated, and left in the engine's model for the export."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from mlm_dist.checkpoint import format
from mlm_dist.checkpoint.weights import SavedWeights
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import ConfigError
from mlm_dist.objectives.figures import Validation
from mlm_dist.optim.ema import EMA
from mlm_dist.spec import Spec


def check(average: int | Literal["ema"] | None, ema_decay: float | None, keep_last: int) -> None:
    """Refuse to export an average of which a run does not keep what it is computed from.

    Args:
        average: `export.average`.
        ema_decay: `optim.ema_decay`.
        keep_last: `checkpoint.keep_last`.

    Raises:
        ConfigError: Names the key to set.
    """
    if average == "ema" and ema_decay is None:
        raise ConfigError("export.average: ema needs optim.ema_decay; set it, for example to 0.999")
    if isinstance(average, int) and keep_last < average:
        raise ConfigError(
            f"checkpoint.keep_last: {keep_last} checkpoints are kept, but export.average needs {average}; set it to "
            f"{average} or more"
        )


def check_kept(average: int | Literal["ema"] | None, ema_decay: float | None, keep_last: int) -> None:
    """Refuse an average of a trained run that did not keep what it is computed from; see `check` for the arguments.

    Raises:
        ConfigError: Says with which key to train.
    """
    if average == "ema" and ema_decay is None:
        raise ConfigError(
            "export.average: the run kept no exponential moving average; it has one only if it is trained with "
            "optim.ema_decay"
        )
    if isinstance(average, int) and keep_last < average:
        raise ConfigError(
            f"export.average: the run kept {keep_last} checkpoints, fewer than {average}; it has an average of "
            f"{average} only if it is trained with checkpoint.keep_last {average} or more"
        )


def validate_averages(
    spec: Spec, engine: Engine, checkpoints: Path, evaluate: Callable[[], Validation | None]
) -> Iterator[tuple[dict[str, Any], Validation | None]]:
    """(facts, validation) of each average of a finished run; collective.

    Afterwards the engine's model has the weights to export. What is on the disk stays as it is.

    Args:
        spec: The run.
        engine: The engine, after the last step.
        checkpoints: `checkpoints/` of the run directory, where all are published.
        evaluate: Validates the engine's model; None without a validation set.
    """
    average, decay = spec.export.average, spec.optim.ema_decay
    trained = _on_main(engine) if decay is not None and average is None else []
    if decay is not None:
        engine.set_parameters((name.removeprefix(f"{EMA}/"), value) for name, value in engine.moments(EMA))
        yield {"average": EMA, "decay": decay}, evaluate()
    if isinstance(average, int):
        every = spec.checkpoint.every
        last = engine.on_main(
            lambda: [path.name for path in SavedWeights.average(checkpoints, average, every).checkpoints]
        )
        paths = tuple(checkpoints / name for name in last)
        engine.set_parameters(_read(engine, SavedWeights(paths)))
        first = format.step_of(paths[0])
        yield {"average": spec.export.average_name, "checkpoints": len(paths), "first_step": first}, evaluate()
    if trained:
        engine.set_parameters(trained)


def _on_main(engine: Engine) -> list[tuple[str, torch.Tensor | None]]:
    """The trained parameters of the engine's model: copies in host memory on rank 0; collective."""
    trained = engine.moment_names()
    return [
        (name, None if value is None else value.to("cpu", copy=True))
        for name, value in engine.parameters()
        if name in trained
    ]


def _read(engine: Engine, saved: SavedWeights) -> Iterator[tuple[str, torch.Tensor | None]]:
    """The trained parameters in checkpoints, read on rank 0 alone, whose disk the others may not share."""
    with saved.reading() if engine.is_main else contextlib.nullcontext() as read:
        for name in engine.moment_names():
            yield name, None if read is None else read(name)
