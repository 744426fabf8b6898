"""Sources: which files are read, which are dropped and why, and what a digest depends on."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import run_git
from pathspec import GitIgnoreSpec
from reading import LIMIT, everything

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import shards, sources
from mlm_dist.corpus.readers import READERS, Document, DocumentReader, Dropped, Part, ReadSettings, RecordsReader
from mlm_dist.corpus.readers.compression import content_suffix
from mlm_dist.corpus.readers.protocol import record
from mlm_dist.corpus.sources import SourceFiles, git
from mlm_dist.corpus.sources.matching_files import Patterns
from mlm_dist.corpus.sources.source_files import one_of_each_suffix
from mlm_dist.errors import CorpusError, UserError


def acquire(source: Path | str, cache: Path, *patterns: str) -> SourceFiles:
    """The source of that name."""
    config = CorpusConfig(source=str(source), cache_dir=str(cache))
    if patterns:
        config = CorpusConfig(source=str(source), cache_dir=str(cache), patterns=list(patterns))
    return sources.acquire(config, cache)


def write(path: Path, content: str | bytes = "text") -> Path:
    """Write a file and make the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def texts(source: SourceFiles) -> list[str]:
    """All documents; fails if something is dropped."""
    found = everything(source)
    assert all(isinstance(one, Document) for one in found), found
    return [one.text for one in found if isinstance(one, Document)]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's permission to read everything, if the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for path in sorted(folder.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755)


def test_folder_gives_the_files_that_match(tmp_path: Path) -> None:
    for name in ("b.md", "a.txt", "sub/deep/c.rst", "code.py", "sub/c.MD", "d.markdown", ".git/HEAD.md"):
        write(tmp_path / "d" / name, name)
    found = acquire(tmp_path / "d", tmp_path)
    assert list(found.files) == ["a.txt", "b.md", "d.markdown", "sub/c.MD", "sub/deep/c.rst"]
    assert (found.kind, found.commit, found.records, found.dropped) == ("folder", None, False, {})
    assert found.unmatched == {".py": 1}
    assert sorted(texts(found)) == ["a.txt", "b.md", "d.markdown", "sub/c.MD", "sub/deep/c.rst"]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*.md"], ["a.md", "old/b.md", "sub/c.md"]),
        (["/*.md"], ["a.md"]),
        (["sub/"], ["sub/c.md", "sub/d.py"]),
        (["*.md", "!old/**"], ["a.md", "sub/c.md"]),
        (["**/*.py", "a.*"], ["a.md", "sub/d.py"]),
    ],
)
def test_patterns_are_those_of_gitignore(tmp_path: Path, patterns: list[str], expected: list[str]) -> None:
    for name in ("a.md", "old/b.md", "sub/c.md", "sub/d.py"):
        write(tmp_path / "d" / name)
    assert list(acquire(tmp_path / "d", tmp_path, *patterns).files) == expected


@pytest.mark.parametrize("pattern", ["**/*.md", "*.MD", "Guide/*.Md"])
def test_patterns_ignore_the_case_of_letters(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "d" / "guide" / "README.MD")
    assert list(acquire(tmp_path / "d", tmp_path, pattern).files) == ["guide/README.MD"]


def test_files_that_match_no_pattern_are_counted_by_suffix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a.txt", "b.md", "sub/c.MD", "d.PNG", "Makefile", "e.tar.gz"):
        write(tmp_path / "d" / name)
    found = acquire(tmp_path / "d", tmp_path, "*.txt")
    assert found.unmatched == {".md": 2, ".gz": 1, ".png": 1, "Makefile": 1}
    assert "2 .md not matched by corpus.patterns; add **/*.md to read them" in caplog.text
    assert "1 .gz, 1 .png, 1 Makefile" in caplog.text


def test_source_without_a_match_says_what_it_has(tmp_path: Path) -> None:
    for name in ("a.html", "b.html", "c.css"):
        write(tmp_path / "d" / name)
    with pytest.raises(CorpusError, match=r"it has 2 \.html, 1 \.css"):
        acquire(tmp_path / "d", tmp_path)


def test_lfs_pointers_and_missing_submodules_are_named(tmp_path: Path) -> None:
    root = tmp_path / "d"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 5\n"
    write(root / "large.md", pointer)
    write(root / "small.md", "small")
    write(root / "about.md", f"A pointer looks like this: {pointer}")
    write(root / "there" / "c.md", "there")
    (root / "away").mkdir()
    modules = "".join(f'[submodule "{name}"]\n\tpath = {name}\n\turl = u\n' for name in ("there", "away", "gone"))
    write(root / ".gitmodules", modules)
    for path in root.glob("*.md"):
        os.utime(path, (1e9, 1e9))
    for _ in range(2):  # the second time, hashes of the documents are known
        found = acquire(root, tmp_path)
        assert list(found.files) == ["about.md", "small.md", "there/c.md"]
        assert found.dropped == {
            "Git LFS pointer (git lfs pull fetches the file)": ["large.md"],
            "submodule that is not checked out": ["away", "gone"],
        }


NAMES = st.lists(
    st.builds(
        str.__add__,
        st.sampled_from(["", "p/", ".h/", "q.md/"]),
        st.sampled_from(
            ["a", ".md", "b.md", "x.MD", "README", "c.md.gz", "..md", "d.", "e.txt", ".gz", "n\n.md", "ü.md", "u.md~"]
        ),
    ),
    max_size=8,
)


@settings(deadline=None, max_examples=200)
@given(NAMES)
def test_one_file_of_each_suffix_is_found(names: list[str]) -> None:
    found = one_of_each_suffix(names)
    assert found.keys() == {content_suffix(name) for name in names}
    assert all(content_suffix(name) == suffix and name in names for suffix, name in found.items())


@settings(deadline=None, max_examples=200)
@given(
    NAMES, st.sampled_from([["**/*.md", "**/*.TXT"], ["**/*.md", "!**/b.md"], ["*.md"], ["**/*.md", "d/"], ["**/*.?d"]])
)
def test_patterns_match_as_in_a_gitignore(names: list[str], lines: list[str]) -> None:
    expected = GitIgnoreSpec.from_lines(line.lower() for line in lines)
    for name in names:
        assert Patterns(lines).match(name) == expected.match_file(name.replace("\n", " ").lower())


def test_links_are_dropped_and_never_followed(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside" / "secret.md")
    root = tmp_path / "d"
    write(root / "a.md")
    (root / "link.md").symlink_to(outside)
    (root / "dangling.md").symlink_to("nowhere")
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "elsewhere").symlink_to(outside.parent, target_is_directory=True)
    (root / "link.py").symlink_to(outside)
    found = acquire(root, tmp_path)
    assert list(found.files) == ["a.md"]
    assert found.dropped == {"symbolic link": ["dangling.md", "elsewhere", "link.md", "loop"]}


def test_folder_may_be_named_by_a_link(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.md")
    (tmp_path / "link").symlink_to("d")
    assert acquire(tmp_path / "link", tmp_path).digest() == acquire(tmp_path / "d", tmp_path).digest()


def test_special_files_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d" / "a.md")
    monkeypatch.chdir(tmp_path / "d")  # the path of a socket must be short
    os.mkfifo("pipe.md")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.md")
        found = acquire(tmp_path / "d", tmp_path)
    assert list(found.files) == ["a.md"]
    assert found.dropped == {"not a regular file": ["pipe.md", "socket.md"]}


def test_unreadable_files_and_folders_are_dropped(open_folder: Path) -> None:
    for name in ("a.md", "closed.md", "locked/b.md"):
        write(open_folder / "d" / name)
    acquire(open_folder / "d", open_folder)  # loads the modules that only root may be able to read
    (open_folder / "d" / "closed.md").chmod(0)
    (open_folder / "d" / "locked").chmod(0)
    with unprivileged():
        found = acquire(open_folder / "d", open_folder)
    assert list(found.files) == ["a.md"]
    assert {path: reason for reason, paths in found.dropped.items() for path in paths} == {
        "closed.md": "unreadable (Permission denied)",
        "locked": "unreadable folder (Permission denied)",
    }


def test_file_that_is_deleted_after_listing_is_dropped(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.md")
    write(tmp_path / "d" / "b.md")
    found = acquire(tmp_path / "d", tmp_path)
    work = shards.shards(found)
    (tmp_path / "d" / "a.md").unlink()
    gone, there = (one for shard in work for one in shards.read(found, shard.parts, LIMIT))
    assert isinstance(gone, Dropped) and gone.id == "a.md" and "unreadable" in gone.reason
    assert isinstance(there, Document) and there.id == "b.md"


@pytest.mark.parametrize(
    "name",
    [
        b"two\nlines.md",
        b"folder\nof two lines/a.md",
        b"caf\xe9.md",
        b"\xff\xfe/a.md",
        b"back\\slash.md",
        b" .md",
        b"!#.md",
    ],
)
def test_unusual_file_names_are_read(tmp_path: Path, name: bytes) -> None:
    root = os.fsencode(tmp_path) + b"/d"
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path))
    with open(path, "wb") as file:
        file.write(b"a text")
    found = acquire(tmp_path / "d", tmp_path)
    assert list(found.files) == [os.fsdecode(name)]
    assert texts(found) == ["a text"]
    assert len(found.digest()) == 64


@pytest.mark.parametrize("name", ["c# docs", "a#-b", "#"])
def test_number_sign_in_a_folder_name_is_not_a_revision(tmp_path: Path, name: str) -> None:
    write(tmp_path / name / "a.md")
    found = acquire(tmp_path / name, tmp_path)
    assert (found.kind, list(found.files)) == ("folder", ["a.md"])


def test_folder_without_matching_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "code" / "a.py")
    for name in ("empty", "code"):
        with pytest.raises(CorpusError, match=r"corpus\.source.*corpus\.patterns"):
            acquire(tmp_path / name, tmp_path)


def test_error_counts_what_was_dropped(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.md").symlink_to("b.md")
    with pytest.raises(CorpusError, match="1 links or special files were dropped"):
        acquire(tmp_path / "d", tmp_path)


@pytest.mark.parametrize("name", ["none", "none/deeper", "none.json", "none.txt"])
def test_missing_path_is_named_in_the_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(CorpusError) as caught:
        acquire(path, tmp_path)
    assert str(path) in str(caught.value) and "corpus.source" in str(caught.value)


@pytest.mark.parametrize("name", ["~no-such-user-here/docs", "{here}/" + "x" * 300, "docs\0"])
def test_invalid_path_is_a_user_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"corpus\.source"):
        acquire(name.format(here=tmp_path), tmp_path)


def test_file_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"a \.xyz file.*\.docx.*\.json, \.jsonl.*\.parquet.*\.txt"):
        acquire(write(tmp_path / "a.xyz"), tmp_path)


def test_special_file_as_source_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(CorpusError, match="neither a file nor a folder"):
        acquire(tmp_path / "pipe.txt", tmp_path)


def test_json_list(tmp_path: Path) -> None:
    values = ["one", {"text": "two", "title": "t"}, 3, {"title": "no text"}, None, "Zwölf \U0001f600"]
    path = write(tmp_path / "docs_texts.json", json.dumps(values))
    found = acquire(path, tmp_path)
    assert (found.kind, found.records, list(found.files)) == ("file", True, ["docs_texts.json"])
    assert everything(found) == [
        Document("docs_texts.json#0", "one"),
        Document("docs_texts.json#1", "two"),
        Dropped("docs_texts.json#2", "no text"),
        Dropped("docs_texts.json#3", "no text"),
        Dropped("docs_texts.json#4", "no text"),
        Document("docs_texts.json#5", "Zwölf \U0001f600"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('["cut', "not JSON"),
        ("5", "not JSON"),
        ('{"text": "x"', "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_damaged_json_is_dropped(tmp_path: Path, content: str, reason: str) -> None:
    found = acquire(write(tmp_path / "a.json", content), tmp_path)
    assert everything(found) == [Dropped("a.json", reason)]


def test_jsonl_with_bad_lines(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}',
        b"",
        b"{broken",
        b'"two"',
        b"[1]",
        b'{"text": 5}',
        b'{"text": "caf\xc3\xa9"}\r',
        b"   ",
    ]
    found = everything(acquire(write(tmp_path / "a.jsonl", b"\n".join(lines)), tmp_path))
    assert [one.text if isinstance(one, Document) else one.reason for one in found] == [
        "one",
        "not JSON",
        "two",
        "no text",
        "no text",
        "café",
    ]
    assert len({one.id for one in found}) == len(found)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_jsonl_split_anywhere_gives_each_line_once(tmp_path: Path, newline: bytes, end: bytes) -> None:
    expected = ["", "a", "bb" * 9, "ünï", "line\nbreak", "last"]
    path = write(
        tmp_path / "a.jsonl", newline.join(json.dumps(text, ensure_ascii=False).encode() for text in expected) + end
    )
    source = acquire(path, tmp_path)
    size = path.stat().st_size
    for step in range(1, size + 2):
        parts = [Part("a.jsonl", start, min(start + step, size)) for start in range(0, size, step)]
        found = list(shards.read(source, parts, LIMIT))
        assert [one.text for one in found if isinstance(one, Document)] == expected, step
        assert len(found) == len(expected)


def test_jsonl_with_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf"one"\n"two"\n')
    assert texts(acquire(path, tmp_path)) == ["one", "two"]


def test_parquet_by_row_groups(tmp_path: Path) -> None:
    expected = [f"text {i}" for i in range(10)]
    pq.write_table(pa.table({"n": range(10), "text": expected}), tmp_path / "a.parquet", row_group_size=3)
    source = acquire(tmp_path / "a.parquet", tmp_path)
    assert texts(source) == expected
    assert [(part.start, part.stop) for shard in shards.shards(source) for part in shard.parts] == [
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
    ]
    assert len({one.id for one in everything(source)}) == 10


def test_parquet_with_nulls_and_other_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", None, ""]}), tmp_path / "a.parquet")
    found = everything(acquire(tmp_path / "a.parquet", tmp_path))
    assert [one.text if isinstance(one, Document) else one.reason for one in found] == ["one", "no text", ""]
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    assert {type(one) for one in everything(acquire(tmp_path / "b.parquet", tmp_path))} == {Dropped}
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert everything(acquire(tmp_path / "c.parquet", tmp_path)) == []


def test_unusable_parquet_files_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "d" / "a.parquet")
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "d" / "b.parquet")
    found = everything(acquire(tmp_path / "d", tmp_path, "*.parquet"))
    assert found == [Dropped("a.parquet", "no 'text' column"), Document("b.parquet#0.0", "x")]
    write(tmp_path / "b.parquet", b"no parquet at all")
    assert everything(acquire(tmp_path / "b.parquet", tmp_path)) == [Dropped("b.parquet", "not a parquet file")]
    write(tmp_path / "c.parquet", b"")
    assert everything(acquire(tmp_path / "c.parquet", tmp_path)) == [Dropped("c.parquet", "not a parquet file")]


def test_parquet_with_damaged_pages_is_dropped_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"some text {i}" for i in range(1000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    (found,) = everything(acquire(path, tmp_path))
    assert isinstance(found, Dropped) and found.id == "a.parquet"
    assert found.reason and "None" not in found.reason


def test_text_file_in_a_folder_is_one_document(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.txt", "one\n\ntwo\n")
    assert texts(acquire(tmp_path / "d", tmp_path)) == ["one\n\ntwo\n"]


def test_python_docs_need_no_network(tmp_path: Path) -> None:
    source = acquire("python-docs", tmp_path)
    found = texts(source)
    assert source.kind == "python-docs" and source.records
    assert len(found) > 300 and sum(map(len, found)) > 1_000_000
    path = source.root / next(iter(source.files))
    before = path.stat().st_mtime_ns
    assert acquire("python-docs", tmp_path).digest() == source.digest() and path.stat().st_mtime_ns == before


def test_hub_datasets_with_similar_names_are_cached_separately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Hub is replaced by two functions, because tests have no network."""
    fetched = []

    def load_dataset(name: str, split: str, revision: str) -> datasets.Dataset:
        fetched.append((name, split, revision))
        return datasets.Dataset.from_dict({"text": [name], "other": [1]})

    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: SimpleNamespace(sha=f"commit of {name}")
    )
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    names = ["user/my_data", "user/my-data", "user-my/data"]
    for name in names + names:  # the second time from the cache
        source = acquire(name, tmp_path)
        assert (source.kind, source.commit, texts(source)) == ("hub", f"commit of {name}", [name])
    assert fetched == [(name, "train", f"commit of {name}") for name in names]


def test_digest_does_not_depend_on_location_and_times(folder: Path, tmp_path: Path) -> None:
    first = acquire(folder, tmp_path)
    shutil.copytree(folder, tmp_path / "else where" / "copy", copy_function=shutil.copyfile)
    moved = acquire(tmp_path / "else where" / "copy", tmp_path)
    assert moved.root != first.root and moved.digest() == first.digest()
    os.utime(folder / "guide" / "01.rst", (1, 1))
    (folder / "guide" / "01.rst").chmod(0o600)
    assert acquire(f"{folder}/../{folder.name}/", tmp_path).digest() == first.digest()


def test_digest_depends_on_names_contents_and_kind(tmp_path: Path) -> None:
    def digest(**files: str) -> str:
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        for name, content in files.items():
            write(tmp_path / "d" / f"{name}.txt", content)
        return acquire(tmp_path / "d", tmp_path).digest()

    found = [
        digest(a="1", b="2"),
        digest(a="2", b="1"),
        digest(a="1", c="2"),
        digest(a="1"),
        digest(a="1", b="2", c="3"),
    ]
    found.append(acquire(write(tmp_path / "a.txt", "1"), tmp_path).digest())  # the same file, but many documents
    assert len(set(found)) == len(found)
    assert digest(b="2", a="1") == found[0]


def test_work_tree_is_a_folder_with_a_commit(tmp_path: Path) -> None:
    root = tmp_path / "d"
    write(root / "a.md")
    run_git(root, "init", "--quiet")
    assert acquire(root, tmp_path).commit is None  # there is no commit yet
    run_git(root, "add", ".")
    run_git(root, "commit", "--quiet", "--message=first")
    found = acquire(root, tmp_path)
    head = run_git(root, "rev-parse", "HEAD")
    assert (found.kind, found.commit, list(found.files)) == ("folder", head, ["a.md"])
    assert git.commit_of(tmp_path) is None


def test_work_tree_is_read_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d" / "a.md")
    write(tmp_path / "d" / ".git" / "HEAD", "ref: refs/heads/main\n")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    found = acquire(tmp_path / "d", tmp_path)
    assert (list(found.files), found.commit) == (["a.md"], None)


def test_folders_without_documents_of_the_user_are_dropped(tmp_path: Path) -> None:
    root = tmp_path / "project"
    write(root / "guide.md"), write(root / "docs" / "a.md"), write(root / ".hidden.md")
    expected = ["." + "hidden.md", "docs/a.md", "guide.md"]
    for folder in (".github", "docs/.cache", "node_modules/x", "docs/node_modules"):
        write(root / folder / "README.md")
    write(root / "env" / "pyvenv.cfg"), write(root / "env" / "lib" / "NOTES.md")
    for run in ("runs/one", "docs/run"):
        (
            write(root / run / "metrics.jsonl"),
            write(root / run / "config.yaml"),
            write(root / run / "model" / "README.md"),
        )
    write(root / "cache" / "abc" / "x.md")
    found = sources.acquire(CorpusConfig(source=str(root), patterns=["*.md"]), root / "cache")
    assert list(found.files) == expected
    assert found.dropped == {
        "corpus.cache_dir": ["cache"],
        "hidden folder": [".github", "docs/.cache"],
        "installed packages": ["docs/node_modules", "node_modules"],
        "run directory": ["docs/run", "runs/one"],
        "virtual environment": ["env"],
    }
    # A hidden folder is read if the user names it.
    shutil.move(root, tmp_path / ".project")
    assert list(sources.acquire(CorpusConfig(source=str(tmp_path / ".project")), tmp_path).files)


LONG = "x" * LIMIT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", f'"one"\n"{LONG}"\n"two"\n'),
        ("a.jsonl", f'"one"\n"{LONG * 3}"\n"two"\n'),
        ("a.json", json.dumps(["one", LONG + "y", "two"])),
    ],
)
def test_document_over_the_limit_is_dropped_and_the_rest_is_read(tmp_path: Path, name: str, content: str) -> None:
    found = everything(acquire(write(tmp_path / name, content), tmp_path))
    said = [one.text if isinstance(one, Document) else one.reason for one in found]
    assert sorted(said) == ["one", "over 1 MB", "two"]


def test_file_over_the_limit_is_dropped(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.md", LONG), write(tmp_path / "d" / "b.md", LONG + "y")
    found = everything(acquire(tmp_path / "d", tmp_path, "*"))
    assert sorted(found, key=lambda one: one.id) == [
        Document("a.md", LONG, markup="markdown"),
        Dropped("b.md", "over 1 MB"),
    ]


def test_parquet_cell_over_the_limit_is_dropped(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", LONG + "y"]}), tmp_path / "a.parquet")
    found = everything(acquire(tmp_path / "a.parquet", tmp_path))
    assert found == [Document("a.parquet#0.0", "one"), Dropped("a.parquet#0.1", "over 1 MB")]


def test_change_of_a_file_of_many_documents_stops_the_run(tmp_path: Path) -> None:
    lines = '"one"\n"two"\n'
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "a.txt", "a.parquet"):
        path = tmp_path / name
        if name != "a.parquet":
            path.write_text(json.dumps(["one", "two"]) if name == "a.json" else lines)
        said = rf"^corpus\.source: .*{name} changed while it was read; run again$"
        # Changed after listing with the same size; changed between two documents; deleted.
        for begun, change in ((False, lambda path: os.utime(path, (1, 1))), (True, os.utime), (True, os.unlink)):
            source = acquire(path, tmp_path)
            found = shards.read(source, [part for shard in shards.shards(source) for part in shard.parts], LIMIT)
            assert not begun or isinstance(next(found), Document)
            change(path)
            with pytest.raises(CorpusError, match=said):
                list(found) if begun else next(found)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
@pytest.mark.parametrize("over", [0, 1])
def test_line_of_exactly_the_limit_does_not_affect_its_neighbors(tmp_path: Path, name: str, over: int) -> None:
    quote, separator = ('"', None) if name == "a.jsonl" else ("", "\n")
    line = quote + "x" * (LIMIT - 2 * len(quote) + over) + quote
    path = write(tmp_path / name, f"{quote}one{quote}\n{line}\n{quote}two{quote}\n")
    found = everything(sources.acquire(CorpusConfig(source=str(path), separator=separator), tmp_path))
    said = sorted(one.text.strip("x") if isinstance(one, Document) else one.reason for one in found)
    assert said == sorted(["one", "over 1 MB" if over else "", "two"])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a.parquet"])
def test_limit_is_in_bytes(tmp_path: Path, name: str) -> None:
    texts = ["one", "\u00fc" * (LIMIT // 2 + 1), "two"]
    if name == "a.parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / name)
    else:
        quote = "" if name == "a.txt" else '"'
        lines = [f"{quote}{text}{quote}" for text in texts]
        write(tmp_path / name, f"[{','.join(lines)}]" if name == "a.json" else "\n".join(lines))
    separator = "\n" if name == "a.txt" else None
    found = everything(sources.acquire(CorpusConfig(source=str(tmp_path / name), separator=separator), tmp_path))
    said = [one.text if isinstance(one, Document) else one.reason for one in found]
    assert sorted(said) == ["one", "over 1 MB", "two"]


def test_json_list_larger_than_a_block(tmp_path: Path) -> None:
    expected = [("Zw\u00f6lf [] , \\" + "x" * (i % 5000)) for i in range(500)]
    path = write(tmp_path / "a.json", json.dumps(expected, indent=3) + "\n ")
    assert texts(acquire(path, tmp_path)) == expected
    write(tmp_path / "a.json", json.dumps(expected)[:-1] + " 5")
    found = everything(acquire(path, tmp_path))
    assert len(found) == 501 and found[-1] == Dropped("a.json", "not JSON")


def test_json_value_without_an_end_is_dropped(tmp_path: Path) -> None:
    found = everything(acquire(write(tmp_path / "a.json", '["one", "' + LONG * 5), tmp_path))
    assert [type(one) for one in found] == [Document, Dropped]


def test_file_that_changes_after_listing_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "d" / "a.md", "before")
    source = acquire(tmp_path / "d", tmp_path)
    path.write_text("after!")
    assert everything(source) == [Dropped("a.md", "changed while the corpus was being prepared")]


class Fruits:
    """A kind of source as another package may register it."""

    is_local: ClassVar[bool] = True

    def recognizes(self, name: str, key: str) -> bool:
        return name.startswith("fruits:")

    def fetch(self, request: sources.Request) -> sources.Fetched:
        write(request.folder / "fruits" / "list.csv", request.name.removeprefix("fruits:"))
        return sources.Fetched(request.name, request.folder / "fruits", request.patterns, files=["list.csv"])


class CommaReader(RecordsReader):
    """A reader as another package may register it."""

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        for i, text in enumerate(Path(path).read_text("utf-8").split(",")):
            yield record(f"{part.path}#{i}", text, settings)


class UpperReader(DocumentReader):
    """A reader of files of one document each."""

    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        return Document(name, data.decode().upper())


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line registers each; the registries are restored afterwards."""
    monkeypatch.setattr(sources.SOURCES, "_entries", dict(sources.SOURCES._entries))
    monkeypatch.setattr(READERS, "_entries", dict(READERS._entries))
    sources.SOURCES.add("fruits", Fruits)
    READERS.add(".csv", CommaReader)
    READERS.add(".up", UpperReader)


def test_registered_source_and_reader_are_used(tmp_path: Path, registered: None) -> None:
    assert sources.recognize("fruits:apple,pear") == "fruits" and sources.is_local("fruits:apple,pear")
    found = acquire("fruits:apple,pear", tmp_path)
    assert (found.kind, found.location, texts(found)) == ("fruits", "fruits:apple,pear", ["apple", "pear"])


def test_registered_reader_reads_folders_and_named_files(tmp_path: Path, registered: None) -> None:
    write(tmp_path / "d" / "a.csv", "one,two"), write(tmp_path / "d" / "b.up", "three")
    assert sorted(texts(acquire(tmp_path / "d", tmp_path, "*"))) == ["THREE", "one", "two"]
    assert texts(acquire(tmp_path / "d" / "a.csv", tmp_path)) == ["one", "two"]
    with pytest.raises(CorpusError, match=r"\.csv.*\.txt.*\.up"):
        acquire(write(tmp_path / "a.xyz"), tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "ftp://example.org/a.git", "{here}/none.json", "{here}/a.xyz"])
def test_error_names_the_key_of_the_source(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.xyz")
    config = CorpusConfig(source=name.format(here=tmp_path))
    with pytest.raises(CorpusError, match=r"^corpus\.sources\.other\.source: "):
        sources.acquire(config, tmp_path, "corpus.sources.other.source")


def test_concurrent_runs_write_the_embedded_documents_once(tmp_path: Path) -> None:
    """Otherwise a run would see a change of its source when another run replaces the file."""
    script = (
        "import sys; from pathlib import Path; from mlm_dist.corpus.sources import python_docs; "
        "path = python_docs.write(Path(sys.argv[1])); print(path.stat().st_mtime_ns, path.stat().st_ino)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({run.communicate()[0] for run in runs}) == 1 and not any(run.returncode for run in runs)


@pytest.mark.parametrize("name", ["a.docx", "b.adoc", "c.pdf", "a.adoc.gz"])
def test_missing_package_of_a_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    version = importlib.metadata.version

    def installed(package: str) -> str:
        if package in ("pypandoc_binary", "pypdfium2"):
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    write(tmp_path / "d" / name)
    write(tmp_path / "d" / "z.md.gz")
    with pytest.raises(
        CorpusError, match=rf"such as {name} need the package py\w+; run pip install 'mlm_dist\[formats\]'"
    ):
        acquire(tmp_path / "d", tmp_path, "*")
    assert list(acquire(tmp_path / "d", tmp_path, "*.md.gz").files) == ["z.md.gz"]
