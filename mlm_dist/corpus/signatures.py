"""MinHash signatures of documents, and the documents that may be similar because a part of them is equal.

The fraction of equal values in two signatures estimates the Jaccard similarity of the documents' shingles (Broder,
1997). Signatures are searched by locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, chapter 3):
two documents may be similar if some band of their signatures is equal. datasketch computes the signatures. Bands are
joined here, in arrays, which needs far less memory than a table of Python objects.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from mlm_dist.corpus.packing import ranges
from mlm_dist.corpus.shingles import IN_PHRASE, shingles
from mlm_dist.hashing import mix

NUM_PERM = 128  # the standard error of an estimated similarity is sqrt(s (1 - s) / 128): 0.035 at 0.8
SIGNATURE_TYPE = np.dtype("<u4")
BLOCK = 1 << 16  # shingles permuted at a time, pairs of signatures compared at a time
# Of the bands, for two documents whose similarity is the threshold. Many pairs that differ by the same phrases, such as
# a footer, are found or missed together, so it is more than what is promised (0.995).
RECALL = 0.9995
MARGIN = 4.0  # standard errors that an estimate may be under the threshold
SMALL_BUCKET = 8  # documents with an equal band that are all compared with each other


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


@functools.lru_cache(maxsize=8)
def bands(threshold: float) -> tuple[int, int]:
    """The number of bands and the values in each, the most that find `RECALL` of the pairs at a threshold.

    With r values, a band of two documents of similarity s is equal with probability s^r, so that one of b bands is
    with 1 - (1 - s^r)^b.
    """
    for width in range(NUM_PERM, 1, -1):
        number = NUM_PERM // width
        if 1 - (1 - threshold**width) ** number >= RECALL:
            return number, width
    return NUM_PERM, 1


def least_estimate(similarity: np.ndarray | float) -> np.ndarray:
    """The least estimate that two documents of at least this similarity have, except for one pair in 10,000."""
    bound = np.clip(similarity, 0.0, 1.0)
    least: np.ndarray = bound - MARGIN * np.sqrt(bound * (1 - bound) / NUM_PERM)
    return least


class SignatureTable:
    """The signatures of all documents, in blocks that may be memory-mapped.

    Args:
        blocks: Arrays of [n, NUM_PERM], together all documents in order.
    """

    def __init__(self, blocks: Sequence[np.ndarray]) -> None:
        self._blocks = [block for block in blocks if len(block)]
        self._starts = np.cumsum([0, *map(len, self._blocks)])

    def band_keys(self, band: int, width: int) -> np.ndarray:
        """[n] one 64-bit hash for a band of each signature."""
        columns = slice(band * width, (band + 1) * width)
        keys = [np.zeros(0, np.uint64)]
        for block in self._blocks:
            keys.append(np.zeros(len(block), np.uint64))
            for column in np.asarray(block[:, columns]).T:
                keys[-1] = mix(keys[-1] * IN_PHRASE + column, increment=0)
        return np.concatenate(keys)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """[len(indices), NUM_PERM] the last byte of each value; two bytes are equal by chance in 1 of 256 cases."""
        taken = np.empty((len(indices), NUM_PERM), np.uint8)
        blocks = np.searchsorted(self._starts, indices, side="right") - 1
        for block in np.unique(blocks):
            here = blocks == block
            taken[here] = self._blocks[block][indices[here] - self._starts[block]].astype(np.uint8)
        return taken


def estimates(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n] estimated similarities of [n, NUM_PERM] bytes and as many others, or a single one."""
    # Eight bytes are added at a time; no sum is over 128, so that none overflows into the next.
    equal = (left == right).view(np.uint64).sum(1)
    similarity: np.ndarray = ((equal * np.uint64(0x0101010101010101)) >> np.uint64(56)) / NUM_PERM
    return similarity


def candidates(table: SignatureTable, order: np.ndarray, threshold: float) -> np.ndarray:
    """Documents that may have a near-duplicate: [n] booleans, in the order of `order`.

    They are those with an equal band and an estimate near the threshold or above. In large buckets, which hold the
    documents with an equal band, all are taken, because there are too many pairs to compare.

    Args:
        table: The signatures.
        order: [n] indices of the documents to compare.
        threshold: Jaccard similarity of near-duplicates.
    """
    number, width = bands(threshold)
    is_candidate = np.zeros(len(order), bool)
    for band in range(number):
        documents, starts = _by_key(table.band_keys(band, width)[order])
        sizes = np.diff(starts, append=len(order))
        is_candidate[documents[np.repeat(sizes > SMALL_BUCKET, sizes)]] = True
        for distance in range(1, SMALL_BUCKET):
            has_pairs = (sizes > distance) & (sizes <= SMALL_BUCKET)
            counts = sizes[has_pairs] - distance
            at = np.repeat(starts[has_pairs], counts) + ranges(counts)
            left, right = documents[at], documents[at + distance]
            new = ~(is_candidate[left] & is_candidate[right])
            left, right = left[new], right[new]
            for begin in range(0, len(left), BLOCK):
                one, other = left[begin : begin + BLOCK], right[begin : begin + BLOCK]
                near = estimates(table.take(order[one]), table.take(order[other])) >= least_estimate(threshold)
                is_candidate[one[near]] = is_candidate[other[near]] = True
    return is_candidate


class Buckets:
    """The buckets of all bands: the documents whose signatures are equal in a band, in the order of their indices.

    Args:
        table: The signatures of all documents.
        order: [n] indices of the documents; here they are numbered by their positions in it.
        threshold: Jaccard similarity of near-duplicates.
    """

    def __init__(self, table: SignatureTable, order: np.ndarray, threshold: float) -> None:
        number, width = bands(threshold)
        count = len(order)
        kind = np.int32 if number * count < 1 << 31 else np.int64
        self.documents = np.empty(number * count, kind)
        """[bands * n] the documents, bucket after bucket."""
        self.position = np.empty((count, number), kind)
        """[n, bands] where each document is in `documents`."""
        self.bucket = np.empty((count, number), kind)
        """[n, bands] the buckets of each document."""
        starts, found = [], 0
        for band in range(number):
            documents, first = _by_key(table.band_keys(band, width)[order])
            self.documents[band * count : (band + 1) * count] = documents
            self.position[documents, band] = np.arange(band * count, (band + 1) * count)
            self.bucket[documents, band] = np.repeat(np.arange(len(first)), np.diff(first, append=count)) + found
            starts.append((first + band * count).astype(kind))
            found += len(first)
        self.starts = np.append(np.concatenate(starts), number * count).astype(kind)
        """[buckets + 1] where each bucket starts in `documents`."""


def _by_key(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts documents by their keys, and where each key starts in it."""
    order = np.argsort(keys, kind="stable")
    is_new = np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]])[: len(keys)]
    return order, np.flatnonzero(is_new)


@functools.lru_cache(maxsize=1)
def _minhash():  # type: ignore[no-untyped-def]  # datasketch is imported late because it imports scipy
    from datasketch import MinHash

    return MinHash(NUM_PERM, seed=1, scheme="affine32", hashfunc=int)
