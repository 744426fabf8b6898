"""Labels that documents bring along: their side of the split, and the group that stays on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    def of(cls, shards: Sequence[SplitLabels]) -> SplitLabels:
        """The labels of the documents of all shards."""
        every = [cls.none(0), *shards]
        return cls(np.concatenate([one.side for one in every]), np.concatenate([one.group for one in every]))

    @property
    def hold_out(self) -> bool:
        """Whether some documents are labelled for validation."""
        return bool((self.side == VALIDATION).any())

    def held_out(self, where: np.ndarray) -> SplitLabels:
        """The labels with those of some documents, [n] booleans, changed to validation."""
        return SplitLabels(np.where(where, np.int8(VALIDATION), self.side), self.group)

    def joined(self, group: np.ndarray) -> np.ndarray:
        """Groups of documents that must be on one side: those of `group`, joined where documents share their label.

        Args:
            group: [n] for each document the index of one in its group, such as the first of its near-duplicates.

        Returns:
            [n] the index of the first document of each document's group.
        """
        labelled = np.flatnonzero(self.group != NO_GROUP)
        if not len(labelled):
            return group
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(group)
        _, first, index = np.unique(self.group[labelled], return_index=True, return_inverse=True)
        rows = np.concatenate([np.arange(count), labelled])
        columns = np.concatenate([group, labelled[first][index]])
        links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
        _, component = connected_components(links, directed=False)
        _, first = np.unique(component, return_index=True)
        result: np.ndarray = first[component]
        return result

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
