"""From files to documents, part by part; what cannot be used comes out as well, with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.corpus.sources import Source
from mlm_dist.errors import reason

SMALLEST_SHARD, LARGEST_SHARD, NUM_SHARDS = 256 * 1024, 16 * 1024 * 1024, 64


@dataclass(frozen=True)
class Part:
    """A piece of a file: bytes [start, stop) of a .jsonl file, row groups [start, stop) of a .parquet file, or all."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class Document:
    """One text. `id` names its file, and its place in it where the file holds several."""

    id: str
    text: str
    encoding: str = "utf-8"


@dataclass(frozen=True)
class SetAside:
    """Something that is no usable document, and why."""

    id: str
    reason: str


def shards(source: Source) -> list[list[Part]]:
    """Cut a source into pieces of work of similar size. Depends on the source alone, never on who does the work."""
    sizes = {path: _size(source.root / path) for path in source.files}
    target = min(max(sum(sizes.values()) // NUM_SHARDS, SMALLEST_SHARD), LARGEST_SHARD)
    found: list[list[Part]] = [[]]
    filled = 0
    for path, size in sizes.items():
        for part, weight in _parts(source.root, path, size, target):
            if filled and filled + weight > target:
                found.append([])
                filled = 0
            found[-1].append(part)
            filled += weight
    return found


def read(source: Source, parts: Iterable[Part]) -> Iterator[Document | SetAside]:
    """All documents of some parts, in order."""
    for part in parts:
        path = source.root / part.path
        try:
            yield from _READERS.get(path.suffix.lower(), _read_text)(path, part, source.records)
        except OSError as error:
            yield SetAside(part.path, f"unreadable ({error.strerror or reason(error)})")


def decode(data: bytes) -> tuple[str, str]:
    """Text of unknown encoding: UTF-8, UTF-16 where a byte-order mark says so, else the likeliest, else replacement.

    Returns:
        The text, and the name of the encoding; "replaced" where bytes had to be given up.
    """
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            try:
                return data.decode(encoding), encoding
            except UnicodeDecodeError:
                break
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    from charset_normalizer import from_bytes

    best = from_bytes(data[:100_000]).best()
    if best is not None:
        try:
            return data.decode(best.encoding), best.encoding
        except UnicodeDecodeError:
            pass
    return data.decode("utf-8", errors="replace"), "replaced"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it has gone since it was listed; the reader says so


def _parts(root: Path, path: str, size: int, target: int) -> Iterator[tuple[Part, int]]:
    suffix = Path(path).suffix.lower()
    if suffix == ".jsonl":
        for start in range(0, size, target):
            stop = min(start + target, size)
            yield Part(path, start, stop), stop - start
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            groups = pq.ParquetFile(root / path).num_row_groups
        except (pa.ArrowException, OSError):
            groups = 0  # the reader says what is wrong with it
        for i in range(groups):
            yield Part(path, i, i + 1), max(size // groups, 1)
        if not groups:
            yield Part(path, 0, 0), size
    else:
        yield Part(path, 0, size), size


def _read_text(path: Path, part: Part, records: bool) -> Iterator[Document | SetAside]:
    data = path.read_bytes()
    if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        yield SetAside(part.path, "binary")
        return
    text, encoding = decode(data)
    if not records:
        yield Document(part.path, text, encoding)
        return
    # A text file that was named itself: blank lines part its documents; without any, each line is one.
    blocks = re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip())
    if len(blocks) == 1:
        blocks = blocks[0].split("\n")
    for i, block in enumerate(blocks):
        yield Document(f"{part.path}#{i}", block, encoding)


def _read_json(path: Path, part: Part, records: bool) -> Iterator[Document | SetAside]:
    text, encoding = decode(path.read_bytes())
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        yield SetAside(part.path, "not JSON")
        return
    if not isinstance(values, list):
        yield SetAside(part.path, "not a JSON list")
        return
    for i, value in enumerate(values):
        yield _record(f"{part.path}#{i}", value, encoding)


def _read_jsonl(path: Path, part: Part, records: bool) -> Iterator[Document | SetAside]:
    with open(path, "rb") as file:
        if part.start:  # the line that straddles the start belongs to the part before
            file.seek(part.start - 1)
            file.readline()
        while (place := file.tell()) < part.stop and (line := file.readline()):
            if not line.strip():
                continue
            text, encoding = decode(line)
            try:
                value = json.loads(text)
            except (ValueError, RecursionError):
                yield SetAside(f"{part.path}@{place}", "not JSON")
                continue
            yield _record(f"{part.path}@{place}", value, encoding)


def _read_parquet(path: Path, part: Part, records: bool) -> Iterator[Document | SetAside]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            yield SetAside(part.path, "no 'text' column")
            return
        for group in range(part.start, part.stop):
            for i, value in enumerate(file.read_row_group(group, columns=["text"])["text"].to_pylist()):
                yield _record(f"{part.path}#{group}.{i}", value, "utf-8")
    except pa.ArrowException:
        yield SetAside(part.path, "not a parquet file")


def _record(id_: str, value: Any, encoding: str) -> Document | SetAside:
    """A string, or an object whose text is under `text`."""
    if isinstance(value, dict):
        value = value.get("text")
    return Document(id_, value, encoding) if isinstance(value, str) else SetAside(id_, "no text")


_READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
