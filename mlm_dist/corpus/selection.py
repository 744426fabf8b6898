"""The selection: which documents are kept, and on which side of the split, decided by their texts alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlm_dist.corpus import near_duplicates, preference
from mlm_dist.corpus.compared_documents import Documents
from mlm_dist.corpus.signatures import SignatureTable
from mlm_dist.corpus.split import Split
from mlm_dist.corpus.split_labels import SplitLabels
from mlm_dist.corpus.temporary_arrays import blocks, identity
from mlm_dist.corpus.text_keys import equal_documents, firsts
from mlm_dist.files import write_parts

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE = range(4)
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near-duplicate"}


@dataclass(frozen=True)
class Selection:
    """What becomes of each document of the corpus, in order.

    Args:
        side: [n] TRAIN, VALIDATION, DUPLICATE or NEAR_DUPLICATE; int8.
        original: [n] index of the document that is kept in its place; its own index if it is kept.
        group: [n] one number for all documents that are kept on one side of the split together.
    """

    side: np.ndarray
    original: np.ndarray
    group: np.ndarray

    @property
    def is_dropped(self) -> np.ndarray:
        """[n] whether a document is dropped as a duplicate or near-duplicate."""
        dropped: np.ndarray = self.side >= DUPLICATE
        return dropped

    def count(self, side: int) -> int:
        """Number of documents on a side."""
        return int((self.side == side).sum())

    def split(self, sizes: Sequence[int]) -> list[np.ndarray]:
        """The sides of the documents of each shard.

        Args:
            sizes: Documents of each shard.
        """
        stops = np.cumsum(sizes, dtype=np.int64).tolist()
        return [self.side[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]

    def save(self, path: Path) -> None:
        """Write the selection to an .npy file, which `load` maps."""
        kind = np.dtype([("side", np.int8), ("original", self.original.dtype), ("group", self.group.dtype)])

        def parts() -> Iterator[np.ndarray]:
            for some in blocks(len(self.side)):
                records = np.empty(some.stop - some.start, kind)
                records["side"], records["original"] = self.side[some], self.original[some]
                records["group"] = self.group[some]
                yield records

        write_parts(path, self.side.shape, kind, parts())


def load(path: Path) -> Selection:
    """Map what `Selection.save` wrote; only what is used of it is read."""
    saved = np.load(path, mmap_mode="r", allow_pickle=False)
    return Selection(*(np.asarray(saved[name]) for name in ("side", "original", "group")))


def by_labels(labels: SplitLabels, folder: Path | None = None) -> Selection:
    """The selection that keeps all documents, on the sides that they name, and trains on the others."""
    side, original = np.full(len(labels.side), TRAIN, np.int8), identity(len(labels.side), folder)
    group = labels.joined(original, folder)
    labels.apply(side, group)
    return Selection(side, original, group)


def select(
    documents: Documents,
    *,
    deduplicate: str,
    near_threshold: float,
    validation_fraction: float | np.ndarray,
    prefer: str | Sequence[str] = "first",
    keep_together: str = "near",
    labels: SplitLabels | None = None,
) -> Selection:
    """Drop duplicates, and assign groups of near-duplicates to the validation set by a hash of their texts.

    Of equal documents, the first in the order of preference is kept. A near-duplicate is dropped if it is one of a
    document that is kept. All documents that are connected by near-duplicates are on one side of the split, whether
    duplicates are dropped or not, so that no version of a held-out document is trained on; with `keep_together` exact,
    only equal documents and those of a label's group are connected. A group is held out if a
    part of its smallest key, taken as a number from 0 to 1, is under the fraction. So a document keeps its side while
    the corpus grows, unless it gets a near-duplicate with a smaller key; then it changes sides with a probability of
    2 f (1 - f) for a fraction f. If one side would be empty, the group nearest to the fraction changes sides. Labels
    come before all of this.

    Documents may have fractions of their own. The smallest one of a group counts. But documents with the fraction 1 are
    all held out, with their groups, whatever their labels say, and of duplicates they are kept first.

    Args:
        documents: The documents.
        deduplicate: none, exact or near.
        near_threshold: Similarity at which two documents are near-duplicates.
        validation_fraction: Fraction of the documents to hold out: of all, or [n] of each.
        prefer: Which of several duplicates is kept, see `by_preference`.
        keep_together: near, or exact to search no near-duplicates; `deduplicate` is then none or exact.
        labels: Sides of the split that documents name, which are respected, and groups that stay on one side.
    """
    count, folder = len(documents.keys), documents.folder
    labels = SplitLabels.none(count) if labels is None else labels
    fraction = np.broadcast_to(np.asarray(validation_fraction, np.float64), count)
    if not count or (deduplicate == "none" and not fraction.any()):
        return by_labels(labels, folder)
    may_change, has_sides = not labels.hold_out, bool(fraction.any())
    labels = labels.held_out(fraction == 1)

    def by_preference(indices: np.ndarray) -> np.ndarray:
        """Sort the indices of some documents, ascending ones, by preference."""
        wanted = np.zeros(count, bool)
        wanted[indices] = True
        order = preference.by_preference(
            documents.ids(wanted), documents.chars[indices], documents.keys[indices], prefer
        )
        order = order[np.argsort(fraction[indices[order]] < 1, kind="stable")]
        return np.take(indices, order)

    original, group = identity(count, folder), identity(count, folder)
    equal = by_preference(equal_documents(documents.keys, folder))
    first = firsts(documents.keys, equal)
    near = np.empty(0, np.int64)
    if deduplicate == "near" or (has_sides and keep_together == "near"):
        is_compared = np.ones(count, bool)
        is_compared[equal[first != equal]] = False
        table = SignatureTable(documents.signatures, is_compared, near_threshold, folder)
        found = near_duplicates.find(table, by_preference, documents.shingles, needs_groups=has_sides)
        del table
        group[found.documents] = found.group
        if deduplicate == "near":
            original[found.documents] = found.original
            near = found.documents[found.original != found.documents]
    group[equal] = group[first]
    one_side = labels.joined(group, folder)
    side = np.full(count, TRAIN, np.int8)
    if has_sides:
        split = Split(documents.keys, one_side, fraction, folder)
        split.hold_out(side, may_change=may_change)
    labels.apply(side, one_side)
    if deduplicate != "none":
        original[equal] = original[first]
        side[near] = NEAR_DUPLICATE
        side[equal[first != equal]] = DUPLICATE
    if conflicts := labels.num_conflicts(side, one_side):
        logger.warning(
            "%s validation documents have near-duplicates, or documents of their group, among the training documents, "
            "because their records name the sides of the split",
            f"{conflicts:,}",
        )
    return Selection(side, original, one_side)
