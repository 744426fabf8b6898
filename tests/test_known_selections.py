"""Selections are the same as those of the first implementation, which held all documents in memory."""

from __future__ import annotations

import hashlib

import comparing
import numpy as np
import pytest
import selection_cases

from mlm_dist.corpus import partitions, selection, temporary_arrays
from mlm_dist.corpus.split_labels import SplitLabels

# SHA-256 of the sides and originals of all settings, from version 0.1 of `selection.select`.
KNOWN = {
    "equal": "cd483223f42b4bcf",
    "cluster": "c463ec4694b21cfc",
    "chain": "861a6d5064351bc4",
    "boundary": "42437a7d4aba67db",
    "versions": "b47b3cdb7bb0ff29",
}


@pytest.fixture(params=[None, 7, 64], ids=["one part", "parts of 7", "parts of 64"])
def _parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and blocks of a few documents, as a large corpus has many."""
    if request.param is not None:
        monkeypatch.setattr(partitions, "PART", request.param)
        monkeypatch.setattr(temporary_arrays, "BLOCK", request.param)


@pytest.mark.usefixtures("_parts")
@pytest.mark.parametrize("name", KNOWN)
def test_selection_is_the_known_one(name: str) -> None:
    texts, ids = selection_cases.corpus(name)
    digest = hashlib.sha256()
    documents = comparing.documents(texts, ids)
    for settings in selection_cases.settings(name, len(texts)):
        found = selection.select(
            documents,
            deduplicate=settings.deduplicate,
            near_threshold=settings.near_threshold,
            validation_fraction=settings.fraction,
            prefer=settings.prefer,
            labels=SplitLabels(settings.side, settings.group),
        )
        digest.update(found.side.astype(np.int8).tobytes() + found.original.astype(np.int64).tobytes())
    assert digest.hexdigest()[:16] == KNOWN[name]
