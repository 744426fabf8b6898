"""Preparation of corpora of any layout: many or few shards, some or all of them without a document."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import launching
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

KINDS = ("good", "good", "copy", "version", "short", "empty", "blank", "binary", "large", "foreign")
FOREIGN = {
    "utf-8-sig": "Größe: die Übung beginnt früh. ",
    "utf-16": "Élan vital, où le cœur bat très fort. ",
    "utf-16-be": "Широкая электрификация южных губерний. ",
    "cp1252": "Le café déjà fermé près de l\u2019hôtel. ",
    "iso8859-2": "Příliš žluťoučký kůň úpěl ďábelské ódy. ",
    "koi8-r": "Съешь ещё этих мягких французских булок. ",
    "gb18030": "文档说明如何配置服务器和数据库。",
    "shift_jis": "この文書は設定の方法を説明します。",
    "euc-kr": "이 문서는 서버를 설정하는 방법을 설명합니다. ",
    "cp1256": "يشرح هذا المستند طريقة إعداد الخادم. ",
}
SETTINGS = list(itertools.product(["none", "exact", "near"], ["0", "0.1"], ["truncate", "chunk", "pack"]))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of a few kilobytes, so that some get no document."""
    monkeypatch.setattr(shards, "SMALL_SHARD", 4096)
    monkeypatch.setattr(json_lines, "PART_BYTES", 2048)


def text_of(kind: str, i: int) -> str:
    """A text of a kind; large ones are over the limit of 20 KB, foreign ones are made of what their encoding has."""
    if kind == "foreign":
        return f"{list(FOREIGN.values())[i % len(FOREIGN)] * 8}{made_up_text(200 + i, 30)}"
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
            encoding = list(FOREIGN)[i % len(FOREIGN)] if kinds[i] == "foreign" else "utf-8"
            path.write_bytes(text.encode(encoding))
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


def make_layout(seed: int, folder: Path, settings: tuple[str, str, str]) -> list[str]:
    """Write a random layout, and return the flags that prepare it."""
    draw = random.Random(seed)
    write_corpus(draw, folder / "docs")
    deduplicate, fraction, mode = settings
    sources = [f"--corpus.source={folder / 'docs'}", "--corpus.patterns=*.md,*.txt,*.rst,*.jsonl,*.parquet"]
    if draw.random() < 0.3:
        write_corpus(draw, folder / "more")
        named = {name: {"source": str(folder / name), "patterns": ["*"]} for name in ("docs", "more")}
        sources = [f"--corpus.sources={json.dumps(named)}"]
    return [
        *sources,
        *("--tokenizer.train_vocab_size=300", "--rows.max_length=16"),
        *("--corpus.max_document_mb=0.02", "--corpus.min_chars=50", f"--corpus.deduplicate={deduplicate}"),
        *(f"--corpus.validation_fraction={fraction}", f"--rows.mode={mode}"),
    ]


def try_layout(seed: int, folder: Path, settings: tuple[str, str, str]) -> str:
    """Prepare a random layout; either it is refused with one clear line, or the corpus is right. Returns which."""
    try:
        corpus = prepare(parse([*make_layout(seed, folder, settings), f"--corpus.cache_dir={folder / 'cache'}"]))
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


def prepare_as(rank: int, world_size: int, port: str, flags: list[str], log: Path) -> None:
    """Prepare as one of several processes; exit code 2 and a line in the log if the layout is refused."""
    shards.SMALL_SHARD, json_lines.PART_BYTES = 4096, 2048
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    try:
        prepare(parse(flags))
    except CorpusError as error:
        log.write_text(str(error))
        raise SystemExit(2) from None


def prepare_by(world_size: int, flags: list[str], folder: Path) -> dict[str, str] | list[str]:
    """Prepare by several processes; returns the hash of each file in the cache, or what each process said."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    folder.mkdir()
    port = str(launching.free_port())
    logs = [folder / str(rank) for rank in range(world_size)]
    ranks = [
        context.Process(
            target=prepare_as, args=(rank, world_size, port, [*flags, f"--corpus.cache_dir={folder / 'cache'}"], log)
        )
        for rank, log in enumerate(logs)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    codes = {process.exitcode for process in ranks}
    assert codes in ({0}, {2}), codes
    if codes == {2}:
        return sorted({log.read_text() for log in logs})
    files = [path for path in sorted((folder / "cache").rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_any_number_of_processes_writes_the_same_bytes(seed: int, tmp_path: Path) -> None:
    flags = make_layout(20_000 + seed, tmp_path, SETTINGS[seed % len(SETTINGS)])
    alone = prepare_by(1, flags, tmp_path / "one")
    for world_size in (2, 3 + seed % 4):
        assert prepare_by(world_size, flags, tmp_path / f"by-{world_size}") == alone


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
