"""Arrays in temporary files, which the system removes when the process ends in any way."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BLOCK = 1 << 18  # items of a long array that are in memory at a time


def temporary_array(shape: int | tuple[int, ...], kind: Any, folder: Path | None) -> np.ndarray:
    """An array of zeros in a file without a name; the system writes it to the disk when memory is short.

    Args:
        shape: Its shape.
        kind: Its type.
        folder: Where the file is made; by default the system's folder for temporary files.

    Raises:
        OSError: The disk is full.
    """
    shape = (shape,) if isinstance(shape, int) else shape
    size = math.prod(shape) * np.dtype(kind).itemsize
    if not size:
        return np.zeros(shape, kind)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process without a message
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
        return np.asarray(np.memmap(file, kind, "r+", shape=shape))  # indexing is quicker without the subclass


def index_type(count: int) -> type[np.signedinteger[Any]]:
    """The smallest type for indices of so many items."""
    return np.int32 if count < 1 << 31 else np.int64


def identity(count: int, folder: Path | None) -> np.ndarray:
    """[count] each index itself, in a temporary array."""
    values = temporary_array(count, index_type(count), folder)
    for some in blocks(count):
        values[some] = np.arange(some.start, some.stop)
    return values


def blocks(count: int) -> Iterator[slice]:
    """Slices that divide so many items, `BLOCK` of them at a time."""
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))
