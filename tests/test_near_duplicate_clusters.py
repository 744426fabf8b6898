"""The example that finds near-duplicates with datatrove's MinHash, and a corpus of its documents."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

import launching
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text
from specs import prepare

from mlm_dist.config import parse

NUM_TEXTS, NUM_VERSIONS = 300, 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files: 300 texts, of which each tenth has two more versions in the other files, with one word changed."""
    folder = tmp_path / "filtered"
    folder.mkdir()
    files: list[list[str]] = [[] for _ in range(NUM_VERSIONS)]
    for i in range(NUM_TEXTS):
        words = made_up_text(i, 200).split()
        for version in range(NUM_VERSIONS if i % 10 == 0 else 1):
            changed = [*words]
            changed[50 * version] = f"version{version}"
            files[(i + version) % NUM_VERSIONS].append(" ".join(changed))
    for i, texts in enumerate(files):
        pq.write_table(pa.table({"text": texts}), folder / f"{i}.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 3])
def test_no_cluster_is_on_both_sides(tasks: int, folder: Path, tmp_path: Path) -> None:
    script = [sys.executable, "examples/near_duplicate_clusters.py", str(folder), str(tmp_path / "out"), str(tasks)]
    ended = launching.run(script)
    assert ended.returncode == 0, ended.output
    paths = sorted((tmp_path / "out" / "documents").glob("*.parquet"))
    records = [record for path in paths for record in pq.read_table(path).to_pylist()]
    assert len(records) == NUM_TEXTS + NUM_TEXTS // 10 * (NUM_VERSIONS - 1)
    cluster = {record["text"]: record["cluster"] for record in records}
    sizes = Counter(one for one in cluster.values() if one is not None)
    assert sorted(sizes.values()) == [NUM_VERSIONS] * (NUM_TEXTS // 10)

    flags = ["--corpus.patterns=**/*.parquet", "--corpus.validation_fraction=0.3", "--tokenizer.train_vocab_size=400"]
    flags += ["--corpus.group=cluster", "--corpus.deduplicate=none", "--corpus.keep_together=exact"]
    found = prepare(parse([f"--corpus.source={paths[0].parent}", f"--corpus.cache_dir={tmp_path / 'cache'}", *flags]))
    sides = defaultdict(set)
    for _, split, text in found.documents():
        sides[cluster[text]].add(split)
    assert sides.pop(None) == {"train", "validation"}
    assert len(sides) == NUM_TEXTS // 10 and all(len(one) == 1 for one in sides.values())
    assert {*map(tuple, sides.values())} == {("train",), ("validation",)}
    assert found.manifest["notes"] == {"without a group": NUM_TEXTS - NUM_TEXTS // 10}
