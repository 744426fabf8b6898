"""The selection: which documents are kept, and on which side of the split, decided by their texts alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import near_duplicates
from mlm_dist.corpus.normal_text import normal_text
from mlm_dist.corpus.preference import by_preference
from mlm_dist.corpus.shingle_sets import ShingleSets
from mlm_dist.corpus.signatures import SignatureTable
from mlm_dist.corpus.split_labels import SplitLabels

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE = range(4)
KEY_BYTES = 16
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near-duplicate"}


def text_key(text: str) -> bytes:
    """16 bytes that are equal for texts whose `normal_text` differs only in white space."""
    normal = " ".join(normal_text(text).split())
    return hashlib.blake2b(normal.encode("utf-8"), digest_size=KEY_BYTES).digest()


@dataclass(frozen=True)
class Documents:
    """What is known of all documents of the corpus, in order.

    Args:
        keys: [n, 16] bytes, their `text_key`.
        signatures: Their `signatures.signatures`, in blocks; not read if near-duplicates make no difference.
        ids: [n] an Arrow array of their ids.
        chars: [n] their characters.
        texts: Returns the texts of those that [n] booleans choose, in order.
        folder: Where temporary files are made; by default the system's folder for them.
    """

    keys: np.ndarray
    signatures: Sequence[np.ndarray]
    ids: Any
    chars: np.ndarray
    texts: Callable[[np.ndarray], Iterable[str]]
    folder: Path | None = None

    def shingles(self, indices: np.ndarray) -> ShingleSets:
        """The shingles of the documents at some distinct indices."""
        wanted = np.zeros(len(self.keys), bool)
        wanted[indices] = True
        sets = ShingleSets(self.texts(wanted), self.folder)
        sets.reorder(np.cumsum(wanted)[indices] - 1)
        return sets


@dataclass(frozen=True)
class Selection:
    """What becomes of each document of the corpus, in order.

    Args:
        side: [n] TRAIN, VALIDATION, DUPLICATE or NEAR_DUPLICATE; int8.
        original: [n] index of the document that is kept in its place; its own index if it is kept.
    """

    side: np.ndarray
    original: np.ndarray

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
        """Write the selection to an .npz file."""
        np.savez(path, side=self.side, original=self.original)


def load(path: Path) -> Selection:
    """Read what `Selection.save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Selection(arrays["side"], arrays["original"])


def by_labels(labels: SplitLabels) -> Selection:
    """The selection that keeps all documents, on the sides that they name, and trains on the others."""
    side, original = np.full(len(labels.side), TRAIN, np.int8), np.arange(len(labels.side))
    labels.apply(side, labels.joined(original))
    return Selection(side, original)


def select(
    documents: Documents,
    *,
    deduplicate: str,
    near_threshold: float,
    validation_fraction: float | np.ndarray,
    prefer: str | Sequence[str] = "first",
    labels: SplitLabels | None = None,
) -> Selection:
    """Drop duplicates, and assign groups of near-duplicates to the validation set by a hash of their texts.

    Of equal documents, the first in the order of preference is kept. A near-duplicate is dropped if it is one of a
    document that is kept. All documents that are connected by near-duplicates are on one side of the split, whether
    duplicates are dropped or not, so that no version of a held-out document is trained on. A group is held out if a
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
        labels: Sides of the split that documents name, which are respected, and groups that stay on one side.
    """
    count = len(documents.keys)
    labels = SplitLabels.none(count) if labels is None else labels
    fraction = np.broadcast_to(np.asarray(validation_fraction, np.float64), count)
    if not count or (deduplicate == "none" and not fraction.any()):
        return by_labels(labels)
    may_change, has_sides = not labels.hold_out, bool(fraction.any())
    labels = labels.held_out(fraction == 1)
    side, original = np.full(count, TRAIN, np.int8), np.arange(count)
    halves, text = _distinct(documents.keys)
    order = by_preference(documents.ids, documents.chars, documents.keys, prefer)
    order = order[np.argsort(fraction[order] < 1, kind="stable")]
    position = np.empty(count, np.int64)  # in the order of preference
    position[order] = np.arange(count)
    first = np.full(len(halves), count)  # the first position of each text
    np.minimum.at(first, text, position)
    exact = order[first[text]]
    distinct = np.sort(first)
    index = np.searchsorted(distinct, first[text])  # of a document's text among the distinct ones
    stays, group = np.arange(len(distinct)), np.arange(len(distinct))
    if deduplicate == "near" or has_sides:
        table = SignatureTable(documents.signatures)
        found = near_duplicates.find(table, order[distinct], near_threshold, documents.shingles, needs_groups=has_sides)
        stays, group = found.original, found.group
    _, member, inverse = np.unique(group, return_index=True, return_inverse=True)
    one_side = labels.joined(order[distinct][member[inverse]][index])
    if has_sides:
        smallest = np.full(count, len(halves))
        np.minimum.at(smallest, one_side, text)
        draw = halves[smallest[one_side], 1] / 2.0**64
        least = np.ones(count)
        np.minimum.at(least, one_side, fraction)
        limit = least[one_side]
        side[draw < limit] = VALIDATION
        if len(np.unique(draw)) > 1 and may_change:
            if not (side == VALIDATION).any() and (limit > 0).any():
                side[draw == draw[limit > 0].min()] = VALIDATION
            if not (side == TRAIN).any() and (limit < 1).any():
                side[draw == draw[limit < 1].max()] = TRAIN
    labels.apply(side, one_side)
    if deduplicate != "none":
        original = order[distinct][stays[index]] if deduplicate == "near" else exact
        side[original != np.arange(count)] = NEAR_DUPLICATE
        side[exact != np.arange(count)] = DUPLICATE
    if conflicts := labels.num_conflicts(side, one_side):
        logger.warning(
            "%s validation documents have near-duplicates, or documents of their group, among the training documents, "
            "because their records name the sides of the split",
            f"{conflicts:,}",
        )
    return Selection(side, original)


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys in ascending order, as two numbers each, and which of them each document has."""
    halves = np.ascontiguousarray(keys).view(">u8").astype(np.uint64)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_new = np.concatenate([[True], (halves[order[1:]] != halves[order[:-1]]).any(1)])
    index = np.empty(len(keys), np.int64)
    index[order] = np.cumsum(is_new) - 1
    return halves[order[is_new]], index
