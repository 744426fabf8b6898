"""Which documents stay, and on which side of the split; decided by their text alone."""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass

import numpy as np

DROPPED, TRAIN, VALIDATION = 0, 1, 2


def text_key(text: str) -> bytes:
    """16 bytes that are equal for texts that differ in white space or Unicode composition only."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normal.encode("utf-8"), digest_size=16).digest()


@dataclass(frozen=True)
class Selection:
    """For each document of the corpus, in order, whether it is DROPPED (a duplicate), TRAIN or VALIDATION."""

    side: np.ndarray

    def count(self, side: int) -> int:
        """Number of documents on a side."""
        return int((self.side == side).sum())


def select(keys: list[bytes], *, deduplicate: bool, validation_fraction: float) -> Selection:
    """Drop all but the first document of each key, then hold out those whose key falls under the fraction.

    The same document stays on its side while the corpus grows. Only where the draw would leave a side without any
    document, the nearest one moves over.
    """
    side = np.full(len(keys), TRAIN, np.int8)
    draw = np.array([int.from_bytes(key[:8], "big") / 2**64 for key in keys])
    side[draw < validation_fraction] = VALIDATION
    if deduplicate:
        seen: set[bytes] = set()
        for i, key in enumerate(keys):
            if key in seen:
                side[i] = DROPPED
            seen.add(key)
    kept = np.flatnonzero(side != DROPPED)
    if validation_fraction > 0 and len(set(draw[kept].tolist())) > 1:
        if not (side[kept] == VALIDATION).any():
            side[kept[draw[kept] == draw[kept].min()]] = VALIDATION
        elif not (side[kept] == TRAIN).any():
            side[kept[draw[kept] == draw[kept].max()]] = TRAIN
    return Selection(side)
