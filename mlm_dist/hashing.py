"""Counter-based randomness: the same key gives the same number, on any machine, in any order."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

DROPOUT = 0xD20  # a part of dropout's keys that keeps them apart from the keys of order and masks
# The constants of SplitMix64 (Steele, Lea & Flood, 2014).
INCREMENT, _FIRST, _SECOND, _WORD = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 2**64 - 1


def mix(values: np.ndarray, increment: int = INCREMENT) -> np.ndarray:
    """Apply one step of SplitMix64, a bijection on 64-bit words, to each element.

    Args:
        values: uint64, of any shape.
        increment: Added before the finalizer; 0 applies the finalizer alone, which maps 0 to 0.
    """
    if not np.ndim(values):
        return np.asarray(_finalize((int(values) + increment) & _WORD), np.uint64)
    mixed: np.ndarray = values + np.uint64(increment)
    shifted = mixed >> np.uint64(30)
    for shift, factor in ((27, _FIRST), (31, _SECOND)):
        # In place: at the size of a batch, allocating new arrays would take most of the time.
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
        leading = _finalize(((leading ^ (part & _WORD)) + INCREMENT) & _WORD)
    return np.asarray(leading, np.uint64)


@lru_cache(maxsize=1024)
def _finalize(word: int) -> int:
    """The finalizer of one word. Python is faster than numpy here, and cached, because seeds and rounds recur."""
    word = ((word ^ (word >> 30)) * _FIRST) & _WORD
    word = ((word ^ (word >> 27)) * _SECOND) & _WORD
    return word ^ (word >> 31)
