"""Which documents stay, and on which side of the split; decided by their texts alone."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlm_dist.corpus import near_duplicates

TRAIN, VALIDATION, DUPLICATE, NEAR_DUPLICATE = range(4)
KEY_BYTES = 16
REASONS = {DUPLICATE: "duplicate", NEAR_DUPLICATE: "near-duplicate"}


def text_key(text: str) -> bytes:
    """16 bytes that are equal for texts that differ in white space or Unicode composition only."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.blake2b(normal.encode("utf-8"), digest_size=KEY_BYTES).digest()


@dataclass(frozen=True)
class Selection:
    """What becomes of each document of the corpus, in order.

    Args:
        side: [n] TRAIN, VALIDATION, DUPLICATE or NEAR_DUPLICATE; int8.
        stayed: [n] the number of the document that stayed in its place; its own where it stayed itself.
    """

    side: np.ndarray
    stayed: np.ndarray

    @property
    def is_dropped(self) -> np.ndarray:
        """[n] whether a document is a copy of one that stayed."""
        dropped: np.ndarray = self.side >= DUPLICATE
        return dropped

    def count(self, side: int) -> int:
        """Number of documents on a side."""
        return int((self.side == side).sum())

    def save(self, path: Path) -> None:
        """Write it down."""
        np.savez(path, side=self.side, stayed=self.stayed)


def load(path: Path) -> Selection:
    """Read what `Selection.save` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Selection(found["side"], found["stayed"])


def select(
    keys: np.ndarray,
    signatures: Sequence[np.ndarray],
    *,
    deduplicate: str,
    near_threshold: float,
    validation_fraction: float,
) -> Selection:
    """Drop copies, then hold out the groups of near-copies whose draw falls under the fraction.

    Of a group of copies the first document stays. A group falls on one side of the split as a whole, whether its copies
    are dropped or not, so that no held-out document has been trained on in another version. Its draw is a part of the
    smallest key in it. So a document stays on its side while the corpus grows, unless it gets a near-copy with a
    smaller key: then it changes sides with a probability of 2 f (1 - f), for a fraction of f. Only where the draws
    would leave a side without any document, the nearest group moves over.

    Args:
        keys: [n, 16] bytes, the documents' `text_key`; not read where copies make no difference.
        signatures: Their `dedup.signatures`, in blocks; not read where near-copies make no difference.
        deduplicate: none, exact or near.
        near_threshold: Similarity from which on two documents are near-copies.
        validation_fraction: Share of the documents to hold out.
    """
    if deduplicate == "none" and validation_fraction == 0:
        return Selection(np.full(len(keys), TRAIN, np.int8), np.arange(len(keys)))
    halves = np.ascontiguousarray(keys).view(">u8").astype(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    is_new = np.concatenate([[True], (halves[order[1:]] != halves[order[:-1]]).any(1)])[: len(order)]
    rank = np.empty(len(order), np.int64)
    rank[order] = np.cumsum(is_new) - 1  # equal for equal keys, and in their order
    exact = order[is_new][rank]
    group = (
        near_duplicates.groups(signatures, near_threshold)
        if deduplicate == "near" or validation_fraction > 0
        else exact
    )

    side = np.full(len(keys), TRAIN, np.int8)
    stayed = np.arange(len(keys))
    if validation_fraction > 0:
        smallest = np.full(len(keys), len(keys))
        np.minimum.at(smallest, group, rank)
        draw = halves[order[is_new]][smallest[group], 1] / 2.0**64
        side[draw < validation_fraction] = VALIDATION
        if len(np.unique(draw)) > 1:
            if not (side == VALIDATION).any():
                side[draw == draw.min()] = VALIDATION
            elif not (side == TRAIN).any():
                side[draw == draw.max()] = TRAIN
    if deduplicate != "none":
        stayed = group if deduplicate == "near" else exact
        side[stayed != np.arange(len(keys))] = NEAR_DUPLICATE
        side[exact != np.arange(len(keys))] = DUPLICATE
    return Selection(side, stayed)
