"""Refusing a selection of documents that cannot be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.corpus import manifest, selection
from mlm_dist.corpus.selection import Selection
from mlm_dist.errors import CorpusError
from mlm_dist.spec import CorpusSpec


def check(spec: CorpusSpec, names: str, figures: Sequence[Mapping[str, Any]], chosen: Selection) -> None:
    """Refuse a selection that cannot be trained on.

    Args:
        spec: The corpus.
        names: Its sources, for messages.
        figures: What became of the documents of each shard.
        chosen: The selection.

    Raises:
        CorpusError: No document is left, or one side of the split is empty.
    """
    num_train, num_validation = chosen.count(selection.TRAIN), chosen.count(selection.VALIDATION)
    if not (num_train or num_validation):
        counts = manifest.count_dropped(figures, chosen)
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "no documents in it"
        raise CorpusError(
            f"{spec.key}: {names} has no document left to train on ({dropped}); name "
            "another source or change corpus.min_chars"
        )
    if spec.documents.holds_out and not (num_train and num_validation):
        raise CorpusError(
            f"{spec.key}: there is only one distinct document, so none can be held out; add documents or set "
            "corpus.validation_fraction to 0"
            if num_train + num_validation == 1
            else f"{spec.key}: all {num_train + num_validation:,} documents are on one side of the split, because they "
            "are connected by near-duplicates or groups, or their records name it; add documents, or set "
            "corpus.validation_fraction to 0 or corpus.split to null"
        )
