"""The selection: which documents are kept, and on which side of the split, decided by their texts alone."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlm_dist.corpus import near_duplicates
from mlm_dist.corpus.split_labels import SplitLabels

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE = range(4)
KEY_BYTES = 16
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near-duplicate"}


def text_key(text: str) -> bytes:
    """16 bytes that are equal for texts that differ only in white space or Unicode composition."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normal.encode("utf-8"), digest_size=KEY_BYTES).digest()


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

    def save(self, path: Path) -> None:
        """Write the selection to an .npz file."""
        np.savez(path, side=self.side, original=self.original)


def load(path: Path) -> Selection:
    """Read what `Selection.save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Selection(arrays["side"], arrays["original"])


def select(
    keys: np.ndarray,
    signatures: Sequence[np.ndarray],
    *,
    deduplicate: str,
    near_threshold: float,
    validation_fraction: float,
    labels: SplitLabels | None = None,
) -> Selection:
    """Drop duplicates, and assign groups of near-duplicates to the validation set by a hash of their texts.

    The first document of a group is kept. All documents of a group are on one side of the split, whether duplicates
    are dropped or not, so that no version of a held-out document is trained on. A group is held out if a part of its
    smallest key, taken as a number from 0 to 1, is under the fraction. So a document keeps its side while the corpus
    grows, unless it gets a near-duplicate with a smaller key; then it changes sides with a probability of 2 f (1 - f)
    for a fraction f. If one side would be empty, the group nearest to the fraction changes sides. Labels come before
    all of this.

    Args:
        keys: [n, 16] bytes, the documents' `text_key`; not read if duplicates make no difference.
        signatures: Their `near_duplicates.signatures`, in blocks; not read if near-duplicates make no difference.
        deduplicate: none, exact or near.
        near_threshold: Similarity at which two documents are near-duplicates.
        validation_fraction: Fraction of the documents to hold out.
        labels: Sides of the split that documents name, which are respected, and groups that stay on one side.
    """
    if labels is None:
        labels = SplitLabels.none(len(keys))
    if deduplicate == "none" and validation_fraction == 0:
        side, original = np.full(len(labels.side), TRAIN, np.int8), np.arange(len(labels.side))
        labels.apply(side, labels.joined(original))
        return Selection(side, original)
    halves = np.ascontiguousarray(keys).view(">u8").astype(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_new = np.concatenate([[True], (halves[order[1:]] != halves[order[:-1]]).any(1)])[: len(order)]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.cumsum(is_new) - 1  # equal for equal keys, and in the order of the keys
    exact = order[is_new][rank]
    group = (
        near_duplicates.groups(signatures, near_threshold)
        if deduplicate == "near" or validation_fraction > 0
        else exact
    )

    one_side = labels.joined(group)
    side = np.full(len(keys), TRAIN, np.int8)
    original = np.arange(len(keys))
    if validation_fraction > 0:
        smallest = np.full(len(keys), len(keys))
        np.minimum.at(smallest, one_side, rank)
        draw = halves[order[is_new]][smallest[one_side], 1] / 2.0**64
        side[draw < validation_fraction] = VALIDATION
        if len(np.unique(draw)) > 1 and not labels.hold_out:
            if not (side == VALIDATION).any():
                side[draw == draw.min()] = VALIDATION
            elif not (side == TRAIN).any():
                side[draw == draw.max()] = TRAIN
    labels.apply(side, one_side)
    if deduplicate != "none":
        original = group if deduplicate == "near" else exact
        side[original != np.arange(len(keys))] = NEAR_DUPLICATE
        side[exact != np.arange(len(keys))] = DUPLICATE
    if conflicts := labels.num_conflicts(side, one_side):
        logger.warning(
            "%s validation documents have near-duplicates, or documents of their group, among the training documents, "
            "because their records name the sides of the split",
            f"{conflicts:,}",
        )
    return Selection(side, original)
