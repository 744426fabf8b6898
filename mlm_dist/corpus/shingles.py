"""Shingles: the hashes of all five-word phrases of a text, the set of which stands for it in comparisons."""

from __future__ import annotations

import functools
import hashlib
import sys
import unicodedata

import numpy as np

from mlm_dist.corpus.normal_text import normal_text
from mlm_dist.hashing import mix

SHINGLE_WORDS = 5
HASH_TYPE = np.dtype("<u4")
# Words are hashed as polynomials in this number, phrases in the next; odd, so that powers have inverses modulo 2^64.
_IN_WORD, IN_PHRASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)
# Scripts written without spaces: Thai to Burmese, Khmer, kana to Han, and Han outside the basic plane.
_WITHOUT_SPACES = ((0x0E00, 0x1100), (0x1780, 0x1800), (0x2E80, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000))
_WITH_MARKS = (range(0x20000), range(0xE0100, 0xE01F0))  # code points among which there are combining marks


def shingles(text: str) -> np.ndarray:
    """32-bit hashes of all five-word phrases of a text, in order, uint32; a text of fewer words is one phrase.

    They are those of its `normal_text`. A word is a run of letters, their marks and digits; in scripts without spaces
    every character is a word. A text without words is hashed as a whole.
    """
    normal = normal_text(text)
    letters = np.frombuffer(normal.encode("utf-32-le", "replace"), np.uint32)
    kinds = _kinds()[letters]
    inside = kinds > 0
    single = kinds == 2
    before = np.concatenate([[False], inside[:-1]])
    starts_alone = np.concatenate([[False], single[:-1]])
    starts = np.flatnonzero(inside & (~before | single | starts_alone))
    if not len(starts):
        digest = hashlib.blake2b("".join(normal.split()).encode("utf-8", "replace"), digest_size=4).digest()
        return np.frombuffer(digest, HASH_TYPE)
    # Each word is a difference of cumulative sums over letters, divided by the power of its first letter.
    powers, inverses = _powers(_IN_WORD, len(letters))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(np.where(inside, letters, 0).astype(np.uint64) * powers)])
    ends = np.append(starts[1:], len(letters))
    words = mix((sums[ends] - sums[starts]) * inverses[starts], increment=0)
    length = min(SHINGLE_WORDS, len(words))
    phrases = np.zeros(len(words) - length + 1, np.uint64)
    for k in range(length):
        phrases = phrases * IN_PHRASE + words[k : len(words) - length + 1 + k]
    return (mix(phrases, increment=0) >> np.uint64(32)).astype(HASH_TYPE)


@functools.lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """For each code point: 1 if it is a part of words, 2 if it is a word, else 0."""
    kinds = np.char.isalnum(np.arange(sys.maxunicode + 1, dtype=np.uint32).view("U1")).astype(np.uint8)
    for code_points in _WITH_MARKS:
        kinds[[code for code in code_points if unicodedata.category(chr(code)).startswith("M")]] = 1
    for start, stop in _WITHOUT_SPACES:
        kinds[start:stop] *= 2
    return kinds


_tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def _powers(base: np.uint64, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` powers of a number modulo 2^64, and their inverses."""
    known = _tables.get(int(base))
    if known is None or len(known[0]) < count:
        inverse = np.uint64(pow(int(base), -1, 2**64))
        size = max(count, 1 << 16)
        exponents = [np.full(size, number, np.uint64) for number in (base, inverse)]
        for table in exponents:
            table[0] = 1
        known = _tables[int(base)] = (np.cumprod(exponents[0]), np.cumprod(exponents[1]))
    return known[0][:count], known[1][:count]
