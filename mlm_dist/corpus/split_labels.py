"""Labels that documents bring along: their side of the split, and the group that stays on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.partitions import partitions, starts_of
from mlm_dist.corpus.temporary_arrays import blocks, temporary_array

TRAIN, VALIDATION = 0, 1
NO_SIDE, NO_GROUP = -1, 0
SIDES = {"train": TRAIN, "validation": VALIDATION}


def group_key(value: str | None) -> int:
    """A number that is equal for equal groups and hardly ever for others; `NO_GROUP` for none."""
    if value is None:
        return NO_GROUP
    digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, person=b"group").digest()
    return int.from_bytes(digest, "big") or 1


@dataclass(frozen=True)
class SplitLabels:
    """The labels of all documents of a corpus, in order.

    Args:
        side: [n] TRAIN, VALIDATION or NO_SIDE, int8.
        group: [n] `group_key` of each, uint64.
    """

    side: np.ndarray
    group: np.ndarray

    @classmethod
    def none(cls, count: int) -> SplitLabels:
        """No labels, for documents that have none."""
        return cls(np.full(count, NO_SIDE, np.int8), np.full(count, NO_GROUP, np.uint64))

    @classmethod
    def of(cls, shards: Iterable[SplitLabels], count: int, folder: Path) -> SplitLabels:
        """The labels of the documents of all shards, in temporary arrays.

        Args:
            shards: The labels of each shard.
            count: How many there are.
            folder: Where temporary files are made.
        """
        labels = cls(temporary_array(count, np.int8, folder), temporary_array(count, np.uint64, folder))
        start = 0
        for one in shards:
            some = slice(start, start + len(one.side))
            labels.side[some], labels.group[some] = one.side, one.group
            start = some.stop
        return labels

    @property
    def hold_out(self) -> bool:
        """Whether some documents are labelled for validation."""
        return bool((self.side == VALIDATION).any())

    def held_out(self, where: np.ndarray) -> SplitLabels:
        """The labels with those of some documents, [n] booleans, changed to validation."""
        return SplitLabels(np.where(where, np.int8(VALIDATION), self.side), self.group)

    def joined(self, group: np.ndarray, folder: Path | None = None) -> np.ndarray:
        """Groups of documents that must be on one side: those of `group`, joined where documents share their label.

        Args:
            group: [n] for each document the index of one in its group, such as the first of its near-duplicates.
            folder: Where temporary files are made; by default the system's folder for them.

        Returns:
            [n] the index of a document in each document's group.
        """
        count = int(np.count_nonzero(self.group))
        if not count:
            return group
        one, other = (temporary_array(count, group.dtype, folder) for _ in range(2))
        done = 0
        for unsorted in partitions(self._labelled(group.dtype), count, folder):
            part = unsorted[np.argsort(unsorted["key"], kind="stable")]
            starts = starts_of(part["key"])
            first = np.repeat(part["document"][starts], np.diff(starts, append=len(part)))
            some = slice(done, done + len(part))
            one[some], other[some] = group[part["document"]], group[first]
            done += len(part)
        return _connected(group, one, other)

    def _labelled(self, kind: np.dtype[Any]) -> Iterator[np.ndarray]:
        """The labels and indices of documents that have a group."""
        for some in blocks(len(self.group)):
            here = np.flatnonzero(self.group[some])
            records = np.empty(len(here), [("key", np.uint64), ("document", kind)])
            records["key"], records["document"] = self.group[some][here], here + some.start
            yield records

    def apply(self, side: np.ndarray, group: np.ndarray) -> None:
        """Put labelled documents on their sides, and the others of their groups beside them.

        A document without a label whose group has labels of both sides is held out. Labels that name only training
        documents, and all of them, say nothing about a split; then nothing changes.

        Args:
            side: [n] the sides so far, changed in place.
            group: [n] what `joined` returned.
        """
        if not self.hold_out and (self.side == TRAIN).all():
            return
        for code in (TRAIN, VALIDATION):
            has_label = np.zeros(len(side), bool)
            has_label[group[self.side == code]] = True
            side[has_label[group]] = code
        is_labelled = self.side != NO_SIDE
        side[is_labelled] = self.side[is_labelled]

    def num_conflicts(self, side: np.ndarray, group: np.ndarray) -> int:
        """Documents for validation that share a group with training documents, because their labels say so.

        Args:
            side: [n] the sides.
            group: [n] what `joined` returned.
        """
        if not self.hold_out:
            return 0
        is_trained_on = np.zeros(len(side), bool)
        is_trained_on[group[side == TRAIN]] = True
        return int(is_trained_on[group[side == VALIDATION]].sum())


def _connected(group: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`group` with the groups of some pairs of documents joined: [n] the smallest of the groups that each belongs to.

    Args:
        group: [n] the group of each document, which is its own group.
        one: [pairs] groups.
        other: [pairs] the groups they are joined to.
    """
    root = group.copy()
    while True:
        left, right = root[one], root[other]
        apart = left != right
        if not apart.any():
            return root
        one, other = one[apart], other[apart]
        np.minimum.at(root, np.maximum(left, right)[apart], np.minimum(left, right)[apart])
        while (root[root] != root).any():
            root = root[root]
