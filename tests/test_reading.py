"""Reading: text in unknown encodings is decoded, and shards do not depend on the process."""

from __future__ import annotations

import codecs
import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import shards, sources
from mlm_dist.corpus.readers import Document, Dropped, Part, json_lines, text_encoding
from mlm_dist.corpus.sources import SourceFiles, source_files

GERMAN = (
    "Über die Straße läuft ein Fuchs, während die Gäste draußen Äpfel und Nüsse essen. Später hören sie, daß der "
    "Müller aus dem nächsten Dörfchen große Körbe voller Süßigkeiten mitbringt, und alle freuen sich."
)
FRENCH = (
    "Le café était fermé, mais la boulangère a gardé trois pâtisseries près de la fenêtre. Où est passé le garçon "
    "qui préférait les crêpes à la crème fraîche ? Il s'est arrêté au marché, là où l'été dernier on vendait "
    "des pêches."
)


def acquire(root: Path) -> SourceFiles:
    """A folder of files of any kind."""
    return sources.acquire(CorpusConfig(source=str(root), patterns=["*"]), root.parent)


def read(path: Path, content: bytes) -> list[Document | Dropped]:
    """What a folder with one such file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    source = acquire(path.parent)
    return [found for shard in shards.shards(source) for found in shards.read(source, shard.parts, 1_000_000)]


@pytest.mark.parametrize("text", ["plain", "", "Größe \U0001f600 日本語", "a\r\nb\tc\n", "\u200bzero width", "e\u0301"])
def test_utf8_is_decoded_exactly(text: str) -> None:
    assert text_encoding.decode(text.encode()) == (text, "utf-8")


def test_utf8_with_byte_order_mark() -> None:
    assert text_encoding.decode(b"\xef\xbb\xbf" + "Größe".encode()) == ("Größe", "utf-8-sig")
    assert text_encoding.decode(b"\xef\xbb\xbf") == ("", "utf-8-sig")


@pytest.mark.parametrize(("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf16_with_byte_order_mark(mark: bytes, encoding: str) -> None:
    assert text_encoding.decode(mark + "Größe 日本語 \U0001f600\n".encode(encoding)) == (
        "Größe 日本語 \U0001f600\n",
        "utf-16",
    )


@pytest.mark.parametrize("text", [GERMAN, FRENCH])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_western_text_in_single_byte_encodings(text: str, encoding: str) -> None:
    assert text_encoding.decode(text.encode(encoding))[0] == text


def test_encoding_is_detected_in_a_sample_and_used_for_the_whole_text() -> None:
    text = (GERMAN + "\n") * 1000
    found, encoding = text_encoding.decode(text.encode("latin-1"))
    assert found == text and encoding not in ("utf-8", "replaced")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_decoded_to_some_text(seed: int) -> None:
    data = random.Random(seed).randbytes(500)
    text, encoding = text_encoding.decode(data)
    assert text and encoding
    assert text_encoding.decode(data) == (text, encoding)
    text.encode("utf-8")


def test_undecodable_bytes_are_replaced_and_reported() -> None:
    found, encoding = text_encoding.decode(random.Random(1).randbytes(500))
    assert encoding == "replaced" and "\N{REPLACEMENT CHARACTER}" in found


@pytest.mark.parametrize("content", [b"\xff\xfea", b"\xfe\xff\xd8\x00", b"\xef\xbb\xbf\xff"])
def test_byte_order_mark_before_other_bytes(content: bytes) -> None:
    text, encoding = text_encoding.decode(content)
    assert isinstance(text, str) and encoding not in ("utf-16", "utf-8-sig")


@pytest.mark.parametrize("name", ["a.md", "a.json"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_encoding_is_detected_where_the_text_is_not_ascii(tmp_path: Path, name: str, encoding: str) -> None:
    head, tail = "plain words. " * 30_000, GERMAN * 20
    texts = [head, tail, "plain end"] if name == "a.json" else [head + tail]
    content = (json.dumps(texts, ensure_ascii=False) if name == "a.json" else texts[0]).encode(encoding)
    found = read(tmp_path / "d" / name, content)
    assert [one.text for one in found if isinstance(one, Document)] == texts
    said = {one.encoding for one in found if isinstance(one, Document)}
    assert said == {"utf-8"} if encoding == "utf-8" else not said & {"utf-8", "ascii", "replaced"}


@pytest.mark.parametrize("bad", [0, 1, 2], ids=["before", "amid", "after"])
@pytest.mark.parametrize("name", ["a.md", "a.json", "a.jsonl", "a.txt"])
def test_one_invalid_byte_affects_no_other_character_and_is_reported(tmp_path: Path, name: str, bad: int) -> None:
    texts = ["plain words. " * 30_000 + "1st: " + GERMAN, "2nd: " + GERMAN, "3rd: " + FRENCH]
    texts[bad] = texts[bad].replace(": ", ": bad ")
    if name == "a.json":
        content = json.dumps(texts, ensure_ascii=False)
    else:
        content = "\n".join(json.dumps(text, ensure_ascii=False) if name == "a.jsonl" else text for text in texts)
    path = tmp_path / "d" / name
    path.parent.mkdir()
    path.write_bytes(content.encode().replace(b"bad", b"b\xffd"))
    source = sources.acquire(
        CorpusConfig(
            source=str(path.parent if name == "a.md" else path),
            patterns=["*"],
            separator="\n" if name == "a.txt" else None,
        ),
        tmp_path,
    )
    found = [one for shard in shards.shards(source) for one in shards.read(source, shard.parts, 1_000_000)]
    texts[bad] = texts[bad].replace("bad", "b\N{REPLACEMENT CHARACTER}d")
    expected = [(text, "replaced" if i == bad else "utf-8") for i, text in enumerate(texts)]
    if name == "a.md":
        expected = [("\n".join(texts), "replaced")]
    said = [(one.text, one.encoding) for one in found if isinstance(one, Document)]
    assert sorted(said) == sorted(expected)


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize(
    ("mark", "end"), [(b"\xff\xfe", b"x"), (b"\xff\xfe", b"\x00\xd8"), (b"\xff\xfe", b"\x00\xd8x"), (b"", b"x")]
)
def test_damaged_utf16_is_not_decoded_to_zeros(tmp_path: Path, records: bool, mark: bytes, end: bytes) -> None:
    path = tmp_path / "d" / "a.txt"
    path.parent.mkdir()
    path.write_bytes(mark + (GERMAN + "!").encode("utf-16-le") + end)
    source = sources.acquire(CorpusConfig(source=str(path if records else path.parent), patterns=["*"]), tmp_path)
    (found,) = (one for shard in shards.shards(source) for one in shards.read(source, shard.parts, 1_000_000))
    assert isinstance(found, Document) and found.encoding == "replaced"
    assert found.text.rstrip("\N{REPLACEMENT CHARACTER}") == GERMAN + "!"


@pytest.mark.parametrize("mark", [codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE])
def test_utf32_with_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    content = mark + GERMAN.encode("utf-32-le" if mark == codecs.BOM_UTF32_LE else "utf-32-be")
    assert text_encoding.decode(content) == (GERMAN, "utf-32")
    assert read(tmp_path / "d" / "a.md", content) == [Document("a.md", GERMAN, "utf-32", "markdown")]


def test_file_with_zero_bytes_is_dropped_as_binary(tmp_path: Path) -> None:
    assert read(tmp_path / "d" / "a.md", b"text\0text") == [Dropped("a.md", "binary")]
    assert read(tmp_path / "d" / "a.md", b"te\0xt\0\0xt") == [Dropped("a.md", "binary")]
    assert read(tmp_path / "d" / "a.md", bytes(100)) == [Dropped("a.md", "binary")]


def test_file_in_utf16_is_not_binary(tmp_path: Path) -> None:
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        content = mark + "plain text".encode(encoding)
        assert read(tmp_path / "d" / "a.md", content) == [Document("a.md", "plain text", "utf-16", "markdown")]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_byte_order_mark_is_detected_by_its_zeros(tmp_path: Path, encoding: str) -> None:
    text = "plain text, Größe \u201cquoted\u201d"
    assert read(tmp_path / "d" / "a.md", text.encode(encoding)) == [Document("a.md", text, encoding, "markdown")]


def test_empty_file_is_an_empty_document(tmp_path: Path) -> None:
    assert read(tmp_path / "d" / "a.md", b"") == [Document("a.md", "", markup="markdown")]


def test_document_has_the_encoding_of_its_file(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "d" / "a.md", GERMAN.encode("cp1252"))
    assert isinstance(found, Document) and found.text == GERMAN and found.encoding not in ("utf-8", "replaced")


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files of all kinds, with shards so small that there are many."""
    monkeypatch.setattr(shards, "SMALL_SHARD", 1000)
    monkeypatch.setattr(json_lines, "PART_BYTES", 1000)
    root = tmp_path / "mixed"
    root.mkdir()
    for i in range(9):
        (root / f"{i}.md").write_text(made_up_text(i, 20 * i))
    (root / "empty.md").touch()
    (root / "lines.jsonl").write_text("".join(f'"{made_up_text(i, i)}"\n' for i in range(1, 60)))
    (root / "empty.jsonl").touch()
    pq.write_table(pa.table({"text": [made_up_text(i, 30) for i in range(50)]}), root / "t.parquet", row_group_size=7)
    (root / "broken.parquet").write_bytes(b"none")
    (root / "list.json").write_text('["one", "two"]')
    return root


def test_every_byte_and_row_group_is_in_exactly_one_part(mixed: Path) -> None:
    source = acquire(mixed)
    pieces: dict[str, list[tuple[int, int]]] = {}
    for part in (part for shard in shards.shards(source) for part in shard.parts):
        pieces.setdefault(part.path, []).append((part.start, part.stop))
    ends = {path: (mixed / path).stat().st_size for path in source.files} | {"t.parquet": 8, "broken.parquet": 0}
    assert len(pieces["lines.jsonl"]) > 3 and len(pieces["t.parquet"]) == 8
    for path, end in ends.items():
        if path == "empty.jsonl":
            assert path not in pieces  # nothing to read
            continue
        starts, stops = zip(*sorted(pieces[path]), strict=True)
        assert starts[0] == 0 and stops[-1] == end
        assert starts[1:] == stops[:-1]


def test_shards_are_of_similar_size(tmp_path: Path) -> None:
    with open(tmp_path / "big.jsonl", "wb") as file:
        file.truncate(2**30 - 5)  # takes no space on the disk
    (tmp_path / "small.md").write_text("small")

    def cut() -> list[shards.Shard]:
        states = {name: source_files.state(tmp_path / name) for name in ("big.jsonl", "small.md")}
        return shards.shards(
            SourceFiles("", "folder", "d", None, tmp_path, dict.fromkeys(states, ""), states, {}, {}, False)
        )

    work = cut()
    sizes = [shard.size for shard in work]
    assert len(work) == shards.NUM_SHARDS and sum(sizes) == 2**30
    assert max(sizes) < 1.5 * shards.LARGE_SHARD and min(sizes) > 0.5 * shards.LARGE_SHARD
    with open(tmp_path / "big.jsonl", "ab") as file:
        file.truncate(2**31 - 5)
    assert len(cut()) == 2 * shards.NUM_SHARDS


def test_added_removed_or_changed_file_changes_only_its_own_shard(tmp_path: Path) -> None:
    root = tmp_path / "d"
    root.mkdir()
    for i in range(200):
        (root / f"{i}.md").write_text(made_up_text(i, 3000))

    def contents() -> set[tuple[str, ...]]:
        return {tuple(part.path for part in shard.parts) for shard in shards.shards(acquire(root))}

    before = contents()
    assert len(before) == 8
    (root / "7.md").unlink()
    assert len(before - contents()) == 1
    (root / "7.md").write_text("back")
    assert contents() == before
    (root / "new.md").write_text("new")
    assert len(before - contents()) == 1


def test_shards_grow_where_there_would_be_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(100):
        (tmp_path / f"{i}.md").write_text(made_up_text(i, 300))
    monkeypatch.setattr(shards, "SMALL_SHARD", 1000)
    many = shards.shards(acquire(tmp_path))
    monkeypatch.setattr(shards, "MOST_SHARDS", 8)
    few = shards.shards(acquire(tmp_path))
    assert len(few) == 8 < len(many)
    parts = [sorted(part.path for shard in some for part in shard.parts) for some in (few, many)]
    assert parts[0] == parts[1] and len(parts[0]) == 100


def test_shards_depend_only_on_the_files(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parts(root: Path) -> list[tuple[list[Part], int]]:
        return [(shard.parts, shard.size) for shard in shards.shards(acquire(root))]

    here = parts(mixed)
    shutil.copytree(mixed, tmp_path / "elsewhere" / "copy")
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "7"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert parts(tmp_path / "elsewhere" / "copy") == here


@pytest.mark.parametrize("world_size", [1, 2, 3, 64])
def test_reading_shard_by_shard_gives_all_documents(mixed: Path, world_size: int) -> None:
    source = acquire(mixed)
    whole = list(shards.read(source, [part for shard in shards.shards(source) for part in shard.parts], 1_000_000))
    work = shards.shards(source)
    by_shard: dict[int, list[Document | Dropped]] = {}
    for rank in reversed(range(world_size)):
        for shard in range(len(work))[rank::world_size]:
            by_shard[shard] = list(shards.read(source, work[shard].parts, 1_000_000))
    assert [found for shard in range(len(work)) for found in by_shard[shard]] == whole
    assert len({found.id for found in whole}) == len(whole)
    assert sum(isinstance(found, Document) for found in whole) == 9 + 1 + 59 + 50 + 2
    assert [found for found in whole if isinstance(found, Dropped)] == [Dropped("broken.parquet", "not a parquet file")]


def test_source_without_files_has_no_documents(tmp_path: Path) -> None:
    source = SourceFiles("", "folder", "d", None, tmp_path, {}, {}, {}, {}, False)
    assert [found for shard in shards.shards(source) for found in shards.read(source, shard.parts, 1_000_000)] == []
