"""The two tensor files of a checkpoint: weights and moments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from mlm_dist.checkpoint.host_buffer import HostBuffer
from mlm_dist.checkpoint.tensor_file import TensorFileWriter
from mlm_dist.engine.protocol import Engine

Shapes = Mapping[str, tuple[int, ...]]
Values = Callable[[], Iterator[tuple[str, torch.Tensor | None]]]


def contents(engine: Engine) -> dict[str, tuple[Shapes, Values]]:
    """{file: shapes of its tensors, and what gathers their values on rank 0}, in the order of writing; collective."""
    shapes = engine.shapes()
    moments = {f"{key}/{name}": shapes[name] for name, keys in engine.moment_names().items() for key in keys}
    return {"model.safetensors": (shapes, engine.parameters), "optimizer.safetensors": (moments, engine.moments)}


class TensorFiles:
    """The tensor files of one checkpoint while they are written; on rank 0.

    Args:
        folder: The folder; it must exist.
        shapes: {file: shapes of its tensors}.
        buffer: See `TensorFileWriter`.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, Shapes], buffer: HostBuffer | None) -> None:
        self._files: dict[str, TensorFileWriter] = {}
        try:
            for file, expected in shapes.items():
                self._files[file] = TensorFileWriter(folder / file, expected, buffer)
        except OSError:
            self.close()
            raise

    def write(self, file: str, name: str, values: torch.Tensor) -> None:
        """Write the next tensor of a file, or stage it."""
        self._files[file].write(name, values)

    def finish(self) -> None:
        """Write what is staged, and close the files, also if this fails."""
        try:
            for file in self._files.values():
                file.finish()
        finally:
            self.close()

    def close(self) -> None:
        """Close the files, complete or not; a second time does nothing."""
        for file in self._files.values():
            file.close()
