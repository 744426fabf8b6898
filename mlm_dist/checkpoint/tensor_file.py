"""Writing a safetensors file one tensor at a time."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mlm_dist.checkpoint.host_buffer import HostBuffer


class TensorFileWriter:
    """A context manager that writes fp32 tensors in the order their shapes are announced.

    The format is a 64-bit length, a JSON header with every tensor's type, shape and offset, and the bytes, as specified
    at https://huggingface.co/docs/safetensors.

    Args:
        path: The file; it must not exist.
        shapes: {name: shape} of everything that will be written.
        buffer: Where `write` puts the values until `finish` writes them; None writes them at once.
    """

    def __init__(self, path: Path, shapes: Mapping[str, Sequence[int]], buffer: HostBuffer | None = None) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for name, shape in shapes.items():
            size = 4 * math.prod(shape)
            header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the bytes of the tensors begin at a multiple of 8
        self._expected: Iterator[tuple[str, Sequence[int]]] = iter(shapes.items())
        self._buffer, self._staged = buffer, range(0)
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 - closed by __exit__
        try:
            self._write(struct.pack("<Q", len(text)) + text)
        except OSError:
            self.close()
            raise

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Append the next tensor."""
        expected, shape = next(self._expected)
        assert (name, tuple(tensor.shape)) == (expected, tuple(shape)), f"{name} is out of order"
        if self._buffer is not None:
            where = self._buffer.add(tensor)
            self._staged = range(self._staged.start if self._staged else where.start, where.stop)
            return
        self._write_values(tensor.detach().to("cpu", torch.float32).contiguous().view(-1))

    def _write_values(self, values: torch.Tensor) -> None:
        array: Any = values.numpy()
        self._write(memoryview(array).cast("B"))

    def _write(self, data: bytes | memoryview) -> None:
        while data:  # the system may take less than it is given
            data = data[self._file.write(data) :]

    def finish(self) -> None:
        """Write what is staged, and close the file, which must be complete."""
        assert next(self._expected, None) is None, "not every tensor was written"
        if self._buffer is not None:
            for part in self._buffer.read(self._staged):
                self._write_values(part)
        self.close()

    def close(self) -> None:
        """Close the file, complete or not; a second time does nothing."""
        self._file.close()

    def __enter__(self) -> TensorFileWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self.close()
