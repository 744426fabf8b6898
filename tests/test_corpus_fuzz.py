"""Preparation of corpora of any layout: many or few shards, some or all of them without a document."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import shards
from mlm_dist.corpus.readers import json_lines
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import CorpusError

KINDS = ("good", "good", "copy", "version", "short", "empty", "blank", "binary", "large")
SETTINGS = list(itertools.product(["none", "exact", "near"], ["0", "0.1"], ["truncate", "chunk", "pack"]))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few kilobytes, so that some get no document."""
    monkeypatch.setattr(shards, "SMALL_SHARD", 4096)
    monkeypatch.setattr(json_lines, "PART_BYTES", 2048)


def text_of(kind: str, i: int) -> str:
    """A text of a kind; large ones are over the limit of 20 KB."""
    texts = {"copy": made_up_text(0, 60), "version": f"{made_up_text(1, 100)} {i}", "short": "short", "empty": ""}
    texts |= {"blank": " \n\u200b\n", "binary": "\0" * 400, "large": made_up_text(i, 5000)}
    return texts.get(kind) or ("" if kind == "empty" else made_up_text(100 + i, 60))


def write_corpus(draw: random.Random, folder: Path) -> int:
    """Write documents of random kinds as files or as records, and return how many there are."""
    kinds = draw.choices(draw.sample(KINDS, draw.randint(1, len(KINDS))), k=draw.choice([1, 2, 5, 20]))
    texts = [text_of(kind, i) for i, kind in enumerate(kinds)]
    folder.mkdir(parents=True)
    form = draw.choice(["files", "files", "jsonl", "parquet", "mixed"])
    if form in ("files", "mixed"):
        for i, text in enumerate(texts):
            path = folder / draw.choice(["a", "b/c"]) / f"{i}.{draw.choice(['md', 'txt', 'rst'])}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    if form in ("jsonl", "mixed"):
        (folder / "x.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    if form in ("parquet", "mixed"):
        size = draw.choice([1, 3, 100])
        with pq.ParquetWriter(folder / "x.parquet", pa.schema({"text": pa.string()})) as writer:
            for i in range(0, draw.choice([0, len(texts)]), size):
                writer.write_table(pa.table({"text": pa.array(texts[i : i + size], pa.string())}))
    return len(texts)


def check(corpus: PreparedCorpus) -> None:
    """The manifest adds up, and says what the folders hold."""
    manifest: dict[str, Any] = corpus.manifest
    documents = manifest["documents"]
    assert documents["found"] == documents["kept"] + sum(documents["dropped"].values())
    assert documents["kept"] == documents["train"] + documents["validation"] > 0
    sides = Counter(split for _, split, _ in corpus.documents())
    for split in ("train", "validation"):
        rows = corpus.rows(split)
        assert len(rows) == manifest["rows"][split] == sum(source["rows"][split] for source in manifest["sources"])
        assert sides[split] == documents[split] == sum(source["documents"][split] for source in manifest["sources"])
        assert bool(len(rows)) == bool(documents[split])
    assert (
        Counter({reason: len(manifest["dropped"][reason]) for reason in documents["dropped"]}) == documents["dropped"]
    )
    kept = {id_ for id_, _, _ in corpus.documents()}
    assert set(manifest["duplicates"]) <= kept
    assert sum(map(len, manifest["duplicates"].values())) == sum(
        documents["dropped"].get(reason, 0) for reason in ("duplicate", "near-duplicate")
    )


def try_layout(seed: int, folder: Path, settings: tuple[str, str, str]) -> str:
    """Prepare a random layout; either it is refused with one clear line, or the corpus is right. Returns which."""
    draw = random.Random(seed)
    write_corpus(draw, folder / "docs")
    deduplicate, fraction, mode = settings
    sources = [f"--corpus.source={folder / 'docs'}", "--corpus.patterns=*.md,*.txt,*.rst,*.jsonl,*.parquet"]
    if draw.random() < 0.3:
        write_corpus(draw, folder / "more")
        named = {name: {"source": str(folder / name), "patterns": ["*"]} for name in ("docs", "more")}
        sources = [f"--corpus.sources={json.dumps(named)}"]
    try:
        corpus = prepare(
            parse(
                [
                    *sources,
                    *(f"--corpus.cache_dir={folder / 'cache'}", "--tokenizer.train_vocab_size=300"),
                    *("--rows.max_length=16", "--corpus.max_document_mb=0.02", "--corpus.min_chars=50"),
                    *(f"--corpus.deduplicate={deduplicate}", f"--corpus.validation_fraction={fraction}"),
                    f"--rows.mode={mode}",
                ]
            )
        )
    except CorpusError as error:
        assert str(error).startswith("corpus.") and "\n" not in str(error)
        return "refused"
    check(corpus)
    return "prepared"


@pytest.mark.parametrize("settings", SETTINGS, ids="-".join)
def test_any_layout_is_prepared_or_refused(settings: tuple[str, str, str], tmp_path: Path) -> None:
    first = SETTINGS.index(settings)
    results = {try_layout(100 * first + i, tmp_path / str(i), settings) for i in range(4)}
    assert results <= {"prepared", "refused"}


@pytest.mark.parametrize("prefer", ["first", "longest", "[v2/, v1/]"])
def test_what_is_kept_does_not_depend_on_the_shards(
    prefer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(7)
    for i in range(15):
        words = made_up_text(i, 80).split()
        for version in ("v1", "v2", "v3"):
            path = tmp_path / "docs" / version / f"{i}.md"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(" ".join(words))
            for _ in range(draw.randint(0, 2)):
                words[draw.randrange(80)] = f"n{i}"
            words += ["more"] * draw.randint(0, 2)
    found, num_shards = [], []
    for size in (500, 1 << 20):
        monkeypatch.setattr(shards, "SMALL_SHARD", size)
        corpus = prepare(
            parse(
                [
                    *(f"--corpus.source={tmp_path / 'docs'}", f"--corpus.cache_dir={tmp_path / str(size)}"),
                    *("--tokenizer.train_vocab_size=300", "--rows.max_length=32", "--corpus.validation_fraction=0.2"),
                    f"--corpus.prefer={prefer}",
                ]
            )
        )
        check(corpus)
        duplicates = corpus.manifest["duplicates"]
        found.append(
            ({(id_, split) for id_, split, _ in corpus.documents()}, {k: sorted(duplicates[k]) for k in duplicates})
        )
        assert 15 < len(found[-1][0]) < 40
        num_shards.append(len(corpus.manifest["shards"]))
    assert found[0] == found[1] and num_shards[0] > 16 and num_shards[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, 1000, 50))
def test_many_layouts_are_prepared_or_refused(start: int, tmp_path: Path) -> None:
    results = Counter(
        try_layout(10_000 + seed, tmp_path / str(seed), SETTINGS[seed % len(SETTINGS)])
        for seed in range(start, start + 50)
    )
    assert results["prepared"] >= 10 and results["refused"] >= 1


@pytest.mark.parametrize("settings", SETTINGS, ids="-".join)
def test_a_shard_whose_only_document_is_too_large(settings: tuple[str, str, str], tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.md").write_text(made_up_text(i, 60))
    (folder / "large.md").write_text(made_up_text(9, 6000))
    deduplicate, fraction, mode = settings
    corpus = prepare(
        parse(
            [
                *(f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path / 'cache'}", "--rows.max_length=16"),
                *("--tokenizer.train_vocab_size=300", "--corpus.max_document_mb=0.02", f"--rows.mode={mode}"),
                *(f"--corpus.deduplicate={deduplicate}", f"--corpus.validation_fraction={fraction}"),
            ]
        )
    )
    assert corpus.manifest["documents"]["kept"] == 4
    assert corpus.manifest["documents"]["dropped"] == {"over 0.02 MB": 1}
    check(corpus)
