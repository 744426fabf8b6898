"""Hostile documents, caches and repositories: clear errors, bounded memory and time, nothing changed outside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import launching
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text, run_git
from reading import everything, rows_of_file
from specs import prepare

from mlm_dist.config import Config, CorpusConfig, parse, to_dict, to_yaml
from mlm_dist.corpus import kept_documents, rows, shards, sources
from mlm_dist.corpus.cleaners import Cleaned
from mlm_dist.corpus.markdown import cleaner
from mlm_dist.corpus.packing import RowBlock
from mlm_dist.corpus.readers import Document, Dropped, json_lines
from mlm_dist.corpus.sources import SourceFiles, git
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError
from mlm_dist.redaction import config_without_credentials

LINE = 200_000_000  # bytes, without a line break in them


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of a launcher that may have started the tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def flags_for(source: Path, cache: Path) -> list[str]:
    """Flags for small corpora."""
    return [f"--corpus.source={source}", f"--corpus.cache_dir={cache}", "--tokenizer.train_vocab_size=400"]


def config(source: Path, cache: Path, *flags: str) -> Config:
    """A config for small corpora."""
    return parse([*flags_for(source, cache), "--rows.max_length=32", "--corpus.validation_fraction=0.2", *flags])


def tree(folder: Path) -> dict[str, str]:
    """{path: SHA-256} of all files below a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_file_of_front_matter_alone_is_not_a_document(folder: Path, tmp_path: Path) -> None:
    for i, text in enumerate(("---\ntitle: Nothing else\n---\n", "---\nauthor: nobody\n---", "---\n---\n\n")):
        (folder / f"front{i}.md").write_text(text)
    dropped = prepare(config(folder, tmp_path / "cache")).manifest["documents"]["dropped"]
    assert sum(dropped.values()) == 3 and set(dropped) <= {"empty", "under 200 characters"}
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.md").write_text("---\ntitle: Nothing else\n---\n")
    with pytest.raises(CorpusError, match=r"^corpus\.source: .*no document left"):
        prepare(config(only, tmp_path / "cache"))


def test_one_text_in_many_encodings_is_one_document(tmp_path: Path) -> None:
    text = "Größe, Straße, Äpfel und schöne Grüße aus Köln an der Weser.\n" * 10
    root = tmp_path / "d"
    root.mkdir()
    encodings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1")
    for encoding in encodings:
        (root / f"{encoding}.txt").write_bytes(text.encode(encoding))
    (root / "crlf.txt").write_bytes(text.replace("\n", "\r\n").encode())
    (root / "other.txt").write_text(made_up_text(1, 100))
    corpus = prepare(config(root, tmp_path / "cache", "--corpus.deduplicate=exact"))
    assert corpus.manifest["documents"]["dropped"] == {"duplicate": len(encodings)}
    found = corpus.manifest["encodings"]
    assert sum(found.values()) == 8 and found.pop("utf-8") == 3
    assert {"utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"} < set(found) and "replaced" not in found


@pytest.mark.parametrize("name", ["a.md", "a.txt", "a.jsonl", "a.json", "named.txt", "named.jsonl", "named.json"])
def test_line_of_200_mb_is_dropped_within_little_memory(tmp_path: Path, name: str) -> None:
    path = tmp_path / "d" / name
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.write(b'["' if name.endswith(".json") else b'"')
        for _ in range(LINE // 1_000_000):
            file.write(b"words " * 166_667)
    named = name.startswith("named")
    source = sources.acquire(CorpusConfig(source=str(path if named else path.parent), patterns=["*"]), tmp_path)
    work = shards.shards(source)
    tracemalloc.start()
    try:
        found = [one for shard in work for one in shards.read(source, shard.parts, 1_000_000)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [type(one) for one in found] == [Dropped]
    assert "over 1 MB" in found[0].reason  # type: ignore[union-attr]
    assert peak < 20_000_000


def test_parquet_is_decoded_within_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    cells = [chr(ord("a") + i % 26) * 1_000_000 for i in range(128)]
    pq.write_table(pa.table({"text": cells}), path, use_dictionary=False, write_batch_size=1)  # in pages of 1 MB
    source = sources.acquire(CorpusConfig(source=str(path)), tmp_path)
    before = pa.total_allocated_bytes()
    found, most = 0, 0
    for shard in shards.shards(source):
        for _ in shards.read(source, shard.parts, 2_000_000):
            found, most = found + 1, max(most, pa.total_allocated_bytes() - before)
    assert found == 128 and 0 < most < 40_000_000


def test_parquet_cell_over_the_limit_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x" * 50_000_000, "one"]}), path)
    source = sources.acquire(CorpusConfig(source=str(path)), tmp_path)
    tracemalloc.start()
    try:
        found = everything(source, 1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [Dropped("a.parquet#0.0", "over 1 MB"), Document("a.parquet#0.1", "one")]
    assert peak < 20_000_000


def test_line_across_many_parts_is_not_read_by_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "PART_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'"one"\n"' + b"x" * 1_000_000 + b'"\n"two"\n')
    source = sources.acquire(CorpusConfig(source=str(path)), tmp_path)
    read = 0

    class Counted:
        """A file that counts what is read of it."""

        def __init__(self, *arguments: Any) -> None:
            self._file = open(*arguments)  # noqa: SIM115

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def readline(self, size: int) -> Any:
            nonlocal read
            line = self._file.readline(size)
            read += len(line)
            return line

    monkeypatch.setattr(json_lines, "open", Counted, raising=False)
    found = everything(source, 10_000)
    said = [one.text if isinstance(one, Document) else one.reason for one in found]
    assert sorted(said) == ["one", "over 0.01 MB", "two"]
    assert read < 5_000_000  # once by its own part, and at most a part's length by each other part


@pytest.mark.slow
def test_fewer_documents_than_processes(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    for i in range(2):
        (root / f"{i}.md").write_text(made_up_text(i, 100))
    alone = prepare(parse(flags_for(root, tmp_path / "one")))
    command = ["prepare.py", *flags_for(root, tmp_path / "three")]
    ended = launching.accelerate("cpu_2", *command, launch=("--num_processes=3",))
    assert ended.returncode == 0, ended.output
    assert tree(tmp_path / "three" / alone.digest) == tree(alone.folder)


def test_files_deleted_while_the_folder_is_listed_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "d"
    (root / "sub").mkdir(parents=True)
    for name in ("a.md", "b.md", "sub/c.md"):
        (root / name).write_text("text")
    scandir = os.scandir

    def vanishing(folder: Path) -> contextlib.AbstractContextManager[list[os.DirEntry[str]]]:
        with scandir(folder) as entries:
            found = [*entries]
        for name in ("a.md", "sub/c.md"):
            (root / name).unlink(missing_ok=True)
        if (root / "sub").is_dir():
            (root / "sub").rmdir()
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", vanishing)
    found = sources.acquire(CorpusConfig(source=str(root)), tmp_path)
    assert list(found.files) == ["b.md"]
    assert found.dropped == {
        "unreadable (No such file or directory)": ["a.md"],
        "unreadable folder (No such file or directory)": ["sub"],
    }


def test_deleted_and_changed_files_are_in_the_manifest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = shards.shards

    def later(source: SourceFiles) -> list[shards.Shard]:
        work = cut(source)
        (folder / "guide" / "01.rst").unlink()
        (folder / "guide" / "03.md").write_text("changed")
        return work

    monkeypatch.setattr(shards, "shards", later)
    manifest = prepare(config(folder, tmp_path / "cache")).manifest
    assert manifest["documents"]["kept"] == 28 and manifest["documents"]["found"] == 30
    assert manifest["dropped"] == {
        "changed while the corpus was being prepared": ["guide/03.md"],
        "unreadable (No such file or directory)": ["guide/01.rst"],
    }


def test_document_that_takes_too_long_to_clean_is_dropped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = cleaner.clean

    def slow(text: str) -> Cleaned:
        until = time.monotonic() + 30
        while "forever" in text and time.monotonic() < until:
            pass
        return clean(text)

    monkeypatch.setattr(cleaner, "clean", slow)
    monkeypatch.setattr(kept_documents, "SECONDS_PER_DOCUMENT", 0.3)
    (folder / "guide" / "slow.md").write_text("forever " * 100)
    manifest = prepare(config(folder, tmp_path / "cache")).manifest
    assert manifest["documents"]["kept"] == 30
    assert manifest["dropped"] == {"over 0.3 s to clean": ["guide/slow.md"]}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Files outside the cache, which must be unchanged after the test."""
    root = tmp_path / "outside"
    for name in ("letter.txt", "train/photo.arrow", "shards/notes.json", "documents/diary.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("mine")
    before = tree(root)
    yield root
    assert tree(root) == before


@pytest.mark.parametrize(
    "link", [".partial", ".partial/train", ".partial/documents", ".partial/shards", ".partial/x", ""]
)
def test_links_in_the_cache_are_not_followed(folder: Path, tmp_path: Path, outside: Path, link: str) -> None:
    expected = prepare(config(folder, tmp_path / "expected"))
    planted = tmp_path / "cache" / (expected.digest + link)
    planted.parent.mkdir(parents=True)
    planted.symlink_to(outside / planted.name if planted.name in ("train", "documents", "shards") else outside)
    found = prepare(config(folder, tmp_path / "cache"))
    assert not found.folder.is_symlink()
    assert tree(found.folder) == tree(expected.folder)


@pytest.mark.parametrize(
    "name", ["../../outside/letter.txt", "{outside}/letter.txt", "train/../../../outside/letter.txt"]
)
def test_shard_record_cannot_name_files_outside(folder: Path, tmp_path: Path, outside: Path, name: str) -> None:
    expected = prepare(config(folder, tmp_path / "expected", "--rows.max_length=16"))
    first = prepare(config(folder, tmp_path / "cache"))
    path = name.format(outside=outside)
    for mark in (first.folder / "shards").glob("*.json"):
        figures = json.loads(mark.read_text())
        figures["files"] = {path: {"size": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}}
        mark.write_text(json.dumps(figures))
    second = prepare(config(folder, tmp_path / "cache", "--rows.max_length=16"))
    assert tree(second.folder) == tree(expected.folder)
    assert os.stat(outside / "letter.txt").st_nlink == 1


@pytest.mark.parametrize("num_rows", [100_000, None])
def test_planted_rows_that_would_fill_the_memory_are_not_used(
    folder: Path, tmp_path: Path, num_rows: int | None
) -> None:
    """Its manifest is right: a few kilobytes of compressed rows, and as many rows as there were or as there are."""
    corpus = prepare(config(folder, tmp_path / "cache"))
    expected = tree(corpus.folder)
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    path = next((corpus.folder / "train").glob("*.arrow"))
    table = rows_of_file(path, manifest["config"]["rows"]["max_length"])
    zeros, ones = np.zeros((100_000, table.max_length), np.int32), np.ones(100_000, np.int32)
    rows.write(path, table.max_length, [RowBlock(zeros, ones, ones, 0)])
    with pa.memory_map(str(path)) as source:
        content = pa.ipc.open_stream(source).read_all()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    bomb = path.with_name("bomb")
    with pa.OSFile(str(bomb), "wb") as sink, pa.ipc.new_stream(sink, content.schema, options=options) as stream:
        stream.write_table(content)
    bomb.replace(path)
    assert path.stat().st_size < 1_000_000
    name = f"train/{path.name}"
    manifest["files"][name] = {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest["rows"]["train"] = num_rows or manifest["rows"]["train"]
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    assert tree(prepare(config(folder, tmp_path / "cache")).folder) == expected


def test_files_named_in_a_manifest_are_never_deleted(folder: Path, tmp_path: Path, outside: Path) -> None:
    corpus = prepare(config(folder, tmp_path / "cache"))
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    manifest["files"]["../../outside/letter.txt"] = {"size": 1, "sha256": ""}
    manifest["shards"] = ["../../../outside/documents/diary"]
    (corpus.folder / "manifest.json").write_text(json.dumps(manifest))
    again = prepare(config(folder, tmp_path / "cache"))
    assert again.folder == corpus.folder and len(list(PreparedCorpus(again.folder).documents())) == 30


def test_lfs_filters_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, remote = tmp_path / "work", tmp_path / "remote.git"
    work.mkdir()
    run_git(work, "init", "--quiet")
    (work / ".gitattributes").write_text("*.md filter=lfs diff=lfs merge=lfs -text\n")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    (work / "a.md").write_text(pointer)
    run_git(work, "add", "--all")
    run_git(work, "commit", "--quiet", "--message=large")
    run_git(tmp_path, "clone", "--quiet", "--bare", str(work), str(remote))
    filters = "".join(f"\t{name} = touch {tmp_path}/ran-{name}; cat\n" for name in ("smudge", "process"))
    (tmp_path / "gitconfig").write_text(f'[filter "lfs"]\n{filters}\trequired = true\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    folder = git.fetch(remote.as_uri(), ["*.md"], tmp_path / "cache") / "files"
    assert not list(tmp_path.glob("ran-*"))
    assert (folder / "a.md").read_text() == pointer


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("user:s3cret@example.org:a/b.git", "example.org:a/b.git"),
        ("user:s3cret@example.org:a.git#main", "example.org:a.git#main"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
        ("https://user:s3cret@example.org/a.git", "https://example.org/a.git"),
        ("https://s3cret@example.org:8443/a.git#main", "https://example.org:8443/a.git#main"),
        ("https://user:s3/cret@example.org/a.git", "https://example.org/a.git"),
        ("https://user:s3?cret@example.org/a.git", "https://example.org/a.git"),
        ("https://user:s3@cret@example.org/a.git", "https://example.org/a.git"),
        ("https://user:s3@cr/et@example.org/a.git", "https://example.org/a.git"),
        ("https://user:s3cret@server/a.git", "https://server/a.git"),
        ("https://user:s3cret@[::1]:80/a.git", "https://[::1]:80/a.git"),
        ("ssh://user:s3cret@example.org/a.git", "ssh://example.org/a.git"),
        ("user:s3/cr@et@example.org:a.git", "example.org:a.git"),
        ("s3://key:s3cret@bucket/folder", "s3://bucket/folder"),
        ("https://example.org/a.git?token=s3cret#main", "https://example.org/a.git#main"),
        ("https://example.org:8443/@scope/a.git", "https://example.org:8443/@scope/a.git"),
        ("https://example.org/@scope/a.git", "https://example.org/@scope/a.git"),
        ("fatal: 'https://user:s3cret@example.org/a.git' is gone", "fatal: 'https://example.org/a.git' is gone"),
        ("docs/a?b.md", "docs/a?b.md"),
        ("C:/docs", "C:/docs"),
    ],
)
def test_passwords_are_removed_from_any_form_of_address(address: str, shown: str) -> None:
    assert without_credentials(address) == shown


def test_credentials_are_removed_from_every_key() -> None:
    """Whatever its name: the value decides."""
    address = "https://user:s3cret@example.org/a.git"
    keys = ("corpus.sources.a.source", "corpus.sources.b.source", "model.name_or_path")
    more = [f"--checkpoint.resume={address}", "--model.overrides={note: 'https://user:s3cret@example.org/a.git'}"]
    config = parse([*(f"--{key}={address}" for key in keys), *more, "--tokenizer.train_vocab_size=500"])
    text = to_yaml(to_dict(config_without_credentials(config)))
    assert "s3cret" not in text
    assert text.count("https://example.org/a.git") == len(keys) + 2
    assert to_yaml(to_dict(config)).count("s3cret") == len(keys) + 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the system does not end a process with its parent")
def test_killed_fetch_leaves_no_process_and_no_password(tmp_path: Path) -> None:
    """The server answers nothing, so git waits. A later run clears what is left."""
    cache = tmp_path / "cache"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        address = f"https://user:s3cret@127.0.0.1:{server.getsockname()[1]}/a.git"
        flags = [*flags_for(tmp_path, cache)[1:], f"--corpus.source={address}"]
        process = subprocess.Popen(
            [sys.executable, "mlm_dist/prepare.py", *flags], cwd=launching.ROOT, env=launching.environment()
        )
        connection, _ = server.accept()
        with connection:
            children = psutil.Process(process.pid).children(recursive=True)
            assert any(child.name().startswith("git") for child in children)
            process.kill()
            process.wait()
        # git's own process for the connection lives until the server answers, or for a minute.
        gone, alive = psutil.wait_procs(children, timeout=30)
        assert gone and not alive
    left = [path for path in cache.rglob("*") if path.is_file()]
    assert left, "the fetch had not begun"
    assert not [path for path in left if b"s3cret" in path.read_bytes()]
    ended = launching.python("prepare.py", *flags)
    assert ended.returncode == 2 and "cannot fetch https://127.0.0.1" in ended.stderr
    assert "s3cret" not in ended.output
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_credentials_are_neither_printed_nor_in_the_manifest(tmp_path: Path) -> None:
    work, remote = tmp_path / "work", tmp_path / "remote.git"
    work.mkdir()
    run_git(work, "init", "--quiet")
    for i in range(4):
        (work / f"{i}.md").write_text(made_up_text(i, 100))
    run_git(work, "add", "--all")
    run_git(work, "commit", "--quiet", "--message=documents")
    run_git(tmp_path, "clone", "--quiet", "--bare", str(work), str(remote))
    address = "https://user:s3cret@example.org/a.git"
    (tmp_path / "gitconfig").write_text(f'[url "{remote.as_uri()}"]\n\tinsteadOf = https://example.org/a.git\n')
    flags = [*flags_for(tmp_path, tmp_path / "cache")[1:], f"--corpus.source={address}"]
    ended = launching.python("prepare.py", *flags, GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))
    assert ended.returncode == 0, ended.output
    assert "https://example.org/a.git" in ended.stdout and "s3cret" not in ended.output
    for path in (tmp_path / "cache").rglob("*"):
        assert "s3cret" not in str(path)
        assert not path.is_file() or b"s3cret" not in path.read_bytes()
