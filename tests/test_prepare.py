"""Preparing a corpus: figures are correct, files are complete, and the number of processes changes nothing."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
from making import made_up_text
from specs import prepare

from mlm_dist.config import Config, CorpusConfig, parse
from mlm_dist.corpus import documents, known_hashes, pipeline, row_shards, shards, sources
from mlm_dist.corpus.readers import json_lines
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.shares import share
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.errors import CorpusError, ModelError, PeerError
from mlm_dist.files import sha256_of
from mlm_dist.resolve import corpus_spec

LENGTH = 32


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of a launcher that may have started the tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def flags_for(source: Path | str, cache: Path) -> list[str]:
    """Flags for small corpora."""
    common = [f"--rows.max_length={LENGTH}", "--tokenizer.train_vocab_size=400", "--corpus.validation_fraction=0.2"]
    return [f"--corpus.source={source}", f"--corpus.cache_dir={cache}", *common]


def config(source: Path | str, cache: Path, *flags: str) -> Config:
    """A config for small corpora."""
    return parse([*flags_for(source, cache), *flags])


def tree(folder: Path) -> dict[str, str]:
    """{path: SHA-256} of all files below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def times(folder: Path) -> dict[str, int]:
    """{path: time of the last change, ns} of everything below a folder; the time of a corpus itself is its last use."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if not (path / "manifest.json").exists()}


def in_cache(cache: Path) -> set[str]:
    """The folders of prepared or half-prepared corpora."""
    return {path.name for path in cache.iterdir() if path.is_dir()} - {"sources", "rendezvous", known_hashes.FOLDER}


def load(folder: Path) -> Any:
    """Load a `datasets` folder."""
    from datasets import load_from_disk

    return load_from_disk(str(folder))


@pytest.fixture
def mixed(folder: Path) -> Path:
    """30 documents, and one of each kind that is dropped."""
    (folder / "short.md").write_text("Too short.")
    (folder / "empty.md").touch()
    (folder / "blank.md").write_text(" \n\t\n")
    (folder / "copy.md").write_text((folder / "guide" / "01.rst").read_text().replace(" ", "\n") + "\n\n")
    (folder / "binary.md").write_bytes(b"\0" * 500)
    (folder / "link.md").symlink_to("short.md")
    return folder


def test_figures_add_up(mixed: Path, tmp_path: Path) -> None:
    corpus = prepare(config(mixed, tmp_path / "cache"))
    manifest = corpus.manifest
    documents = manifest["documents"]
    assert (documents["found"], documents["kept"]) == (35, 30)
    assert documents["dropped"] == {"binary": 1, "duplicate": 1, "empty": 2, "under 200 characters": 1}
    assert documents["found"] == documents["kept"] + sum(documents["dropped"].values())
    assert documents["train"] + documents["validation"] == 30 and documents["validation"] >= 1
    assert manifest["sources"][0]["files"] == 35 and manifest["sources"][0]["dropped"] == {"symbolic link": 1}
    assert {reason: sorted(paths) for reason, paths in manifest["dropped"].items()} == {
        "binary": ["binary.md"],
        "duplicate": ["guide/01.rst"],
        "empty": ["blank.md", "empty.md"],
        "symbolic link": ["link.md"],
        "under 200 characters": ["short.md"],
    }
    assert manifest["encodings"] == {"utf-8": 34}

    splits = {split: load(corpus.folder / split) for split in ("train", "validation")}
    assert manifest["rows"] == {split: len(rows) for split, rows in splits.items()}
    num_rows = sum(manifest["rows"].values())
    lengths = [length for rows in splits.values() for row in rows["lengths"][:] for length in row]
    kept, used = sum(lengths) - 2 * len(lengths), sum(lengths)
    assert manifest["tokens"] == {"kept": kept, "dropped": 0, "padded": num_rows * LENGTH - used, "unknown": 0}


def test_manifest_has_the_source(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache", "--rows.mode=truncate"))
    manifest = corpus.manifest
    assert corpus.folder == tmp_path / "cache" / corpus.digest and manifest["digest"] == corpus.digest
    assert manifest["sources"][0]["kind"] == "folder" and manifest["sources"][0]["location"] == str(folder)
    assert manifest["sources"][0]["commit"] is None and len(manifest["sources"][0]["sha256"]) == 64
    assert manifest["config"]["rows"] == {"mode": "truncate", "max_length": LENGTH}
    assert len(manifest["config_digest"]) == 64


def test_manifest_describes_every_file(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    found = tree(corpus.folder)
    del found["manifest.json"]
    assert {name: file["sha256"] for name, file in corpus.manifest["files"].items()} == found
    for name, file in corpus.manifest["files"].items():
        assert (corpus.folder / name).stat().st_size == file["size"]
    assert {"tokenizer/tokenizer.json", "train/state.json", "validation/state.json"} <= set(found)


def test_rows_hold_every_token_of_every_document_once(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    corpus = prepare(config(folder, tmp_path / "cache", "--rows.mode=chunk"))
    tokenizer = AutoTokenizer.from_pretrained(str(corpus.folder / "tokenizer"))
    expected = {
        path.name: tokenizer(path.read_text().strip(), add_special_tokens=False)["input_ids"]
        for path in folder.rglob("*.*")
    }
    documents: dict[str, list[list[int]]] = {"train": [], "validation": []}
    for split, found in documents.items():
        begun = True
        for row, (length,) in zip(
            *(load(corpus.folder / split)[name][:] for name in ("input_ids", "lengths")), strict=True
        ):
            assert row[0] == tokenizer.cls_token_id and row[length - 1] == tokenizer.sep_token_id
            assert set(row[length:]) <= {tokenizer.pad_token_id}
            if begun:
                found.append([])
            found[-1] += row[1 : length - 1]
            begun = found[-1] in expected.values()
    assert sorted(documents["train"] + documents["validation"]) == sorted(expected.values())
    assert len(documents["train"]) == corpus.manifest["documents"]["train"]
    assert corpus.manifest["tokens"]["kept"] == sum(map(len, expected.values()))


def test_rows_can_be_read_in_any_order(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    table, rows = corpus.rows("train"), load(corpus.folder / "train")
    assert len(table) == len(rows)
    wanted = np.random.default_rng(0).integers(0, len(table), 50)
    assert table.take(wanted).tolist() == [rows[int(i)]["input_ids"] for i in wanted]
    special = corpus.tokenizer.all_special_ids
    counts = np.bincount(np.array(rows["input_ids"][:]).reshape(-1), minlength=len(corpus.tokenizer))
    counts[special] = 0
    np.testing.assert_array_equal(corpus.token_counts, counts)


def test_rows_of_a_corpus_are_opened_without_reading_them(folder: Path, tmp_path: Path) -> None:
    def is_mapped(path: Path) -> bool:
        return str(path) in Path("/proc/self/maps").read_text()

    prepare(config(folder, tmp_path / "cache"))
    corpus = prepare(config(folder, tmp_path / "cache"))
    (path,) = (corpus.folder / "train").glob("*.arrow")
    table = corpus.rows("train")
    counts, length = table.counts, len(table)
    assert counts.rows == length and not is_mapped(path)
    lengths, num_chunks = table.chunks(np.arange(length))
    assert is_mapped(path)
    assert (counts.tokens, counts.longest, counts.chunks) == (lengths.sum(), lengths.max(), num_chunks.sum())
    assert corpus.source_counts("train") == {"": counts}
    assert corpus.manifest["row_counts"]["train"] == corpus.manifest["sources"][0]["row_counts"]["train"]


@pytest.mark.parametrize("name", ["blocks.npy", "state.json"])
def test_corpus_without_a_file_that_finds_its_rows_is_prepared_again(folder: Path, tmp_path: Path, name: str) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    expected = tree(corpus.folder)
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    for split in ("train", "validation"):
        del manifest["files"][f"{split}/{name}"]  # it is there, but nothing says that it is the right one
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    assert tree(prepare(config(folder, tmp_path / "cache")).folder) == expected


def test_corpus_with_a_link_for_a_file_is_prepared_again(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    expected = tree(corpus.folder)
    path = corpus.folder / "train" / "blocks.npy"
    path.rename(tmp_path / "blocks.npy")
    path.symlink_to(tmp_path / "blocks.npy")
    again = prepare(config(folder, tmp_path / "cache"))
    assert tree(again.folder) == expected and not (again.folder / "train" / "blocks.npy").is_symlink()


def test_truncate_drops_what_chunk_keeps(folder: Path, tmp_path: Path) -> None:
    chunk = prepare(config(folder, tmp_path / "cache", "--rows.mode=chunk")).manifest
    truncate = prepare(config(folder, tmp_path / "cache", "--rows.mode=truncate")).manifest
    assert truncate["tokens"]["dropped"] > 0
    assert truncate["tokens"]["kept"] + truncate["tokens"]["dropped"] == chunk["tokens"]["kept"]
    assert sum(truncate["rows"].values()) == truncate["documents"]["kept"] == 30


def test_pack_keeps_what_chunk_keeps_in_fewer_rows(folder: Path, tmp_path: Path) -> None:
    chunk, pack = (prepare(config(folder, tmp_path / "cache", f"--rows.mode={mode}")) for mode in ("chunk", "pack"))
    for name in ("kept", "dropped"):
        assert pack.manifest["tokens"][name] == chunk.manifest["tokens"][name]
    np.testing.assert_array_equal(pack.token_counts, chunk.token_counts)
    for split in ("train", "validation"):
        rows = load(pack.folder / split)
        lengths = [length for row in rows["lengths"][:] for length in row]
        assert sorted(lengths) == sorted(length for (length,) in load(chunk.folder / split)["lengths"][:])
        assert len(rows) == pack.manifest["rows"][split]
    positions = LENGTH * sum(pack.manifest["rows"].values())
    num_chunks = sum(chunk.manifest["rows"].values())
    assert pack.manifest["tokens"]["padded"] == positions - pack.manifest["tokens"]["kept"] - 2 * num_chunks
    assert pack.manifest["tokens"]["padded"] < chunk.manifest["tokens"]["padded"] / 2


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        ((), "pack"),
        (("--model.name_or_path=modernbert",), "pack"),
        (("--model.name_or_path=fnet",), "chunk"),
        (("--model.name_or_path=esm", '--model.overrides={"token_dropout": true}'), "chunk"),
        (("--model.name_or_path=fnet", "--rows.mode=pack"), "pack"),
        (("--rows.mode=chunk",), "chunk"),
    ],
)
def test_rows_are_packed_if_the_architecture_supports_it(
    flags: tuple[str, ...], mode: str, folder: Path, tmp_path: Path
) -> None:
    corpus = prepare(config(folder, tmp_path / "cache", *flags))
    assert corpus.manifest["config"]["rows"]["mode"] == mode and corpus.is_packed == (mode == "pack")
    num_chunks = [len(row) for row in load(corpus.folder / "train")["lengths"][:]]
    assert (max(num_chunks) > 1) == (mode == "pack")


def test_duplicates_are_kept_without_deduplication(mixed: Path, tmp_path: Path) -> None:
    documents = prepare(config(mixed, tmp_path / "cache", "--corpus.deduplicate=none")).manifest["documents"]
    assert documents["kept"] == 31 and "duplicate" not in documents["dropped"]


def test_validation_fraction_of_zero_gives_an_empty_split(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache", "--corpus.validation_fraction=0.0"))
    assert corpus.manifest["documents"]["train"] == 30 and corpus.manifest["rows"]["validation"] == 0
    assert len(load(corpus.folder / "train")) == corpus.manifest["rows"]["train"]
    assert len(load(corpus.folder / "validation")) == 0
    assert len(corpus.rows("validation")) == 0


def test_second_call_uses_the_prepared_corpus(folder: Path, tmp_path: Path) -> None:
    first = prepare(config(folder, tmp_path / "cache"))
    before = times(first.folder)
    assert prepare(config(folder, tmp_path / "cache")).folder == first.folder
    assert times(first.folder) == before


def test_equal_input_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    first = prepare(config(folder, tmp_path / "cache"))
    time.sleep(0.01)
    second = prepare(config(folder, tmp_path / "other"))
    assert second.digest == first.digest and tree(second.folder) == tree(first.folder)


def damage_by_a_byte(folder: Path) -> None:
    path = next((folder / "train").glob("*.arrow"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_by_cutting(folder: Path) -> None:
    os.truncate(folder / "tokenizer" / "tokenizer.json", 100)


def damage_by_deleting(folder: Path) -> None:
    (folder / "validation" / "state.json").unlink()


def damage_the_manifest(folder: Path) -> None:
    os.truncate(folder / "manifest.json", 100)


def damage_by_another_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 0}))


@pytest.mark.parametrize(
    "damage",
    [damage_by_a_byte, damage_by_cutting, damage_by_deleting, damage_the_manifest, damage_by_another_format],
)
def test_damaged_corpus_is_prepared_again(folder: Path, tmp_path: Path, damage: Any) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    before = tree(corpus.folder)
    damage(corpus.folder)
    assert tree(corpus.folder) != before
    again = prepare(config(folder, tmp_path / "cache"))
    assert again.folder == corpus.folder and tree(again.folder) == before


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_corpus_that_cannot_be_read_is_not_deleted(
    folder: Path, tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is injected, because root can read every file."""
    corpus = prepare(config(folder, tmp_path / "cache"))
    before = times(corpus.folder)

    def fail(path: str) -> str:
        if path.startswith(str(corpus.folder)):
            raise OSError(code, os.strerror(code), path)
        return sha256_of(path)

    with monkeypatch.context() as patch:
        patch.setattr(known_hashes, "sha256_of", fail)
        shutil.rmtree(tmp_path / "cache" / known_hashes.FOLDER)
        with pytest.raises(CorpusError, match=rf"^corpus\.cache_dir: cannot read .*{corpus.digest} "):
            prepare(config(folder, tmp_path / "cache"))
    assert times(corpus.folder) == before
    prepare(config(folder, tmp_path / "cache"))
    assert times(corpus.folder) == before


def shard_files(folder: Path) -> dict[str, int]:
    """{path: inode} of everything that belongs to shards; equal inodes are the same file, reused."""
    names = ("documents", "shards", "train", "validation")
    paths = (path for name in names for path in (folder / name).iterdir() if path.suffix in (".parquet", ".arrow"))
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in paths}


def halt(monkeypatch: pytest.MonkeyPatch, name: str, after: int) -> list[int]:
    """Make preparing fail at the given number of shards of a stage; the list counts the shards that were begun."""
    begun: list[int] = []
    module, function = {"documents": (documents, "write"), "rows": (row_shards, "make")}[name]
    original = getattr(module, function)

    def counted(*arguments: Any) -> Any:
        begun.append(1)
        if len(begun) > after:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, function, counted)
    return begun


@pytest.mark.parametrize("stage", ["documents", "rows"])
def test_interrupted_preparation_continues_after_the_finished_shards(
    large: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = prepare(config(large, tmp_path / "expected"))
    num_shards = len(pieces(large))
    with monkeypatch.context() as patch:
        halt(patch, stage, after=2)
        with pytest.raises(KeyboardInterrupt):
            prepare(config(large, tmp_path / "cache"))
    assert in_cache(tmp_path / "cache") == {f"{expected.digest}.partial"}
    with monkeypatch.context() as patch:
        begun = {name: halt(patch, name, after=1000) for name in ("documents", "rows")}
        found = prepare(config(large, tmp_path / "cache"))
    done = {"documents": 2, "rows": 0} if stage == "documents" else {"documents": num_shards, "rows": 2}
    assert {name: num_shards - len(counts) for name, counts in begun.items()} == done
    assert tree(found.folder) == tree(expected.folder)
    assert in_cache(tmp_path / "cache") == {expected.digest}


@pytest.mark.slow
def test_changed_file_makes_only_its_own_shard_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "d", tmp_path / "cache"
    root.mkdir()
    for i in range(120):
        (root / f"{i}.md").write_text(made_up_text(i, 4000))
    trained = prepare(config(root, cache))
    assert len(trained.manifest["shards"]) == 8
    given = config(root, cache)
    given = replace(given, tokenizer=replace(Config().tokenizer, path=str(trained.folder / "tokenizer")))
    first = prepare(given)
    (root / "7.md").write_text(made_up_text(1007, 4100))
    with monkeypatch.context() as patch:
        begun = {name: halt(patch, name, after=1) for name in ("documents", "rows")}
        second = prepare(given)
    assert {name: len(counts) for name, counts in begun.items()} == {"documents": 1, "rows": 1}
    assert second.digest != first.digest
    before, after = shard_files(first.folder), shard_files(second.folder)
    assert len(set(before.items()) & set(after.items())) == len(before) - 3
    # A preparation that cannot reuse anything gives the same bytes.
    alone = prepare(replace(given, corpus=replace(given.corpus, cache_dir=str(tmp_path / "other"))))
    assert tree(alone.folder) == tree(second.folder)
    shutil.rmtree(first.folder)
    assert prepare(given).folder == second.folder
    # Two processes reuse as much as one.
    (root / "8.md").write_text(made_up_text(1008, 4100))
    path = f"--tokenizer.path={trained.folder / 'tokenizer'}"
    ended = [one for one, _ in launch(2, root, cache, "--tokenizer.train_vocab_size=null", path)]
    assert [one.returncode for one in ended] == [0, 0], [one.output for one in ended]
    third = prepare(given)
    before, after = shard_files(second.folder), shard_files(third.folder)
    assert third.digest != second.digest and len(set(before.items()) & set(after.items())) == len(before) - 3


def test_damaged_shard_is_not_reused(large: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = prepare(config(large, cache))
    for path in (first.folder / "documents").glob("*.parquet"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    second = prepare(config(large, cache, "--rows.max_length=16"))
    expected = prepare(config(large, tmp_path / "other", "--rows.max_length=16"))
    assert tree(second.folder) == tree(expected.folder)


def test_shard_of_another_format_is_not_reused(folder: Path, tmp_path: Path) -> None:
    first = prepare(config(folder, tmp_path / "cache"))
    for path in (first.folder / "shards").glob("*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "format": 0, "dropped": None}))
    second = prepare(config(folder, tmp_path / "cache", "--rows.max_length=16"))
    expected = prepare(config(folder, tmp_path / "other", "--rows.max_length=16"))
    assert tree(second.folder) == tree(expected.folder)


def test_files_of_an_interrupted_preparation_are_not_part_of_the_corpus(folder: Path, tmp_path: Path) -> None:
    expected = prepare(config(folder, tmp_path / "expected"))
    partial = tmp_path / "cache" / f"{expected.digest}.partial"
    shutil.copytree(expected.folder, partial)
    (partial / "junk").write_text("junk")
    (partial / "train" / "junk.arrow").write_text("junk")
    for mark in (partial / "shards").glob("*.json"):  # a record whose files do not exist
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"files": {"train/none.arrow": {"size": 1}}}))
    found = prepare(config(folder, tmp_path / "cache"))
    assert found.folder == tmp_path / "cache" / expected.digest and tree(found.folder) == tree(expected.folder)
    assert in_cache(tmp_path / "cache") == {expected.digest}


def test_manifest_cannot_name_files_outside_its_folder(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    (tmp_path / "cache" / "outside").write_text("x")
    for name in ("../outside", str(tmp_path / "cache" / "outside")):
        file = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
        (corpus.folder / "manifest.json").write_text(json.dumps(manifest | {"files": {name: file}}))
        assert ShardStore(tmp_path / "cache", corpus.digest).find() is None
        prepare(config(folder, tmp_path / "cache"))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_documents_are_exported_and_can_be_a_source_again(mixed: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "deep" / f"docs_texts{suffix}"
    first = prepare(config(mixed, tmp_path / "cache", f"--corpus.export={path}"))
    again = prepare(config(path, tmp_path / "cache", "--corpus.clean=none"))
    texts = sorted(text for _, _, text in first.documents())
    assert sorted(text for _, _, text in again.documents()) == texts and len(texts) == 30
    assert again.manifest["documents"]["dropped"] == {}
    if suffix == ".json":
        assert sorted(json.loads(path.read_text())) == texts
    # The split depends on the documents, not on their file.
    sides = [{text: split for _, split, text in corpus.documents()} for corpus in (first, again)]
    assert sides[0] == sides[1]
    path.unlink()
    prepare(config(mixed, tmp_path / "cache", f"--corpus.export={path}"))  # from the prepared corpus
    assert path.exists()


def test_export_that_cannot_be_written_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match=r"^corpus\.export: cannot write .*file/a\.json"):
        prepare(config(folder, tmp_path / "cache", f"--corpus.export={tmp_path}/file/a.json"))


def test_export_never_writes_over_a_document(folder: Path, tmp_path: Path) -> None:
    prepare(config(folder, tmp_path / "cache", f"--corpus.export={tmp_path}/texts.jsonl"))
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    (folder / "some.json").write_text('["mine"]')
    before = tree(tmp_path)
    for source, name in (
        (tmp_path / "texts.jsonl", "texts.jsonl"),
        (tmp_path / "texts.jsonl", "documents/../texts.jsonl"),
        (folder, "link/some.json"),
        (tmp_path / "link", "documents/some.json"),
    ):
        flags = ("--corpus.patterns=[some.json]", f"--corpus.export={tmp_path / name}")
        with pytest.raises(CorpusError, match=r"^corpus\.export: .* is a file of corpus\.source and would be lost"):
            prepare(config(source, tmp_path / "new", *flags))
    assert {path: found for path, found in tree(tmp_path).items() if not path.startswith("new/")} == before


def test_incomplete_corpus_is_not_used(folder: Path, tmp_path: Path) -> None:
    expected = prepare(config(folder, tmp_path / "expected"))
    folder_in_cache = tmp_path / "cache" / expected.digest
    shutil.copytree(expected.folder / "train", folder_in_cache / "train")
    assert ShardStore(tmp_path / "cache", expected.digest).find() is None
    assert tree(prepare(config(folder, tmp_path / "cache")).folder) == tree(expected.folder)


def test_digest_depends_exactly_on_what_the_rows_depend_on(folder: Path, tmp_path: Path) -> None:
    def digest(*flags: str, source: Path = folder) -> str:
        return prepare(config(source, tmp_path / "cache", *flags)).digest

    base = digest()
    shutil.copytree(folder, tmp_path / "moved")
    for same in (
        ("--masking.probability=0.3", "--optim.lr=1", "--batch.global_size=3", "--seed=5", "--output_dir=x"),
        ("--corpus.patterns=**/*.*",),
        ("--model.name_or_path=bert-mini",),
    ):
        assert digest(*same) == base
    assert digest(source=tmp_path / "moved") == base
    others = [
        digest("--rows.max_length=16"),
        digest("--rows.mode=truncate"),
        digest("--corpus.min_chars=300"),
        digest("--corpus.deduplicate=none"),
        digest("--corpus.validation_fraction=0.3"),
        digest("--tokenizer.train_vocab_size=300"),
        digest("--corpus.patterns=**/*.md"),
    ]
    (folder / "guide" / "01.rst").write_text(made_up_text(100, 100))
    others.append(digest())
    assert len({base, *others}) == 1 + len(others)


def test_documents_depend_on_the_versions_of_libraries(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, cleaned = importlib.metadata.version, config(folder, tmp_path / "cache")
    plain = config(folder, tmp_path / "cache", "--corpus.clean=none").corpus
    first = prepare(cleaned)
    described, as_it_is = (sources.acquire(one, tmp_path / "cache").settings() for one in (cleaned.corpus, plain))
    for name in ("markdown-it-py", "mdit-py-plugins", "chardet"):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", lambda of, name=name: version(of) + "+1" * (of == name))
            assert sources.acquire(cleaned.corpus, tmp_path / "cache").settings() != described
            as_it_would_be = sources.acquire(plain, tmp_path / "cache").settings()
            assert (as_it_would_be != as_it_is) == (name == "chardet")
            if name == "markdown-it-py":
                second = prepare(cleaned)
    assert second.digest != first.digest and not {*second.manifest["shards"]} & {*first.manifest["shards"]}


def test_named_tokenizer_is_loaded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(config(folder, tmp_path / "cache"))
    loaded: list[str] = []
    load = loading.load

    def counted(path: str, *key: str) -> Any:
        loaded.append(path)
        return load(path, *key)

    monkeypatch.setattr(loading, "load", counted)
    named = ["--tokenizer.train_vocab_size=null", f"--tokenizer.path={first.folder / 'tokenizer'}"]
    again = prepare(config(folder, tmp_path / "other", *named))
    assert loaded == [str(first.folder / "tokenizer")]
    assert load_rows(again) == load_rows(first)
    loaded.clear()
    prepare(config(folder, tmp_path / "other", *named, "--tokenizer.add_domain_tokens=3"))
    assert len(loaded) == 2  # and the saved one, with domain tokens


def load_rows(corpus: PreparedCorpus) -> list[list[int]]:
    """The training rows of a corpus."""
    rows: list[list[int]] = load(corpus.folder / "train")["input_ids"][:]
    return rows


def test_plan_shows_no_credentials(tmp_path: Path) -> None:
    flags = flags_for("https://me:secret@127.0.0.1:9/none.git", tmp_path)
    log = launching.here("plan", *flags).log
    assert "https://127.0.0.1:9/none.git" in log and "secret" not in log


def test_tokenizer_is_identified_by_its_content(folder: Path, tmp_path: Path) -> None:
    trained = prepare(config(folder, tmp_path / "cache")).folder / "tokenizer"
    shutil.copytree(trained, tmp_path / "copy")
    with_path = [
        replace(config(folder, tmp_path / "cache"), tokenizer=replace(Config().tokenizer, path=str(path)))
        for path in (trained, tmp_path / "copy")
    ]
    first, second = map(prepare, with_path)
    assert first.folder == second.folder
    assert first.manifest["tokens"] == prepare(config(folder, tmp_path / "cache")).manifest["tokens"]
    missing = replace(with_path[0], tokenizer=replace(Config().tokenizer, path=str(tmp_path / "none")))
    with pytest.raises(ModelError, match=r"tokenizer\.path.*none"):
        prepare(missing)


def test_documents_with_unusual_names_and_characters_are_counted(tmp_path: Path) -> None:
    root = tmp_path / "odd"
    root.mkdir()
    texts = [made_up_text(i, 80) + " \ud800 \x00 \U0001f600" for i in range(6)]
    lines = [*map(json.dumps, texts), "{", json.dumps("short \udfff")]
    (root / os.fsdecode(b"caf\xe9\n.jsonl")).write_text("\n".join(lines))
    (root / os.fsdecode(b"\xff.jsonl")).write_text('"short"')
    corpus = prepare(config(root, tmp_path / "cache", "--corpus.patterns=*.jsonl"))
    assert corpus.manifest["documents"]["kept"] == 6
    assert corpus.manifest["documents"]["dropped"] == {"not JSON": 1, "under 200 characters": 2}
    assert sum(map(len, corpus.manifest["dropped"].values())) == 3


@pytest.mark.parametrize(
    ("files", "flags", "said"),
    [
        ({"a.md": "short", "b.md": "tiny", "c.md": ""}, (), r"2 under 200 characters.*corpus\.min_chars"),
        ({"a.md": "", "b.md": " "}, ("--corpus.min_chars=0",), "2 empty"),
        (
            {"a.md": made_up_text(1, 100), "b.md": made_up_text(1, 100)},
            (),
            r"one distinct document.*validation_fraction",
        ),
        ({"a.py": "no document"}, (), r"corpus\.patterns"),
    ],
)
def test_corpus_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, files: dict[str, str], flags: tuple[str, ...], said: str
) -> None:
    (tmp_path / "d").mkdir()
    for name, text in files.items():
        (tmp_path / "d" / name).write_text(text)
    with pytest.raises(CorpusError, match=said) as caught:
        prepare(config(tmp_path / "d", tmp_path / "cache", *flags))
    assert "\n" not in str(caught.value) and str(caught.value).startswith("corpus.source: ")
    assert not [name for name in in_cache(tmp_path / "cache") if not name.endswith(".partial")]


def test_one_document_is_enough_without_a_validation_set(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.md").write_text(made_up_text(1, 100))
    corpus = prepare(config(tmp_path / "d", tmp_path / "cache", "--corpus.validation_fraction=0.0"))
    assert corpus.manifest["documents"]["train"] == 1


@pytest.mark.parametrize("cache", ["file", "file/below", "~no-such-user-here/cache"])
def test_invalid_cache_dir_is_refused(folder: Path, tmp_path: Path, cache: str) -> None:
    (tmp_path / "file").touch()
    path = cache if cache.startswith("~") else tmp_path / cache
    with pytest.raises(CorpusError, match=r"^corpus\.cache_dir: "):
        prepare(
            replace(config(folder, tmp_path), corpus=replace(Config().corpus, source=str(folder), cache_dir=str(path)))
        )


def pieces(source: Path) -> list[shards.Shard]:
    """The shards of a source."""
    return shards.shards(sources.acquire(CorpusConfig(source=str(source)), source.parent))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .jsonl file of 3 MB, enough for several shards, with duplicates, short and bad lines in it."""
    path = tmp_path_factory.mktemp("large") / "large.jsonl"
    paragraphs = [made_up_text(i, 40) for i in range(60)]
    draw = np.random.default_rng(0)
    texts = ["\n".join(paragraphs[i] for i in draw.integers(0, 60, 5)) for _ in range(2200)]
    lines = [json.dumps({"text": text}) for text in [*texts, *texts[:50], "short", "short"]]
    lines[500:500] = ["{", "[]"]
    path.write_text("\n".join(lines))
    assert len(pieces(path)) > 4  # work for each of four ranks
    return path


def launch(
    world_size: int, source: Path, cache: Path, *flags: str, small_files: int | None = None
) -> list[tuple[launching.Ended, float]]:
    """Run prepare.py on some ranks; the rank `small_files` may write no file over 8 KiB. Also: when each ended."""
    port = str(launching.free_port())

    def live(rank: int) -> tuple[launching.Ended, float]:
        command = [sys.executable, "mlm_dist/prepare.py", *flags_for(source, cache), *flags]
        if rank == small_files:
            command = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *command]
        ended = launching.run(
            command, timeout=60, RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
        return ended, time.monotonic()

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(live, range(world_size)))


def test_four_processes_write_the_same_bytes_as_one(large: Path, tmp_path: Path) -> None:
    alone = prepare(config(large, tmp_path / "one"))
    assert alone.manifest["documents"]["dropped"] == {
        "duplicate": 50,
        "near-duplicate": 1,  # the other pair of similar documents has a similarity of 0.78
        "no text": 1,
        "not JSON": 1,
        "under 200 characters": 2,
    }
    ended = [one for one, _ in launch(4, large, tmp_path / "four")]
    assert [one.returncode for one in ended] == [0] * 4, [one.stderr for one in ended]
    assert [bool(one.stdout) for one in ended] == [True, False, False, False]
    assert in_cache(tmp_path / "four") == {alone.digest}
    assert tree(tmp_path / "four" / alone.digest) == tree(alone.folder)
    assert PreparedCorpus(tmp_path / "four" / alone.digest).manifest["files"]


@pytest.mark.parametrize("name", ["d/x.md", "x.jsonl"])
def test_file_that_grows_during_preparation_has_the_same_shards_on_all_ranks(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    texts = [made_up_text(i, 400) for i in range(20)]
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    else:
        for i, text in enumerate(texts):
            (path.parent / f"{i}.md").write_text(text)
        path.write_text(texts[0])
    monkeypatch.setattr(shards, "SMALL_SHARD", 10_000)
    monkeypatch.setattr(json_lines, "PART_BYTES", 5_000)
    ranks, cut = threading.local(), shards.shards
    works: dict[int, list[shards.Shard]] = {}
    both = threading.Barrier(2, timeout=60)

    def in_turn(source: SourceFiles) -> list[shards.Shard]:
        if ranks.rank == 0:
            works[0] = cut(source)
        both.wait()
        if ranks.rank == 1:
            with open(path, "a") as file:
                file.write(f"{json.dumps(made_up_text(99, 30_000))}\n")
            works[1] = cut(source)
        both.wait()
        assert works[0] == works[1]  # otherwise the ranks would wait for each other
        return works[ranks.rank]

    def live(rank: int) -> PreparedCorpus | Exception:
        ranks.rank = rank
        try:
            made = config(path if path.suffix == ".jsonl" else path.parent, tmp_path / "cache")
            return pipeline.prepare(corpus_spec(made), rank, 2)
        except Exception as error:
            return error

    monkeypatch.setattr(shards, "shards", in_turn)
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(live, range(2)))
    assert len(works[0]) > 2
    if path.suffix == ".jsonl":
        assert {type(one) for one in ended} <= {CorpusError, PeerError}
        assert all("x.jsonl changed while it was read; run again" in str(one) for one in ended)
    else:
        assert isinstance(ended[0], PreparedCorpus) and isinstance(ended[1], PreparedCorpus), ended
        assert ended[0].folder == ended[1].folder
        assert ended[0].manifest["dropped"] == {"changed while the corpus was being prepared": ["x.md"]}


@pytest.mark.slow
def test_preparation_continues_after_killed_processes(large: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    processes = two_processes(large, cache, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 60
    while files(cache, "*.partial/shards/*.json") < 2 and time.monotonic() < patience:
        time.sleep(0.001)
    for process in processes:
        process.kill()
        process.wait()
    (partial,) = cache.glob("*.partial")
    finished = {
        (name, (partial / name).stat().st_ino)
        for mark in (partial / "shards").glob("*.json")
        for name in json.loads(mark.read_text())["files"]
        if not name.endswith(".npy")
    }
    assert 2 <= len(finished) < 2 * len(pieces(large))
    ended = [one for one, _ in launch(2, large, cache)]
    assert [one.returncode for one in ended] == [0, 0], [one.output for one in ended]
    (found,) = in_cache(cache)
    assert finished <= set(shard_files(cache / found).items())  # the same files, not made again
    assert tree(cache / found) == tree(prepare(config(large, tmp_path / "alone")).folder)


def two_processes(source: Path, cache: Path, *, stdout: int, stderr: int) -> list[subprocess.Popen[str]]:
    """Start prepare.py on two ranks."""
    port = str(launching.free_port())
    return [
        subprocess.Popen(
            [sys.executable, "mlm_dist/prepare.py", *flags_for(source, cache)],
            cwd=launching.ROOT,
            env=launching.environment(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            stdout=stdout,
            stderr=stderr,
            text=True,
        )
        for rank in range(2)
    ]


def files(folder: Path, pattern: str) -> int:
    """Number of files that match."""
    return len(list(folder.glob(pattern)))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before any work", "after its own work"])
def test_slow_process_is_waited_for(folder: Path, large: Path, tmp_path: Path, moment: str) -> None:
    source, cache = folder if moment == "before any work" else large, tmp_path / "cache"
    theirs = share([piece.size for piece in pieces(source)], 1, 2)
    assert bool(theirs) == (source == large)
    processes = two_processes(source, cache, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    late = processes[1]
    try:
        # The small corpus has one shard, for rank 0; rank 1 has every other shard of the large one.
        pattern, wanted = (
            ("rendezvous/*/start.json", 1) if source == folder else ("*.partial/validation/*.arrow", len(theirs))
        )
        patience = time.monotonic() + 40
        while files(cache, pattern) < wanted and time.monotonic() < patience:
            time.sleep(0.01)
        late.send_signal(signal.SIGSTOP)
        patience = time.monotonic() + 8  # rank 0 may wait for it or finish without it
        while not files(cache, "*/manifest.json") and time.monotonic() < patience:
            time.sleep(0.01)
        time.sleep(0.5)
        late.send_signal(signal.SIGCONT)
        said = [process.communicate(timeout=40)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [process.returncode for process in processes] == [0, 0], said
    assert files(cache, "*/manifest.json") == 1


@pytest.mark.slow
def test_failure_of_one_process_stops_the_others(large: Path, tmp_path: Path) -> None:
    ended = launch(3, large, tmp_path / "cache", small_files=2)
    culprit, when = ended.pop()
    assert culprit.returncode != 0 and "too large" in culprit.stderr.lower(), culprit.output
    for rank, (other, then) in enumerate(ended):
        assert other.returncode not in (0, 2, 75), other.output
        assert then - when < 15
        assert "rank 2 on " in other.stderr and "too large" in other.stderr.lower(), other.stderr
        assert "Traceback" not in other.stderr and f"[rank {rank}]" in other.stderr
    assert not [name for name in in_cache(tmp_path / "cache") if not name.endswith(".partial")]


@pytest.mark.slow
def test_concurrent_runs_prepare_the_corpus_once(large: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: launch(1, large, tmp_path / "cache")[0][0], range(2)))
    assert [one.returncode for one in both] == [0, 0], [one.output for one in both]
    assert sum("training a WordPiece tokenizer" in one.stdout for one in both) == 1
    assert len(in_cache(tmp_path / "cache")) == 1


def test_unknown_source_exits_with_code_2(tmp_path: Path) -> None:
    ended = launching.python("prepare.py", "--corpus.source=someone/nothing", f"--corpus.cache_dir={tmp_path}")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: corpus.source: someone/nothing ") and ended.stderr.count("\n") == 1
