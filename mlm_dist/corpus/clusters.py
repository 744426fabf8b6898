"""Clusters: the near-duplicates that have one original, and the groups that originals are joined to."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlm_dist.corpus.packing import ranges
from mlm_dist.corpus.partitions import starts_of
from mlm_dist.corpus.signatures import Buckets
from mlm_dist.corpus.temporary_arrays import temporary_array

FEW = 1 << 12  # documents from which sorting takes longer than marking


class Clusters:
    """Documents by their originals, and the groups that originals are joined to.

    Args:
        original: [n] the document that stays in the place of each.
        distance: [n] the Jaccard distance of each and its original.
        buckets: The buckets of all bands.
        folder: Where temporary files are made.
    """

    def __init__(self, original: np.ndarray, distance: np.ndarray, buckets: Buckets, folder: Path | None) -> None:
        count = len(original)
        self.group = original.copy()
        """[n] a document of the group of each, the smallest; up to date after `update`."""
        self._roots: dict[int, int] = {}  # of the groups that were joined since
        self._distance = distance
        self._by_original = np.lexsort((-distance, original)).astype(original.dtype)
        self._starts = np.zeros(count + 1, original.dtype)
        np.cumsum(np.bincount(original, minlength=count), out=self._starts[1:])
        self.reach = temporary_array(count, np.float64, folder)
        """[n] the largest distance of an original to a document in whose place it stays."""
        np.maximum.at(self.reach, original, distance)
        # The originals of the documents in each bucket, bucket after bucket, and where those of each bucket start.
        self._originals = temporary_array(len(buckets.documents), original.dtype, folder)
        self._entries = temporary_array(len(buckets.starts), buckets.starts.dtype, folder)
        self._bands = []  # the buckets of each band
        first = entry = 0
        for band in range(buckets.bucket.shape[1]):
            documents = buckets.documents[band * count : (band + 1) * count]
            bucket = buckets.bucket[documents, band].astype(np.int64)
            pairs = np.unique((bucket - first) * count + original[documents])
            starts = starts_of(pairs // count)
            self._originals[entry : entry + len(pairs)] = pairs % count
            self._entries[first : first + len(starts)] = starts + entry
            self._bands.append(slice(first, first + len(starts)))
            first, entry = first + len(starts), entry + len(pairs)
        self._entries[first] = entry

    def mixed(self) -> np.ndarray:
        """[buckets] whether a bucket holds documents of several groups."""
        mixed = np.empty(len(self._entries) - 1, bool)
        for band in self._bands:
            starts = self._entries[band]
            groups = self.group[self._originals[starts[0] : self._entries[band.stop]]]
            starts = starts - starts[0]
            mixed[band] = np.minimum.reduceat(groups, starts) != np.maximum.reduceat(groups, starts)
        return mixed

    def near(self, buckets: np.ndarray, is_mixed: np.ndarray) -> np.ndarray:
        """The originals of the documents in the mixed ones of some buckets."""
        buckets = buckets[is_mixed[buckets]]
        starts = self._entries[buckets]
        lengths = self._entries[buckets + 1] - starts
        return distinct(self._originals[np.repeat(starts, lengths) + ranges(lengths)], len(self.group))

    def members(self, original: int, at_least: float) -> np.ndarray:
        """The documents in whose place an original stays, and whose distance to it is at least this."""
        members = self._by_original[self._starts[original] : self._starts[original + 1]]
        return members[: np.searchsorted(-self._distance[members], -at_least + 1e-9, side="right")]

    def join(self, one: int, other: int) -> None:
        """Join the groups of two documents."""
        smaller, larger = sorted((self._root(one), self._root(other)))
        if smaller != larger:
            self._roots[larger] = smaller

    def update(self) -> None:
        """Bring `group` up to date."""
        roots = np.arange(len(self.group), dtype=self.group.dtype)
        for joined in self._roots:
            roots[joined] = self._root(joined)
        self.group, self._roots = roots[self.group], {}

    def _root(self, document: int) -> int:
        root = int(self.group[document])
        while root in self._roots:
            root = self._roots[root]
        return root


def distinct(values: np.ndarray, count: int) -> np.ndarray:
    """Distinct integers below `count`, sorted."""
    if len(values) < FEW:
        return np.unique(values)
    marked = np.zeros(count, bool)
    marked[values] = True
    return np.flatnonzero(marked)
