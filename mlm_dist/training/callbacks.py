"""Callbacks: code of a user that is called while a run trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Callback:
    """Called on every rank, in this order at a step; the methods do nothing, override those you need.

    An exception ends the run. A callback must not change the model: the run would no longer be a function of its seed.
    """

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """A step is done.

        Args:
            step: Steps done, from 1.
            metrics: The `train` line of metrics.jsonl if one was written for this step, else None.
        """

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """A validation is done.

        Args:
            step: Steps done; 0 for the validation before the first step.
            metrics: The `validation` line of metrics.jsonl.
        """

    def on_checkpoint(self, step: int, path: Path) -> None:
        """A checkpoint is written; it appears at `path` when the disk has all of it.

        Args:
            step: Steps done.
            path: The folder of the checkpoint.
        """

    def on_end(self, step: int, *, is_finished: bool) -> None:
        """Training ends.

        Args:
            step: Steps done.
            is_finished: Whether the run is complete; False if a signal stopped it.
        """


class Callbacks(Callback):
    """Several callbacks as one.

    Args:
        callbacks: Called in this order.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def on_step(self, step: int, metrics: Mapping[str, Any] | None) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_step(step, metrics)

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_validation(step, metrics)

    def on_checkpoint(self, step: int, path: Path) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_checkpoint(step, path)

    def on_end(self, step: int, *, is_finished: bool) -> None:
        """See `Callback`."""
        for callback in self._callbacks:
            callback.on_end(step, is_finished=is_finished)
