"""Near-duplicates: MinHash signatures of documents, and groups of documents with similar signatures.

Documents are compared as sets of five-word phrases (shingles) by Jaccard similarity, estimated from MinHash signatures
(Broder, 1997) and searched by locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, chapter 3).
datasketch computes the signatures and the number of bands. Phrases are hashed and candidates joined here, in arrays,
which needs far less memory than a table of Python objects.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence

import numpy as np

from mlm_dist.hashing import mix

SHINGLE_WORDS = 5
NUM_PERM = 128  # the standard error of an estimated similarity is sqrt(s (1 - s) / 128): 0.035 at 0.8
SIGNATURE_TYPE = np.dtype("<u4")
BLOCK = 1 << 16  # shingles permuted at a time
# Words are hashed as polynomials in this number, phrases in the next; odd, so that powers have inverses modulo 2^64.
_IN_WORD, _IN_PHRASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1342543DE82EF95)
# Scripts written without spaces: Thai to Burmese, Khmer, kana to Han, and Han outside the basic plane.
_WITHOUT_SPACES = ((0x0E00, 0x1100), (0x1780, 0x1800), (0x2E80, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000))


def signatures(texts: Sequence[str]) -> np.ndarray:
    """MinHash signatures, [len(texts), NUM_PERM]; equal for texts that differ only in case, space and punctuation."""
    minhash = _minhash()
    values = np.empty((len(texts), NUM_PERM), SIGNATURE_TYPE)
    for i, text in enumerate(texts):
        minhash.clear()  # creating another object would cost more than a short text
        hashes = shingles(text)
        for start in range(0, len(hashes), BLOCK):
            minhash.update_batch(hashes[start : start + BLOCK].tolist())
        values[i] = minhash.hashvalues
    return values


def shingles(text: str) -> np.ndarray:
    """32-bit hashes of all five-word phrases of a text, in order, uint32; a text of fewer words is one phrase.

    A word is a run of letters and digits; in scripts without spaces every character is a word. A text without words
    is hashed as a whole.
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
    # Each word is a difference of cumulative sums over letters, divided by the power of its first letter.
    powers, inverses = _powers(_IN_WORD, len(letters))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(np.where(inside, letters, 0).astype(np.uint64) * powers)])
    ends = np.append(starts[1:], len(letters))
    words = mix((sums[ends] - sums[starts]) * inverses[starts], increment=0)
    length = min(SHINGLE_WORDS, len(words))
    phrases = np.zeros(len(words) - length + 1, np.uint64)
    for k in range(length):
        phrases = phrases * _IN_PHRASE + words[k : len(words) - length + 1 + k]
    return (mix(phrases, increment=0) >> np.uint64(32)).astype(SIGNATURE_TYPE)


def groups(signatures: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """The index of the first document of each document's group, int64.

    Two documents are joined if some band of their signatures is equal and their estimated similarity is at least the
    threshold; groups are the connected components. In a band, each document is compared with the first document of the
    same key and with the one before it, so that 100,000 equal documents take 200,000 comparisons.

    Args:
        signatures: Blocks of [n, NUM_PERM], together all documents in order; they may be memory-mapped.
        threshold: Jaccard similarity at which two documents are near-duplicates.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = sum(map(len, signatures))
    if not count:
        return np.empty(0, np.int64)
    starts = np.cumsum([0, *map(len, signatures)])
    num_bands, width = _bands(threshold)
    labels = np.arange(count)  # equal for documents that are known to be in one group
    for band in range(num_bands):
        columns = slice(band * width, (band + 1) * width)
        keys = np.concatenate([_band_keys(np.asarray(block[:, columns])) for block in signatures if len(block)])
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        new_run = np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]])
        first = order[np.flatnonzero(new_run)[np.cumsum(new_run) - 1]]
        left, right = np.concatenate([order[same], first[same + 1]]), np.tile(order[same + 1], 2)
        new = labels[left] != labels[right]  # documents of one group need not be compared again in every band
        left, right = left[new], right[new]
        alike = _similarity(signatures, starts, left, right) >= threshold
        left, right = labels[left[alike]], labels[right[alike]]
        graph = coo_matrix((np.ones(len(left), bool), (left, right)), shape=(count, count))
        labels = connected_components(graph, directed=False)[1][labels]
    _, firsts = np.unique(labels, return_index=True)
    first_of_group: np.ndarray = firsts[labels].astype(np.int64)
    return first_of_group


def _similarity(
    signatures: Sequence[np.ndarray], starts: np.ndarray, left: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """Estimated Jaccard similarity of pairs of documents: the fraction of equal values."""
    similarity = np.empty(len(left))
    for begin in range(0, len(left), BLOCK):
        here = slice(begin, begin + BLOCK)
        similarity[here] = (_take(signatures, starts, left[here]) == _take(signatures, starts, right[here])).mean(1)
    return similarity


def _take(signatures: Sequence[np.ndarray], starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The signatures of the documents at `indices`."""
    taken = np.empty((len(indices), NUM_PERM), SIGNATURE_TYPE)
    blocks = np.searchsorted(starts, indices, side="right") - 1
    for block in np.unique(blocks):
        here = blocks == block
        taken[here] = signatures[block][indices[here] - starts[block]]
    return taken


def _band_keys(values: np.ndarray) -> np.ndarray:
    """[n, width] -> [n] one 64-bit hash for each row."""
    keys = np.zeros(len(values), np.uint64)
    for column in values.T:
        keys = mix(keys * _IN_PHRASE + column, increment=0)
    return keys


@functools.lru_cache(maxsize=8)
def _bands(threshold: float) -> tuple[int, int]:
    """The number of bands and values per band that find pairs over the threshold; a missed pair counts 49 times more
    than a pair compared in vain."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=min(threshold, 0.95), num_perm=NUM_PERM, weights=(0.02, 0.98))
    return index.b, index.r


@functools.lru_cache(maxsize=1)
def _minhash():  # type: ignore[no-untyped-def]  # datasketch is imported late because it imports scipy
    from datasketch import MinHash

    return MinHash(NUM_PERM, seed=1, scheme="affine32", hashfunc=int)


@functools.lru_cache(maxsize=1)
def _kinds() -> np.ndarray:
    """For each code point: 1 if it is a part of words, 2 if it is a word, else 0."""
    kinds = np.char.isalnum(np.arange(sys.maxunicode + 1, dtype=np.uint32).view("U1")).astype(np.uint8)
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
