"""Records: files of many documents in all formats, their fields, and the keys that name them."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from reading import LIMIT, acquire, everything, said

from mlm_dist.config import CorpusConfig, SourceConfig
from mlm_dist.corpus import sources
from mlm_dist.corpus.readers import Document, Dropped
from mlm_dist.errors import ConfigError, CorpusError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_lines(records: list[Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def as_table(records: list[Any], delimiter: str) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(records[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def write_arrow(path: Path, records: list[Any], *, stream: bool) -> None:
    table = pa.Table.from_pylist(records)
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


RECORDS = [{"n": 1, "text": "one"}, {"n": 2, "text": 'two "quoted"\nlines, and more'}, {"n": 3, "text": "drei \u00fc"}]
TEXTS: list[str] = [str(record["text"]) for record in RECORDS]
WRITERS: dict[str, Callable[[Path], Any]] = {
    "a.jsonl": lambda path: write(path, as_lines(RECORDS)),
    "a.ndjson": lambda path: write(path, as_lines(RECORDS)),
    "a.JSONL": lambda path: write(path, as_lines(RECORDS)),
    "list.json": lambda path: write(path, json.dumps(RECORDS, indent=2)),
    "data.json": lambda path: write(path, json.dumps({"version": "1", "data": RECORDS, "n": 3})),
    "named.json": lambda path: write(path, json.dumps({"meta": {"a": [1]}, "articles": RECORDS}, indent=1)),
    "tags.json": lambda path: write(path, json.dumps({"tags": ["x"], "empty": [], "data": RECORDS})),
    "lines.json": lambda path: write(path, as_lines(RECORDS)),
    "pretty.json": lambda path: write(path, "\n".join(json.dumps(record, indent=2) for record in RECORDS)),
    "a.csv": lambda path: write(path, as_table(RECORDS, ",")),
    "semicolon.csv": lambda path: write(path, as_table(RECORDS, ";")),
    "bar.csv": lambda path: write(path, as_table(RECORDS, "|")),
    "mark.csv": lambda path: write(path, b"\xef\xbb\xbf" + as_table(RECORDS, ",").encode()),
    "utf16.csv": lambda path: write(path, as_table(RECORDS, ",").encode("utf-16")),
    "a.tsv": lambda path: write(path, as_table(RECORDS, "\t")),
    "utf16.jsonl": lambda path: write(path, as_lines(RECORDS).encode("utf-16")),
    "utf16.json": lambda path: write(path, json.dumps(RECORDS, ensure_ascii=False).encode("utf-16")),
    "a.parquet": lambda path: pq.write_table(pa.Table.from_pylist(RECORDS), path),
    "stream.arrow": lambda path: write_arrow(path, RECORDS, stream=True),
    "file.arrow": lambda path: write_arrow(path, RECORDS, stream=False),
    "a.feather": lambda path: pyarrow.feather.write_feather(pa.Table.from_pylist(RECORDS), str(path)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_its_records(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    source = acquire(tmp_path / name, tmp_path)
    assert [text.replace("\r\n", "\n") for text in said(source)] == TEXTS
    assert len({one.id for one in everything(source)}) == 3


def compress_zst(data: bytes) -> bytes:
    compressed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return compressed


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": compress_zst,
}


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.jsonl", "utf16.jsonl", "data.json", "a.csv", "a.tsv", "stream.arrow"])
def test_compressed_records_are_read(tmp_path: Path, name: str, suffix: str) -> None:
    WRITERS[name](tmp_path / name)
    packed = write(tmp_path / (name + suffix), COMPRESS[suffix]((tmp_path / name).read_bytes()))
    assert [text.replace("\r\n", "\n") for text in said(acquire(packed, tmp_path))] == TEXTS


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_data_of_several_parts_is_read_to_its_end(tmp_path: Path, suffix: str) -> None:
    pieces = [COMPRESS[suffix](as_lines([record]).encode()) for record in RECORDS]
    assert said(acquire(write(tmp_path / f"a.jsonl{suffix}", b"".join(pieces)), tmp_path)) == TEXTS


@pytest.mark.parametrize("suffix", COMPRESS)
def test_damaged_compressed_file_keeps_what_can_be_read(tmp_path: Path, suffix: str) -> None:
    data = COMPRESS[suffix](as_lines([{"text": f"{i} {'x' * 50}"} for i in range(20_000)]).encode())
    found = everything(acquire(write(tmp_path / f"a.jsonl{suffix}", data[: len(data) // 2]), tmp_path))
    assert isinstance(found[-1], Dropped) and found[-1].id == f"a.jsonl{suffix}"
    assert "unreadable" in found[-1].reason or "not JSON" in found[-1].reason
    none = everything(acquire(write(tmp_path / f"b.jsonl{suffix}", b"no compressed data"), tmp_path))
    assert [type(one) for one in none] == [Dropped]


def test_compressed_document_of_a_folder_has_the_markup_of_its_content(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.md.gz", gzip.compress(b"# A title"))
    write(tmp_path / "d" / "b.md.gz", gzip.compress(b"x" * (LIMIT + 1)))
    found = everything(acquire(tmp_path / "d", tmp_path, patterns=["*.gz"]))
    assert sorted(found, key=lambda one: str(one.id)) == [
        Document("a.md.gz", "# A title", markup="markdown"),
        Dropped("b.md.gz", "over 1 MB"),
    ]


BOMB = """
import resource, sys
from pathlib import Path
from mlm_dist.config import SourceConfig
from mlm_dist.corpus import shards, sources
def read(name):
    source = sources.acquire(SourceConfig(source=name), Path(sys.argv[1], "cache"))
    return [one for shard in shards.shards(source) for one in shards.read(source, shard.parts, 1_000_000)]
read(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = read(sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, [one.reason for one in found])
"""


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt"])
def test_compressed_bomb_does_not_fill_the_memory(tmp_path: Path, name: str) -> None:
    small = write(tmp_path / f"small.{name}.gz", gzip.compress(b'"small"'))
    bomb = write(tmp_path / f"{name}.gz", gzip.compress(b'"' + b"x" * 400_000_000, 1))
    assert bomb.stat().st_size < 4_000_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(tmp_path), str(small), str(bomb)], capture_output=True, text=True, check=True
    )
    kilobytes, reasons = done.stdout.split(" ", 1)
    unit = 1 if sys.platform != "darwin" else 1024
    assert int(kilobytes) // unit < 150_000 and "1 MB" in reasons, done.stdout
    assert resource is not None


# --- fields ---


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "arrow"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["body"], "the body"),
        (["page.body"], "nested"),
        (["title", "page.body"], "a title\n\nnested"),
        (["page.body", "title"], "nested\n\na title"),
        (["a.b"], "dotted"),
        (["sections.text"], "first\n\nsecond"),
        (["lines"], "l1\n\nl2"),
        (["title", "empty", "body"], "a title\n\nthe body"),
    ],
)
def test_text_names_the_fields(tmp_path: Path, suffix: str, fields: list[str], expected: str) -> None:
    record = {
        "title": "a title",
        "body": "the body",
        "empty": "",
        "page": {"body": "nested", "n": 1},
        "a.b": "dotted",
        "sections": [{"text": "first"}, {"text": "second"}],
        "lines": ["l1", "l2"],
    }
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist([record]), path)
    elif suffix == "arrow":
        write_arrow(path, [record], stream=True)
    else:
        write(path, as_lines([record]) if suffix == "jsonl" else json.dumps([record]))
    assert said(acquire(path, tmp_path, text=fields)) == [expected]


@pytest.mark.parametrize("name", [name for name in WRITERS if "utf16" not in name])
def test_field_that_no_record_has_is_refused_with_the_fields_there_are(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(
        CorpusError, match=r"^corpus\.text: no record of .* has the field body; its fields are n, text;"
    ):
        acquire(tmp_path / name, tmp_path, text=["body"])
    with pytest.raises(CorpusError, match="has the field title"):
        acquire(tmp_path / name, tmp_path, text=["text", "title"])


def test_error_lists_nested_fields_and_the_key_of_its_source(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_lines([{"page": {"body": "x", "n": 1}}, {"other": [{"y": 2}]}]))
    with pytest.raises(CorpusError, match=r"its fields are page\.body, page\.n, other\.y; name one"):
        acquire(path, tmp_path)
    with pytest.raises(CorpusError, match=r"^corpus\.sources\.web\.text: "):
        sources.acquire(SourceConfig(source=str(path)), tmp_path, "corpus.sources.web.source", "web")


def test_records_without_the_field_are_dropped_if_others_have_it(tmp_path: Path) -> None:
    records = [{"title": "t"}, {"body": "one"}, {"body": None}, {"body": 5}, {"body": "two", "title": "t"}]
    path = write(tmp_path / "a.jsonl", as_lines(records))
    assert said(acquire(path, tmp_path, text=["body"])) == ["no text", "one", "no text", "no text", "two"]
    assert said(acquire(path, tmp_path, text=["title", "body"])) == ["t", "one", "no text", "no text", "t\n\ntwo"]


def test_stray_json_among_documents_is_counted_and_not_refused(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.md", "text"), write(tmp_path / "d" / "package.json", '{"name": "x"}')
    found = everything(acquire(tmp_path / "d", tmp_path, patterns=["*"]))
    assert sorted(one.id for one in found) == ["a.md", "package.json#0"]
    assert [one.reason for one in found if isinstance(one, Dropped)] == ["no text"]


def test_field_may_first_occur_late(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_lines([{"title": "t"}] * 5000 + [{"text": "here"}]))
    assert said(acquire(path, tmp_path))[-1] == "here"


# --- tables of text ---


def test_rows_that_are_no_rows_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'n,text\n1,one\n2\n\n3,a,b\n4,"two\n\n5 lines"\n5,"without an end\n6,x\n')
    assert said(acquire(path, tmp_path)) == [
        "one",
        "not as many fields as the header",
        "not as many fields as the header",
        "two\n\n5 lines",
        "a quote without an end",
    ]


def test_quotes_of_tab_separated_text_are_kept_if_they_are_not_those_of_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", 'n\ttext\n1\t"He said no\n2\tyes"\n3\t"a" or "b"\n')
    assert said(acquire(path, tmp_path)) == ['"He said no', 'yes"', '"a" or "b"']


def test_field_of_a_table_may_be_huge(tmp_path: Path) -> None:
    rows = [{"n": 1, "text": "one"}, {"n": 2, "text": "x" * 900_000}, {"n": 3, "text": "y\n" * LIMIT}]
    path = write(tmp_path / "a.csv", as_table([*rows, {"n": 4, "text": "two"}], ","))
    assert said(acquire(path, tmp_path)) == ["one", "x" * 900_000, "over 1 MB", "two"]


def test_delimiter_is_the_one_that_gives_the_wanted_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text;a,b,c\none, two;x\n")
    assert said(acquire(path, tmp_path)) == ["one, two"]


def test_dotted_column_of_a_table(tmp_path: Path) -> None:
    assert said(acquire(write(tmp_path / "a.csv", "page.body,n\none,1\n"), tmp_path, text=["page.body"])) == ["one"]


def test_table_with_a_header_alone_is_empty(tmp_path: Path) -> None:
    assert said(acquire(write(tmp_path / "a.csv", "n,text\n"), tmp_path)) == []
    assert said(acquire(write(tmp_path / "b.csv", ""), tmp_path)) == []


# --- JSON ---


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"text": "one record"}', ["one record"]),
        ('"a text"', ["a text"]),
        ('"one"\n"two"\n', ["one", "two"]),
        ('{"text": ["column", "wise"], "id": [1, 2]}', ["column", "wise"]),
        ('{"text": "one", "tags": ["a"]}\n{broken\n{"text": "two", "tags": []}\n', ["one", "not JSON", "two"]),
        ('{"a": [{"text": "x"}], "b": [{"text": "y"}]}', ["a JSON object with several lists (a, b)"]),
        ('{"data": [{"text": "one"}, ', ["not JSON"]),
        ('{"data": [{"text": "one"}]} ]', ["not JSON"]),
        ('{"data": []}', []),
        ("[]", []),
    ],
)
def test_layouts_of_json(tmp_path: Path, content: str, expected: list[str]) -> None:
    assert said(acquire(write(tmp_path / "a.json", content), tmp_path)) == expected


def test_list_in_an_object_is_read_value_by_value(tmp_path: Path) -> None:
    values = [{"text": "x" * (i % 5000)} for i in range(2000)]
    path = write(tmp_path / "a.json", json.dumps({"n": 1, "data": values, "z": {}}, indent=1))
    assert path.stat().st_size > 2 * LIMIT
    assert said(acquire(path, tmp_path)) == [value["text"] for value in values]


# --- links ---


def test_link_to_a_file_without_a_suffix_keeps_its_name(tmp_path: Path) -> None:
    blob = write(tmp_path / "blobs" / "0a1b", as_lines(RECORDS))
    (tmp_path / "obj.jsonl").symlink_to("blobs/0a1b")
    found = acquire(tmp_path / "obj.jsonl", tmp_path)
    assert list(found.files) == ["obj.jsonl"] and said(found) == TEXTS
    assert found.root == tmp_path.resolve()
    blob.write_text('"changed"\n')
    with pytest.raises(CorpusError, match=r"obj\.jsonl changed"):
        everything(found)


def test_link_without_a_suffix_is_read_as_what_it_links_to(tmp_path: Path) -> None:
    write(tmp_path / "data" / "v2.jsonl", as_lines(RECORDS))
    (tmp_path / "v").symlink_to("data/v2.jsonl")
    (tmp_path / "latest").symlink_to("v")
    found = acquire(tmp_path / "latest", tmp_path)
    assert list(found.files) == ["v2.jsonl"] and said(found) == TEXTS
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CorpusError):
        acquire(tmp_path / "loop", tmp_path)


def test_folder_of_a_linked_file_is_resolved(tmp_path: Path) -> None:
    write(tmp_path / "real" / "a.jsonl", as_lines(RECORDS))
    (tmp_path / "link").symlink_to("real")
    one, other = (acquire(tmp_path / name / "a.jsonl", tmp_path) for name in ("real", "link"))
    assert one.root == other.root and one.digest() == other.digest()


def hub_cache(tmp_path: Path) -> Path:
    """A snapshot as the Hub's client stores it."""
    repository = tmp_path / "datasets--owner--name"
    snapshot = repository / "snapshots" / "abc"
    for name, content in {"README.md": "# About", "data/train.jsonl": as_lines(RECORDS)}.items():
        blob = write(repository / "blobs" / f"hash-{len(content)}", content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot


def test_snapshot_of_the_hubs_cache_is_read_through_its_links(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path)
    secret = write(tmp_path / "secret.jsonl", as_lines([{"text": "secret"}]))
    (snapshot / "data" / "outside.jsonl").symlink_to(secret)
    found = acquire(snapshot, tmp_path)
    assert list(found.files) == ["data/train.jsonl"] and said(found) == TEXTS
    assert found.dropped == {"about the dataset": ["README.md"], "symbolic link": ["data/outside.jsonl"]}


# --- folders of records ---


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.tsv", "a.ndjson", "file.arrow", "list.json"])
def test_folder_of_records_is_found_without_patterns(tmp_path: Path, name: str) -> None:
    (tmp_path / "d" / "data").mkdir(parents=True)
    WRITERS[name](tmp_path / "d" / "data" / name)
    for other in ("README.md", "dataset_infos.json", ".gitattributes", "LICENSE.txt"):
        write(tmp_path / "d" / other, "{}")
    found = acquire(tmp_path / "d", tmp_path)
    assert list(found.files) == [f"data/{name}"] and len(said(found)) == 3
    assert found.dropped == {"about the dataset": ["LICENSE.txt", "README.md"]}


def test_compressed_records_of_a_folder_are_found(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.jsonl.gz", gzip.compress(as_lines(RECORDS).encode()))
    assert said(acquire(tmp_path / "d", tmp_path)) == TEXTS


@pytest.mark.parametrize("documents", [["guide.md"], ["README.md", "docs/index.rst"], ["a.txt"]])
def test_folder_with_documents_is_read_as_documents(tmp_path: Path, documents: list[str]) -> None:
    for name in documents:
        write(tmp_path / "d" / name, "text")
    write(tmp_path / "d" / "data" / "a.jsonl", as_lines(RECORDS))
    assert list(acquire(tmp_path / "d", tmp_path).files) == sorted(documents)


def test_project_whose_records_have_no_text_is_read_as_documents(tmp_path: Path) -> None:
    write(tmp_path / "d" / "README.md", "text"), write(tmp_path / "d" / "results.csv", "step,loss\n1,2\n")
    assert list(acquire(tmp_path / "d", tmp_path).files) == ["README.md"]


def test_patterns_come_before_records(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.jsonl", as_lines(RECORDS)), write(tmp_path / "d" / "a.html", "text")
    assert list(acquire(tmp_path / "d", tmp_path, patterns=["*.html"]).files) == ["a.html"]


def test_names_of_files_of_a_dataset_give_the_sides(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "test.jsonl", "more.jsonl"):
        write(tmp_path / "d" / "data" / name, as_lines([{"text": name}]))
    for patterns, sides in (({}, {"train", "validation", None}), ({"patterns": ["*.jsonl"]}, {None})):
        found = [one for one in everything(acquire(tmp_path / "d", tmp_path, **patterns)) if isinstance(one, Document)]
        assert {one.side for one in found} == sides
        if not patterns:
            expected = {"trai": "train", "test": "validation", "more": None}
            assert {one.text[:4]: one.side for one in found} == expected


# --- save_to_disk ---


def test_saved_dataset(tmp_path: Path) -> None:
    datasets.Dataset.from_list(RECORDS).save_to_disk(str(tmp_path / "d"), num_shards=2)
    found = acquire(tmp_path / "d", tmp_path)
    assert sorted(said(found)) == sorted(TEXTS) and len(found.files) == 2
    with pytest.raises(CorpusError, match=r"no record of .* has the field body; its fields are n, text"):
        acquire(tmp_path / "d", tmp_path, text=["body"])


def test_saved_dataset_with_splits(tmp_path: Path) -> None:
    parts = {
        name: datasets.Dataset.from_dict({"text": [f"{name} {i}" for i in range(2)]}) for name in ("train", "test")
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    found = [one for one in everything(acquire(tmp_path / "d", tmp_path)) if isinstance(one, Document)]
    assert {(one.text[:4], one.side) for one in found} == {("trai", "train"), ("test", "validation")} and len(
        found
    ) == 4
    assert said(acquire(tmp_path / "d", tmp_path, dataset_split="test")) == ["test 0", "test 1"]
    assert len(said(acquire(tmp_path / "d", tmp_path, dataset_split="train+test"))) == 4
    with pytest.raises(CorpusError, match=r"^corpus\.dataset_split: .* no split dev, only train, test"):
        acquire(tmp_path / "d", tmp_path, dataset_split="dev")


# --- the Hub ---


class Hub:
    """The Hub is replaced by two functions, because tests have no network."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int = 100) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.read = 0
        self._rows = rows
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", self._info)
        monkeypatch.setattr(datasets, "load_dataset", self._load)

    def _info(self, name: str, timeout: float, revision: str = "main") -> SimpleNamespace:
        return SimpleNamespace(sha=f"commit of {revision}")

    def _load(self, path: str, name: str | None = None, *, split: str, revision: str, streaming: bool = False) -> Any:
        self.calls.append((path, name, split, revision, streaming))
        if split not in ("train", "test"):
            raise ValueError(f"Unknown split {split!r}. Should be one of ['train', 'test'].")

        def rows() -> Any:
            for i in range(self._rows):
                self.read += 1
                yield {"body": f"{split} {i}", "page": {"text": f"nested {i}"}, "n": i, "author": f"a{i % 3}"}

        return datasets.IterableDataset.from_generator(rows) if streaming else datasets.Dataset.from_list(list(rows()))


def test_hub_dataset_with_configuration_split_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, 3)
    keys = {"dataset_config": "en", "dataset_split": "test", "revision": "v2", "text": ["body"], "group": "author"}
    for _ in range(2):  # the second time from the cache
        found = acquire("owner/name", tmp_path, **keys)
        assert said(found) == ["test 0", "test 1", "test 2"] and found.commit == "commit of v2"
    assert [one.group for one in everything(found) if isinstance(one, Document)] == ["a0", "a1", "a2"]
    assert hub.calls == [("owner/name", "en", "test", "commit of v2", False)]
    assert said(acquire("owner/name", tmp_path, text=["page.text"])) == ["nested 0", "nested 1", "nested 2"]
    assert hub.calls[1:] == [("owner/name", None, "train", "commit of main", False)]


def test_limit_of_a_hub_dataset_downloads_no_more_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, 100_000)
    found = acquire("owner/name", tmp_path, limit=3, text=["body"])
    assert said(found) == ["train 0", "train 1", "train 2"] and hub.read < 100
    assert found.digest() != acquire("owner/name", tmp_path, limit=2, text=["body"]).digest()


def test_errors_of_a_hub_dataset_name_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, 3)
    with pytest.raises(
        CorpusError, match=r"has no 'text' column, only body, page, n, author; name one .* corpus\.text"
    ):
        acquire("owner/name", tmp_path)
    with pytest.raises(CorpusError, match=r"Unknown split 'dev'.*corpus\.dataset_split"):
        acquire("owner/name", tmp_path, dataset_split="dev", text=["body"])
    with pytest.raises(CorpusError, match=r"has no 'text' column"):
        acquire("owner/name", tmp_path, limit=2)


# --- keys ---


@pytest.mark.parametrize(
    ("name", "keys", "key"),
    [
        ("a.jsonl", {"limit": 3}, "limit"),
        ("a.jsonl", {"dataset_config": "en"}, "dataset_config"),
        ("a.jsonl", {"dataset_split": "test"}, "dataset_split"),
        ("a.jsonl", {"revision": "main"}, "revision"),
        ("a.jsonl", {"separator": "---"}, "separator"),
        ("d", {"dataset_split": "test"}, "dataset_split"),
        ("d", {"text": ["body"]}, "text"),
        ("d", {"group": "author"}, "group"),
        ("d", {"split": "side"}, "split"),
        ("d", {"separator": "---"}, "separator"),
        ("python-docs", {"limit": 3}, "limit"),
    ],
)
def test_keys_without_effect_are_refused(tmp_path: Path, name: str, keys: dict[str, Any], key: str) -> None:
    write(tmp_path / "a.jsonl", as_lines(RECORDS)), write(tmp_path / "d" / "a.md", "text")
    source = name if name == "python-docs" else tmp_path / name
    with pytest.raises(CorpusError, match=rf"^corpus\.{key}: .*remove the key$"):
        acquire(source, tmp_path, **keys)


@pytest.mark.parametrize(
    "keys", [{"limit": 0}, {"split": ""}, {"group": " "}, {"dataset_split": ""}, {"validation_from": "lines"}]
)
def test_values_that_no_run_can_use_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^corpus\.{next(iter(keys))}: "):
        CorpusConfig(**keys)


def test_group_that_no_record_has_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_lines(RECORDS))
    with pytest.raises(
        CorpusError, match=r"^corpus\.group: no record of .* has the field author; its fields are n, text"
    ):
        acquire(path, tmp_path, group="author")


def test_digest_depends_on_the_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", as_lines(RECORDS))
    found = [
        acquire(path, tmp_path, **keys).digest() for keys in ({}, {"split": None}, {"group": "n"}, {"text": ["n"]})
    ]
    assert len(set(found)) == 4
