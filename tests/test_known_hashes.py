"""Hashes that are remembered: a file is read again if anything says that it may have changed, and only then."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from making import made_up_prose
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import known_hashes
from mlm_dist.corpus.known_hashes import FOLDER, KnownHashes
from mlm_dist.files import sha256_of

LONG_AGO = 1_600_000_000_000_000_000


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to hash them."""
    names: list[str] = []

    def counted(path: str) -> str:
        names.append(os.path.basename(path))
        return sha256_of(path)

    monkeypatch.setattr(known_hashes, "sha256_of", counted)
    return names


def write(path: Path, content: str, time: int = LONG_AGO) -> None:
    path.write_text(content, "utf-8")
    os.utime(path, ns=(time, time))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    (tmp_path / "docs").mkdir()
    for name in ("a", "b", "c"):
        write(tmp_path / "docs" / name, f"content of {name}")
    return tmp_path / "docs"


def known(folder: Path) -> KnownHashes:
    return KnownHashes.of_source(folder, folder.parent / "cache", "docs", ["*"])


def hashes(folder: Path, *names: str) -> list[str]:
    found = known(folder).hash(names or ("a", "b", "c"))
    assert not any(isinstance(one, OSError) for one in found)
    return [one[1] for one in found if not isinstance(one, OSError)]


def test_files_that_have_not_changed_are_read_once(folder: Path, read: list[str]) -> None:
    expected = [hashlib.sha256(f"content of {name}".encode()).hexdigest() for name in "abc"]
    assert hashes(folder) == expected and sorted(read) == ["a", "b", "c"]
    assert hashes(folder) == expected and len(read) == 3
    write(folder / "d", "more")
    assert hashes(folder, "a", "b", "d") == [*expected[:2], hashlib.sha256(b"more").hexdigest()]
    assert read[3:] == ["d"]
    assert len(known(folder).hash(["c"])) == 1 and read[4:] == ["c"], "only the files of the last time are known"


def grow(path: Path) -> None:
    write(path, "longer than before")


def touch(path: Path) -> None:
    write(path, "CONTENT OF B", LONG_AGO + 1)


def replace(path: Path) -> None:
    write(path.with_name("new"), "CONTENT OF B")
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [grow, touch, replace])
def test_file_of_another_size_time_or_inode_is_read_again(
    change: Callable[[Path], None], folder: Path, read: list[str]
) -> None:
    hashes(folder)
    change(folder / "b")
    found = hashes(folder)
    assert read[3:] == ["b"]
    assert found[1] == hashlib.sha256((folder / "b").read_bytes()).hexdigest()


def test_file_that_changed_just_now_is_read_again(folder: Path, read: list[str]) -> None:
    """A disk may give the next change the same time."""
    (folder / "b").write_text("content of b")
    hashes(folder)
    hashes(folder)
    assert sorted(read) == ["a", "b", "b", "c"]


def test_file_that_cannot_be_read_is_not_known(folder: Path, read: list[str]) -> None:
    (folder / "b").unlink()
    for _ in range(2):
        _, missing, _ = known(folder).hash(["a", "b", "c"])
        assert isinstance(missing, OSError) and missing.errno == errno.ENOENT
    write(folder / "b", "content of b")
    hashes(folder)
    assert sorted(read) == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b"no table", b"PAR1" + bytes(100) + b"PAR1"])
def test_damaged_table_costs_time_only(content: bytes, folder: Path, read: list[str]) -> None:
    expected = hashes(folder)
    (table,) = (folder.parent / "cache" / FOLDER).iterdir()
    table.write_bytes(content)
    assert hashes(folder) == expected and len(read) == 6
    assert hashes(folder) == expected and len(read) == 6, "it is written again"


def test_table_that_cannot_be_written_costs_time_only(folder: Path, read: list[str]) -> None:
    (folder.parent / "cache" / FOLDER).write_text("no folder")
    assert hashes(folder) == hashes(folder) and len(read) == 6


def test_names_that_are_not_utf_8_are_known(folder: Path, read: list[str]) -> None:
    name = os.fsdecode(b"caf\xe9")
    write(folder / name, "text")
    assert hashes(folder, name) == hashes(folder, name) and len(read) == 1


def test_two_lists_of_one_folder_do_not_disturb_each_other(folder: Path, read: list[str]) -> None:
    cache = folder.parent / "cache"
    for _ in range(2):
        for name in ("a", "b"):
            KnownHashes.of_source(folder, cache, str(folder / name), []).hash([name])
    assert sorted(read) == ["a", "b"]


def test_second_start_on_a_prepared_corpus_reads_no_file(tmp_path: Path, read: list[str]) -> None:
    source, cache = tmp_path / "docs", tmp_path / "cache"
    source.mkdir()
    for i in range(20):
        write(source / f"{i}.txt", made_up_prose(i, 30))
    flags = [f"--corpus.source={source}", f"--corpus.cache_dir={cache}", "--tokenizer.train_vocab_size=300"]
    config = parse([*flags, "--corpus.validation_fraction=0.2"])
    corpus = prepare(config)
    read.clear()
    assert prepare(config).digest == corpus.digest and read == []
    rows = next((corpus.folder / "train").glob("*.arrow"))
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    prepare(config)
    assert rows.name in read and rows.read_bytes() != bytes(content), "damage is noticed, and repaired"


def test_file_that_was_looked_at_is_not_looked_at_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hashes(folder)
    states = {name: known_hashes.file_state(os.stat(folder / name)) for name in ("a", "b", "c")}
    write(folder / "b", "longer than before")
    looked_at: list[str] = []
    monkeypatch.setattr(os, "stat", looked_at.append)
    found = known(folder).hash(["a", "b", "c"], states)
    assert [one[1] for one in found if not isinstance(one, OSError)] == expected and not looked_at
    monkeypatch.undo()
    assert (
        known(folder).hash(["a", "b", "c"], states | {"b": known_hashes.file_state(os.stat(folder / "b"))})[1]
        != found[1]
    )
