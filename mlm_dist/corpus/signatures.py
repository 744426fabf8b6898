"""MinHash signatures of documents, and the documents that may be similar because a part of them is equal.

The fraction of equal values in two signatures estimates the Jaccard similarity of the documents' shingles (Broder,
1997). Signatures are searched by locality-sensitive hashing (Leskovec et al., Mining of Massive Datasets, chapter 3):
two documents may be similar if some band of their signatures is equal. datasketch computes the signatures. Bands are
joined here, in arrays, which needs far less memory than a table of Python objects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mlm_dist.corpus.packing import ranges
from mlm_dist.corpus.partitions import partitions, starts_of
from mlm_dist.corpus.shingles import IN_PHRASE, shingles
from mlm_dist.corpus.temporary_arrays import blocks, index_type, temporary_array
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
    """The signatures of the documents to compare, in temporary files: a hash of each band, and a byte of each value.

    Args:
        signatures: Arrays of [m, NUM_PERM], together all documents in order.
        is_compared: [n] which documents are compared.
        threshold: Jaccard similarity of near-duplicates.
        folder: Where temporary files are made; by default the system's folder for them.
    """

    def __init__(
        self, signatures: Iterable[np.ndarray], is_compared: np.ndarray, threshold: float, folder: Path | None = None
    ) -> None:
        self.threshold, self.folder = threshold, folder
        self.documents = temporary_array(int(is_compared.sum()), index_type(len(is_compared)), folder)
        """[compared] their indices, ascending."""
        self._number, self._width = bands(threshold)
        self._band_keys = temporary_array((self._number, len(self.documents)), np.uint64, folder)
        self._bytes = temporary_array((len(self.documents), NUM_PERM), np.uint8, folder)
        start = done = 0
        for block in _small(signatures):
            here = np.flatnonzero(is_compared[start : start + len(block)])
            some = slice(done, done + len(here))
            self.documents[some] = here + start
            columns = block[here].T
            self._bytes[some] = columns.astype(np.uint8).T
            for band, keys in enumerate(self._band_keys):
                keys[some] = _band_key(columns[band * self._width : (band + 1) * self._width])
            start, done = start + len(block), done + len(here)

    def band_keys(self) -> Iterator[np.ndarray]:
        """[compared] one 64-bit hash for a band of each signature, band after band."""
        yield from self._band_keys

    def take(self, positions: np.ndarray) -> np.ndarray:
        """[len(positions), NUM_PERM] the last byte of each value, by positions in `documents`.

        Two bytes are equal by chance in 1 of 256 cases.
        """
        taken: np.ndarray = self._bytes[positions]
        return taken


def _small(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The blocks, divided into ones that the processor's cache holds."""
    for block in blocks:
        for start in range(0, len(block), BLOCK >> 4):
            yield block[start : start + (BLOCK >> 4)]


def _band_key(columns: np.ndarray) -> np.ndarray:
    """[n] one 64-bit hash for each signature from the values of a band, [width, n]."""
    key = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        key = mix(key * IN_PHRASE + column, increment=0)
    return key


def estimates(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """[n] estimated similarities of [n, NUM_PERM] bytes and as many others, or a single one."""
    # Eight bytes are added at a time; no sum is over 128, so that none overflows into the next.
    equal = (left == right).view(np.uint64).sum(1)
    similarity: np.ndarray = ((equal * np.uint64(0x0101010101010101)) >> np.uint64(56)) / NUM_PERM
    return similarity


def candidates(table: SignatureTable) -> np.ndarray:
    """Documents that may have a near-duplicate: ascending positions in `table.documents`.

    They are those with an equal band and an estimate near the threshold or above. In large buckets, which hold the
    documents with an equal band, all are taken, because there are too many pairs to compare.
    """
    count = len(table.documents)
    is_candidate = np.zeros(count, bool)
    kind = np.dtype([("key", np.uint64), ("position", index_type(count))])
    for keys in table.band_keys():
        for part in partitions((_records(keys, some, kind) for some in blocks(count)), count, table.folder):
            order, starts = _by_key(part["key"])
            _mark_candidates(table, part["position"][order], starts, is_candidate)
    return np.flatnonzero(is_candidate)


def _records(keys: np.ndarray, some: slice, kind: np.dtype[np.void]) -> np.ndarray:
    records = np.empty(some.stop - some.start, kind)
    records["key"], records["position"] = keys[some], np.arange(some.start, some.stop)
    return records


def _mark_candidates(table: SignatureTable, members: np.ndarray, starts: np.ndarray, is_candidate: np.ndarray) -> None:
    """Mark the candidates of some buckets.

    Args:
        table: The signatures.
        members: The positions of their documents, bucket after bucket.
        starts: Where each bucket starts.
        is_candidate: [compared] booleans, changed in place.
    """
    sizes = np.diff(starts, append=len(members))
    is_candidate[members[np.repeat(sizes > SMALL_BUCKET, sizes)]] = True
    for distance in range(1, SMALL_BUCKET):
        has_pairs = (sizes > distance) & (sizes <= SMALL_BUCKET)
        counts = sizes[has_pairs] - distance
        at = np.repeat(starts[has_pairs], counts) + ranges(counts)
        left, right = members[at], members[at + distance]
        new = ~(is_candidate[left] & is_candidate[right])
        left, right = left[new], right[new]
        for begin in range(0, len(left), BLOCK):
            one, other = left[begin : begin + BLOCK], right[begin : begin + BLOCK]
            near = estimates(table.take(one), table.take(other)) >= least_estimate(table.threshold)
            is_candidate[one[near]] = is_candidate[other[near]] = True


class Buckets:
    """The buckets of all bands: the documents whose signatures are equal in a band, in the order of their indices.

    Args:
        table: The signatures of all documents.
        order: [n] positions of documents in the table; here they are numbered by their positions in `order`.
    """

    def __init__(self, table: SignatureTable, order: np.ndarray) -> None:
        number, count = bands(table.threshold)[0], len(order)
        kind = index_type(number * count)
        self.documents = temporary_array(number * count, kind, table.folder)
        """[bands * n] the documents, bucket after bucket."""
        self.position = temporary_array((count, number), kind, table.folder)
        """[n, bands] where each document is in `documents`."""
        self.bucket = temporary_array((count, number), kind, table.folder)
        """[n, bands] the buckets of each document."""
        starts = temporary_array(number * count + 1, kind, table.folder)
        found = 0
        for band, keys in enumerate(table.band_keys()):
            documents, first = _by_key(keys[order])
            self.documents[band * count : (band + 1) * count] = documents
            self.position[documents, band] = np.arange(band * count, (band + 1) * count, dtype=kind)
            self.bucket[documents, band] = np.repeat(
                np.arange(found, found + len(first), dtype=kind), np.diff(first, append=count)
            )
            starts[found : found + len(first)] = first + band * count
            found += len(first)
        starts[found] = number * count
        self.starts = starts[: found + 1]
        """[buckets + 1] where each bucket starts in `documents`."""


def _by_key(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order that sorts documents by their keys, and where each key starts in it."""
    order = np.argsort(keys, kind="stable")
    return order, starts_of(keys[order])


@functools.lru_cache(maxsize=1)
def _minhash():  # type: ignore[no-untyped-def]  # datasketch is imported late because it imports scipy
    from datasketch import MinHash

    return MinHash(NUM_PERM, seed=1, scheme="affine32", hashfunc=int)
