"""Records in parts and arrays in temporary files: memory holds little of a large corpus at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from making import small_disk

from mlm_dist.corpus import partitions as partitions_module
from mlm_dist.corpus import selection, temporary_arrays
from mlm_dist.corpus.compared_documents import Documents
from mlm_dist.corpus.partitions import partitions
from mlm_dist.corpus.signatures import NUM_PERM, SIGNATURE_TYPE
from mlm_dist.corpus.split_labels import SplitLabels
from mlm_dist.corpus.temporary_arrays import temporary_array

KIND = np.dtype([("key", np.uint64), ("index", np.int32)])


def records(keys: np.ndarray) -> np.ndarray:
    made = np.empty(len(keys), KIND)
    made["key"], made["index"] = keys, np.arange(len(keys))
    return made


@pytest.mark.parametrize("sizes", [[], [0], [1], [1000], [3] * 333 + [1], [0, 500, 0, 500]])
def test_equal_keys_are_in_one_part_in_their_order(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(partitions_module, "PART", 50)
    count = sum(sizes)
    keys = np.random.default_rng(0).integers(0, 2**64, 200, np.uint64)[np.arange(count) * 7 % 200]
    blocks = np.split(records(keys), np.cumsum(sizes)[:-1]) if sizes else []
    parts = list(partitions(blocks, count, tmp_path))
    found = np.concatenate([records(keys[:0]), *parts])
    assert sorted(found["index"].tolist()) == list(range(count)) and (keys[found["index"]] == found["key"]).all()
    assert sum(len({*part["key"].tolist()}) for part in parts) == len({*keys.tolist()})
    assert all((np.diff(part["index"][part["key"] == key]) > 0).all() for part in parts for key in part["key"])
    assert all(part["key"].max() < later["key"].min() for part, later in pairwise(parts))
    assert len(parts) == (32 if count == 1000 else count > 0)


def test_temporary_arrays_leave_no_file(tmp_path: Path) -> None:
    array = temporary_array((3, 5), np.int32, tmp_path)
    assert array.shape == (3, 5) and not array.any() and not list(tmp_path.iterdir())
    array[1, 2] = 7
    assert array.sum() == 7


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk, pytest.raises(OSError, match="No space left on device"):
        temporary_array(100_000, np.int64, disk)


def peak(count: int, kind: str, folder: Path) -> int:
    """The most bytes that the selection of so many documents has in arrays of its own."""
    rng = np.random.default_rng(0)
    number = (
        rng.integers(0, count // 2, count).astype(np.uint64) if kind == "equal" else np.arange(count, dtype=np.uint64)
    )
    keys, chars = temporary_array((count, 16), np.uint8, folder), temporary_array(count, np.int64, folder)
    keys.view(np.uint64)[:] = (number[:, None] + np.uint64(1)) * np.array([0x9E3779B97F4A7C15, 3], np.uint64)
    group = number // np.uint64(9) * np.uint64(0x9E3779B97F4A7C15) if kind == "groups" else np.zeros(count, np.uint64)
    ids = pa.array([f"pages.jsonl@{i}" for i in range(count)])

    def signatures() -> Iterator[np.ndarray]:
        for start in range(0, count, 1000):
            yield rng.integers(0, 2**32, (min(1000, count - start), NUM_PERM), SIGNATURE_TYPE)

    documents = Documents(keys, signatures(), lambda wanted: [ids.filter(wanted)], chars, lambda wanted: [], folder)
    labels = SplitLabels(np.full(count, -1, np.int8), group)
    tracemalloc.start()
    try:
        selection.select(documents, deduplicate="near", near_threshold=0.8, validation_fraction=0.05, labels=labels)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("kind", "most"), [("distinct", 15), ("equal", 100), ("groups", 50)])
def test_selection_needs_few_bytes_per_document(
    kind: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions_module, "PART", 1000)
    monkeypatch.setattr(temporary_arrays, "BLOCK", 1000)
    small, large = (peak(count, kind, tmp_path) for count in (10_000, 40_000))
    assert (large - small) / 30_000 < most
