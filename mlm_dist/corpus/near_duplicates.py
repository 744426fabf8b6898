"""Near-copies: MinHash signatures of documents, and the groups of those that are almost the same.

Documents are compared as sets of five-word phrases (shingles) by Jaccard similarity, estimated from MinHash signatures
(Broder, 1997) and searched by locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, chapter 3). Both
are datasketch's; what is ours is hashing the phrases and joining candidates without a table of Python objects.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence

import numpy as np

SHINGLE_WORDS = 5
NUM_PERM = 128  # the standard error of an estimated similarity is sqrt(s (1 - s) / 128): 0.035 at 0.8
SIGNATURE_TYPE = np.dtype("<u4")
BLOCK = 1 << 16  # shingles permuted at a time
# Words are hashed as polynomials in this number, phrases in the next; odd, so that powers have inverses modulo 2^64.
_IN_WORD, _IN_PHRASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)
# Scripts that are written without spaces: Thai to Burmese, Khmer, kana to Han, and Han beyond the first plane.
_WITHOUT_SPACES = ((0x0E00, 0x1100), (0x1780, 0x1800), (0x2E80, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000))


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, [len(texts), NUM_PERM]; equal for texts that differ in case, space and punctuation only."""
    minhash = _minhash()
    found = np.empty((len(texts), NUM_PERM), SIGNATURE_TYPE)
    for i, text in enumerate(texts):
        minhash.clear()  # making another costs more than a short text
        hashes = shingles(text)
        for start in range(0, len(hashes), BLOCK):
            minhash.update_batch(hashes[start : start + BLOCK].tolist())
        found[i] = minhash.hashvalues
    return found


def shingles(text: str) -> np.ndarray:
    """32-bit hashes of all phrases of a text, in order, uint32; of all its words together where they are fewer.

    A word is a run of letters and digits; in scripts without spaces every character is one. A text without any is a
    phrase of its own.
    """
    letters = np.frombuffer(text.casefold().encode("utf-32-le", "replace"), np.uint32)
    kinds = _kinds()[letters]
    inside = kinds > 0
    single = kinds == 2
    before = np.concatenate([[False], inside[:-1]])
    starts_alone = np.concatenate([[False], single[:-1]])
    starts = np.flatnonzero(inside & (~before | single | starts_alone))
    if not len(starts):
        digest = hashlib.blake2b("".join(text.split()).encode("utf-8", "replace"), digest_size=4).digest()
        return np.frombuffer(digest, SIGNATURE_TYPE)
    # Each word is a sum over its letters, taken out of running sums and moved to power 0.
    powers, inverses = _powers(_IN_WORD, len(letters))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(np.where(inside, letters, 0).astype(np.uint64) * powers)])
    ends = np.append(starts[1:], len(letters))
    words = _mix((sums[ends] - sums[starts]) * inverses[starts])
    length = min(SHINGLE_WORDS, len(words))
    phrases = np.zeros(len(words) - length + 1, np.uint64)
    for k in range(length):
        phrases = phrases * _IN_PHRASE + words[k : len(words) - length + 1 + k]
    return (_mix(phrases) >> np.uint64(32)).astype(SIGNATURE_TYPE)


def groups(signatures: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """For each document the number of the first of its group, int64.

    Two documents are joined where some band of their signatures is equal and the estimated similarity is at least the
    threshold; a group is whatever hangs together that way. In a band, each document is compared with the first of those
    that look alike and with its neighbour, so that 100,000 copies are 200,000 comparisons.

    Args:
        signatures: Blocks of [n, NUM_PERM], which together are all documents in order; they may be memory-mapped.
        threshold: Jaccard similarity from which on two documents are near-copies.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = sum(map(len, signatures))
    if not count:
        return np.empty(0, np.int64)
    starts = np.cumsum([0, *map(len, signatures)])
    num_bands, width = _bands(threshold)
    labels = np.arange(count)  # equal for those that are known to belong together
    for band in range(num_bands):
        columns = slice(band * width, (band + 1) * width)
        keys = np.concatenate([_band_keys(np.asarray(block[:, columns])) for block in signatures if len(block)])
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        new_run = np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]])
        first = order[np.flatnonzero(new_run)[np.cumsum(new_run) - 1]]
        left, right = np.concatenate([order[same], first[same + 1]]), np.tile(order[same + 1], 2)
        new = labels[left] != labels[right]  # what is joined already need not be compared again in every band
        left, right = left[new], right[new]
        alike = _similarity(signatures, starts, left, right) >= threshold
        left, right = labels[left[alike]], labels[right[alike]]
        graph = coo_matrix((np.ones(len(left), bool), (left, right)), shape=(count, count))
        labels = connected_components(graph, directed=False)[1][labels]
    _, firsts = np.unique(labels, return_index=True)
    found: np.ndarray = firsts[labels].astype(np.int64)
    return found


def _similarity(
    signatures: Sequence[np.ndarray], starts: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Estimated Jaccard similarity of pairs of documents: the share of equal values."""
    found = np.empty(len(left))
    for begin in range(0, len(left), BLOCK):
        here = slice(begin, begin + BLOCK)
        found[here] = (_take(signatures, starts, left[here]) == _take(signatures, starts, right[here])).mean(1)
    return found


def _take(signatures: Sequence[np.ndarray], starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    found = np.empty((len(indices), NUM_PERM), SIGNATURE_TYPE)
    blocks = np.searchsorted(starts, indices, side="right") - 1
    for block in np.unique(blocks):
        here = blocks == block
        found[here] = signatures[block][indices[here] - starts[block]]
    return found


def _band_keys(values: np.ndarray) -> np.ndarray:
    """[n, width] -> [n] one 64-bit hash for each row."""
    keys = np.zeros(len(values), np.uint64)
    for column in values.T:
        keys = _mix(keys * _IN_PHRASE + column)
    return keys


def _mix(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finalizer of splitmix64; Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = values ^ (values >> np.uint64(31))
    return mixed


@functools.lru_cache(maxsize=8)
def _bands(threshold: float) -> tuple[int, int]:
    """How many bands of how many values find pairs from the threshold on best; missing one is the worse mistake."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=NUM_PERM, weights=(0.02, 0.98))
    return index.b, index.r


@functools.lru_cache(maxsize=1)
def _minhash():  # type: ignore[no-untyped-def]  # datasketch is imported late, it brings scipy
    from datasketch import MinHash

    return MinHash(NUM_PERM, seed=1, scheme="affine32", hashfunc=int)


@functools.lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """For each code point 1 where it belongs into a word, 2 where it is a word, else 0."""
    kinds = np.char.isalnum(np.arange(sys.maxunicode + 1, dtype=np.uint32).view("U1")).astype(np.uint8)
    for start, stop in _WITHOUT_SPACES:
        kinds[start:stop] *= 2
    return kinds


_tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def _powers(base: np.uint64, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of a number modulo 2^64, and their inverses."""
    known = _tables.get(int(base))
    if known is None or len(known[0]) < count:
        inverse = np.uint64(pow(int(base), -1, 2**64))
        size = max(count, 1 << 16)
        exponents = [np.full(size, number, np.uint64) for number in (base, inverse)]
        for table in exponents:
            table[0] = 1
        known = _tables[int(base)] = (np.cumprod(exponents[0]), np.cumprod(exponents[1]))
    return known[0][:count], known[1][:count]
