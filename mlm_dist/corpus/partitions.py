"""Records sorted on disk: those with equal keys come together, and memory holds a part of them at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

PART = 1 << 19  # records in memory at a time; more only where so many have one key


def partitions(blocks: Iterable[np.ndarray], count: int, folder: Path | None) -> Iterator[np.ndarray]:
    """Divide records by the first bits of their keys.

    Args:
        blocks: Arrays of records, whose field `key` is a uint64 hash: its values are evenly spread.
        count: How many records there are.
        folder: Where a temporary file is made; by default the system's folder for them.

    Yields:
        Arrays of about `PART` records in the order of `blocks`. All records with equal keys are in one of them.
    """
    bits = (max(count - 1, 0) // PART).bit_length()
    sizes = []
    kind = None
    with tempfile.TemporaryFile(dir=folder) as file:  # one run of records after the other, each in the order of parts
        for block in _runs(blocks):
            kind = block.dtype
            part = (block["key"] >> np.uint64(64 - bits)).astype(np.uint16) if bits else np.zeros(len(block), np.uint16)
            sizes.append(np.bincount(part, minlength=1 << bits))
            file.write((block[np.argsort(part, kind="stable")] if bits else block).data)
        file.flush()
        if kind is None:
            return
        records = np.asarray(np.memmap(file, kind, "r"))
    ends = np.cumsum(np.stack(sizes).reshape(-1)).reshape(-1, 1 << bits)
    starts = ends - np.stack(sizes)
    for first, last in zip(starts.T.tolist(), ends.T.tolist(), strict=True):
        yield np.concatenate([records[a:b] for a, b in zip(first, last, strict=True)])


def _runs(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks joined to at least `PART` records each, except for the last."""
    waiting: list[np.ndarray] = []
    for block in blocks:
        waiting.append(block)
        if sum(map(len, waiting)) >= PART:
            yield np.concatenate(waiting)
            waiting = []
    if sum(map(len, waiting)):
        yield np.concatenate(waiting)


def starts_of(*keys: np.ndarray) -> np.ndarray:
    """Where each key starts in sorted keys, which may have several columns."""
    count = len(keys[0])
    is_new = np.ones(count, bool)
    if count:
        is_new[1:] = False
    for column in keys:
        is_new[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(is_new)
