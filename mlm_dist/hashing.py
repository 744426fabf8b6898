"""Counter-based randomness: the same key gives the same number, on any machine, in any order."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

DROPOUT = 0xD20  # a part of the keys that dropout depends on, and apart from those of order and masks
# The constants of SplitMix64 (Steele, Lea & Flood, 2014).
_GOLDEN, _FIRST, _SECOND, _WORD = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a bijection on 64-bit words; element by element."""
    if not np.ndim(values):
        return np.asarray(_fold(int(values), 0), np.uint64)
    mixed: np.ndarray = values + np.uint64(_GOLDEN)
    shifted = mixed >> np.uint64(30)
    for shift, factor in ((27, _FIRST), (31, _SECOND)):
        # In place: at the size of a batch most of the time would go to fetching new memory.
        np.bitwise_xor(mixed, shifted, out=mixed)
        np.multiply(mixed, np.uint64(factor), out=mixed)
        np.right_shift(mixed, np.uint64(shift), out=shifted)
    np.bitwise_xor(mixed, shifted, out=mixed)
    return mixed


def key(*parts: int | np.ndarray) -> np.ndarray:
    """Fold integers, or arrays of them that broadcast, into one 64-bit key; the order of the parts matters."""
    leading = 0
    for i, part in enumerate(parts):
        if not isinstance(part, int):
            folded = np.asarray(leading, np.uint64)
            for later in parts[i:]:
                folded = mix(folded ^ np.asarray(later).astype(np.uint64))
            return folded
        leading = _fold(leading, part)
    return np.asarray(leading, np.uint64)


@lru_cache(maxsize=1024)
def _fold(folded: int, part: int) -> int:
    """What `mix` makes of one word: Python is faster at that than numpy, and seeds and rounds come again and again."""
    mixed = ((folded ^ (part & _WORD)) + _GOLDEN) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * _FIRST) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * _SECOND) & _WORD
    return mixed ^ (mixed >> 31)
