"""Near-duplicates: which documents stay, what is dropped in favour of which, and which documents are connected.

Two documents are near-duplicates if the Jaccard similarity of their shingles is at least a threshold. Signatures find
the pairs that may be (see `signatures`), and the shingles themselves decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mlm_dist.corpus.clusters import FEW, Clusters, distinct
from mlm_dist.corpus.packing import ranges
from mlm_dist.corpus.shingle_sets import ShingleSets
from mlm_dist.corpus.signatures import NUM_PERM, Buckets, SignatureTable, candidates, estimates, least_estimate
from mlm_dist.corpus.temporary_arrays import blocks, index_type, temporary_array

PAIRS, PAIRS_PER_DOCUMENT = 3_000_000, 20  # of dropped documents that are compared to find groups, at most


@dataclass(frozen=True)
class NearDuplicates:
    """The documents that may have near-duplicates, in order of preference; all others have none.

    Args:
        documents: [c] their indices.
        original: [c] the index of the document that stays in the place of each; its own index if it stays itself.
        group: [c] an index that is equal for documents that are connected by pairs of near-duplicates.
    """

    documents: np.ndarray
    original: np.ndarray
    group: np.ndarray


def find(
    table: SignatureTable,
    by_preference: Callable[[np.ndarray], np.ndarray],
    read_sets: Callable[[np.ndarray], ShingleSets],
    *,
    needs_groups: bool = True,
) -> NearDuplicates:
    """Find the near-duplicates among documents.

    A document stays unless it is a near-duplicate of one that is preferred to it and stays. So no two documents that
    stay are near-duplicates, and every other document is a near-duplicate of the one that stays in its place.

    Args:
        table: The signatures of the documents to compare.
        by_preference: Sorts the indices of some documents, those to keep first.
        read_sets: Returns the shingles of the documents at some indices.
        needs_groups: Whether the groups are used. If not, each is a document that stays and those in its place.
    """
    documents = by_preference(table.documents[candidates(table)])
    if not len(documents):
        return NearDuplicates(documents, documents, documents)
    search = _Search(table, np.searchsorted(table.documents, documents), read_sets(documents))
    search.choose()
    groups = search.groups() if needs_groups else search.original
    return NearDuplicates(documents, documents[search.original], documents[groups])


class _Search:
    """The comparison of candidates.

    Args:
        table: The signatures.
        order: [n] positions of the candidates in the table, those to keep first.
        sets: [n] their shingles.
    """

    def __init__(self, table: SignatureTable, order: np.ndarray, sets: ShingleSets) -> None:
        self._threshold, self._sets, self._folder = table.threshold, sets, table.folder
        self._signatures = temporary_array((len(order), NUM_PERM), np.uint8, table.folder)
        for some in blocks(len(order)):
            self._signatures[some] = table.take(order[some])
        self._buckets = Buckets(table, order)
        self.original = np.arange(len(order), dtype=index_type(len(order)))
        """[n] the candidate that stays in the place of each."""
        self._budget = PAIRS + PAIRS_PER_DOCUMENT * len(order)
        # The Jaccard distance of each and its original.
        self._distance = temporary_array(len(order), np.float64, table.folder)

    def choose(self) -> None:
        """Decide which documents stay."""
        count, buckets = len(self.original), self._buckets
        has_later = np.zeros(count, bool)
        for position, bucket in zip(buckets.position.T, buckets.bucket.T, strict=True):
            has_later |= position + 1 < buckets.starts[bucket + 1]
        is_open = np.ones(count, bool)  # not known to be dropped
        for one in _numbers(has_later):
            if not is_open[one]:
                continue
            starts = buckets.position[one].astype(np.int64) + 1
            lengths = buckets.starts[buckets.bucket[one] + 1] - starts
            others = buckets.documents[np.repeat(starts, lengths) + ranges(lengths)]
            others = distinct(others[is_open[others]], count)
            others, similarity = self._compare(one, others, self._threshold)
            is_near = similarity >= 0
            near = others[is_near]
            self.original[near], self._distance[near] = one, 1 - similarity[is_near]
            is_open[near] = False

    def groups(self) -> np.ndarray:
        """[n] the smallest candidate that each is connected to by pairs of near-duplicates; `choose` comes before.

        Each document that was dropped is compared with all others in its buckets that are not yet in its group. Most
        comparisons are avoided: of the documents that have one original, first this original is compared. Jaccard
        distance is a metric, so only those can be near that are at least as far from it as the distances differ. Among
        so many documents of moderate similarity that too many pairs remain, those that can be near are joined.
        """
        clusters = Clusters(self.original, self._distance, self._buckets, self._folder)
        bucket = self._buckets.bucket
        del self._buckets  # most of its memory is no longer needed
        dropped = np.flatnonzero(self.original != np.arange(len(self.original)))
        for join in (self._join_originals, self._join_members):  # the first joins most, and is quick
            size, done = 1, 0
            while done < len(dropped):
                is_mixed = clusters.mixed()
                for one in dropped[done : done + size].tolist():
                    originals = clusters.near(bucket[one], is_mixed)
                    originals = originals[clusters.group[originals] != clusters.group[one]]
                    if len(originals):
                        join(clusters, one, originals)
                clusters.update()
                done, size = done + size, min(2 * size, FEW)
        return clusters.group

    def _join_originals(self, clusters: Clusters, one: int, originals: np.ndarray) -> None:
        """Join the groups of a dropped document and of those of other originals that are its near-duplicates."""
        originals, similarity = self._compare(one, originals, self._threshold)
        for original in originals[similarity >= 0].tolist():
            clusters.join(one, original)

    def _join_members(self, clusters: Clusters, one: int, originals: np.ndarray) -> None:
        """Join the groups of a dropped document and of its near-duplicates that have some other original."""
        originals, similarity = self._compare(one, originals, self._threshold - clusters.reach[originals])
        able = similarity >= 0
        originals, farthest = originals[able], self._threshold - similarity[able]
        members = [
            clusters.members(original, at_least=distance)
            for original, distance in zip(originals.tolist(), farthest.tolist(), strict=True)
        ]
        others = np.concatenate([originals[:0], *members])
        others = others[others > one]  # two dropped documents are compared once
        self._budget -= len(others)
        if self._budget > 0:
            others, similarity = self._compare(one, others, self._threshold)
            others = others[similarity >= 0]
        for other in np.unique(self.original[others]).tolist():
            clusters.join(one, other)

    def _compare(self, one: int, others: np.ndarray, at_least: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Those documents that may be similar to another, and their similarity; -1 if it is under `at_least`."""
        may_be = estimates(self._signatures[others], self._signatures[one]) >= least_estimate(at_least)
        others = others[may_be]
        if not len(others):
            return others, np.empty(0)
        return others, self._sets.similarity(
            one, others, at_least[may_be] if isinstance(at_least, np.ndarray) else at_least
        )


def _numbers(chosen: np.ndarray) -> Iterator[int]:
    """The indices where an array of booleans is true."""
    for some in blocks(len(chosen)):
        yield from (np.flatnonzero(chosen[some]) + some.start).tolist()
