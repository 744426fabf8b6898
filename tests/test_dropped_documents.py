"""Dropped documents: all are in a file of the corpus, and the first of each reason in its manifest."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from making import made_up_text
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import dropped_documents, shards


@pytest.mark.parametrize("shard", [500, 1 << 20], ids=["many shards", "one shard"])
def test_all_are_in_the_file_and_the_first_in_the_manifest(
    shard: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SMALL_SHARD", shard)
    monkeypatch.setattr(dropped_documents, "GROUP", 7)
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(30):
        (folder / f"a{i}.md").write_text(made_up_text(i, 60))
    originals = {}
    for i in range(120):
        (folder / f"empty{i}.md").write_text(" ")
        (folder / f"equal{i}.md").write_text(made_up_text(i % 30, 60).upper())
        originals[f"equal{i}.md"] = f"a{i % 30}.md"
    (folder / "near.md").write_text(made_up_text(0, 60) + " more")
    (folder / "link.md").symlink_to(folder / "a0.md")
    flags = [f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path / 'cache'}"]
    corpus = prepare(parse([*flags, "--tokenizer.train_vocab_size=300"]))
    rows = pq.read_table(corpus.folder / "dropped.parquet").to_pylist()
    found = {row["id"]: (row["reason"], row["original"]) for row in rows}
    assert len(rows) == len(found) == 242
    assert found.pop("link.md") == ("symbolic link", None) and found.pop("near.md") == ("near-duplicate", "a0.md")
    assert {id_: original for id_, (reason, original) in found.items() if reason == "duplicate"} == originals
    assert {reason for id_, (reason, _) in found.items() if id_.startswith("empty")} == {"empty"}
    manifest = corpus.manifest
    assert manifest["documents"]["dropped"] == {"duplicate": 120, "empty": 120, "near-duplicate": 1}
    assert manifest["sources"][0]["dropped"] == {"symbolic link": 1}
    assert {reason: len(ids) for reason, ids in manifest["dropped"].items()} == {
        "duplicate": 100,
        "empty": 100,
        "near-duplicate": 1,
        "symbolic link": 1,
    }
    listed = {id_: original for original, ids in manifest["duplicates"].items() for id_ in ids}
    assert len(listed) == 101 and {*listed} == {*manifest["dropped"]["duplicate"], "near.md"}
    assert all((originals | {"near.md": "a0.md"})[id_] == original for id_, original in listed.items())
