"""Counter-based randomness: the same key gives the same number, on any machine, in any order."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea & Flood, 2014), a bijection on 64-bit words; element by element."""
    with np.errstate(over="ignore"):
        mixed = values + _GOLDEN
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def key(*parts: int | np.ndarray) -> np.ndarray:
    """Fold integers, or arrays of them that broadcast, into one 64-bit key; the order of the parts matters."""
    folded = np.zeros((), np.uint64)
    for part in parts:
        folded = mix(folded ^ np.asarray(part).astype(np.uint64))
    return folded
