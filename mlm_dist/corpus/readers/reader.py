"""From files to documents, part by part and within bounded memory; what cannot be used comes out as well, with why."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, AnyStr

from mlm_dist.corpus.readers import json_list, text_encoding
from mlm_dist.corpus.sources.source_files import Source, state
from mlm_dist.errors import CorpusError, reason

PART = 1 << 18  # bytes of a .jsonl file that are read together
SMALL_SHARD, LARGE_SHARD, NUM_SHARDS = 1 << 19, 16 << 20, 64
PARQUET_ROWS, PARQUET_BYTES = 256, 16 << 20  # decoded at a time, whichever is less, but one row at least


@dataclass(frozen=True, slots=True)  # there may be a million of them
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


@dataclass(frozen=True)
class Shard:
    """Parts that one process works on together, in order, and their size in bytes."""

    parts: list[Part]
    size: int


def shards(source: Source) -> list[Shard]:
    """Cut a source into pieces of work of similar size.

    A part's shard follows from a hash of its name, and their number is a power of two. So the work depends on the
    source alone, never on who does it, and a file that changes, comes or goes changes no shard but its own.
    """
    parts = [found for path in source.files for found in _parts(source, path)]
    total = sum(weight for _, weight in parts)
    count = 1
    while count * (SMALL_SHARD if count < NUM_SHARDS else LARGE_SHARD) < total:
        count *= 2
    bins: list[list[tuple[Part, int]]] = [[] for _ in range(count)]
    for part, weight in parts:
        name = f"{part.path}\0{part.start}".encode("utf-8", "surrogateescape")
        bins[int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") % count].append((part, weight))
    return [Shard([part for part, _ in one], sum(weight for _, weight in one)) for one in bins if one]


def read(source: Source, parts: Iterable[Part], max_bytes: int) -> Iterator[Document | SetAside]:
    """All documents of some parts, in order; those of more than `max_bytes` are set aside.

    Raises:
        CorpusError: A file of many documents is not what it was when it was listed. It cannot be set aside any more:
            other processes may have read other parts of it.
    """
    root = str(source.root)
    for part in parts:
        path = os.path.join(root, part.path)
        reader = _READERS.get(_suffix(path), _read_lines if source.records else None)
        if reader is not None:
            _refuse_changed(source, part.path)
        try:
            if reader is None:
                yield _read_whole(path, part, source.files[part.path], max_bytes)
            else:
                yield from reader(path, part, max_bytes)
        except OSError as error:
            yield SetAside(part.path, f"unreadable ({error.strerror or reason(error)})")
        if reader is not None:
            _refuse_changed(source, part.path)


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _parts(source: Source, path: str) -> Iterator[tuple[Part, int]]:
    """The parts of a file and their weights, by what was seen when it was listed and not by what it is like now.

    A rank that asked the disk itself could see another size and wait for shards that nobody makes.
    """
    size, _ = source.states[path]
    groups = source.row_groups.get(path, 0)
    if _suffix(path) == ".jsonl":
        for start in range(0, size, PART):
            stop = min(start + PART, size)
            yield Part(path, start, stop), stop - start
    elif groups:
        for i in range(groups):
            yield Part(path, i, i + 1), max(size // groups, 1)
    else:
        yield Part(path, 0, 0 if _suffix(path) == ".parquet" else size), size


def _refuse_changed(source: Source, path: str) -> None:
    try:
        is_same = state(source.root / path) == source.states[path]
    except OSError:
        is_same = False
    if not is_same:
        raise CorpusError(f"corpus.source: {source.root / path} changed while it was read; run again")


def _over(id_: str, max_bytes: int) -> SetAside:
    return SetAside(id_, f"over {max_bytes / 1e6:g} MB")


def _read_whole(path: str, part: Part, sha256: str, max_bytes: int) -> Document | SetAside:
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        return _over(part.path, max_bytes)
    if hashlib.sha256(data).hexdigest() != sha256:
        return SetAside(part.path, "changed while the corpus was being prepared")
    if text_encoding.is_binary(data):
        return SetAside(part.path, "binary")
    return Document(part.path, *text_encoding.decode(data))


def _read_lines(path: str, part: Part, max_bytes: int) -> Iterator[Document | SetAside]:
    """A text file that was named itself: blank lines part its documents; without any, each line is one."""
    with open(path, "rb") as raw:
        head = raw.read(text_encoding.SAMPLE)
    if text_encoding.is_binary(head):
        yield SetAside(part.path, "binary")
        return
    encoding = text_encoding.encoding_of(path)
    with open(path, encoding=encoding.name, errors="replace") as file:
        has_blocks = _has_blank_lines(line for _, line in _lines(file, max_bytes))
    with open(path, encoding=encoding.name, errors="replace") as file:
        count, size = 0, 0
        block: list[str] = []

        def ended() -> Document | SetAside:
            id_ = f"{part.path}#{count}"
            text = "".join(block).strip()
            return _over(id_, max_bytes) if size > max_bytes else _record(id_, text, encoding, max_bytes)

        for _, line in _lines(file, max_bytes):
            if line is None:
                size += max_bytes + 1
            elif line.strip():
                size += len(line.rstrip())
                if size <= max_bytes:
                    block.append(line)
            if size and (not has_blocks or (line is not None and not line.strip())):
                yield ended()
                count, block, size = count + 1, [], 0
        if size:
            yield ended()


def _has_blank_lines(lines: Iterable[str | None]) -> bool:
    """Whether there is a blank line between two others."""
    begun = blank = False
    for line in lines:
        if line is not None and not line.strip():
            blank = begun
        elif blank:
            return True
        else:
            begun = True
    return False


def _lines(file: IO[AnyStr], max_size: int, stop: int | None = None) -> Iterator[tuple[int, AnyStr | None]]:
    """The lines that begin before `stop`, with their places (where it is given); None for one that is too long.

    What ends a line does not count towards its length.
    """
    while stop is None or file.tell() < stop:
        place = 0 if stop is None else file.tell()
        line = file.readline(max_size + 1)
        if not line:
            return
        whole = len(line) <= max_size or line[-1:] in ("\n", b"\n")
        yield place, line if whole else None
        while not whole:
            rest = file.readline(max_size)
            whole = len(rest) < max_size or rest[-1:] in ("\n", b"\n")


def _read_json(path: str, part: Part, max_bytes: int) -> Iterator[Document | SetAside]:
    encoding = text_encoding.encoding_of(path)
    with open(path, encoding=encoding.name, errors="replace") as file:
        try:
            for i, value in enumerate(json_list.items(file, max_bytes)):
                yield _record(f"{part.path}#{i}", value, encoding, max_bytes)
        except OverflowError:
            yield SetAside(part.path, f"not JSON to its end, or with a value over {max_bytes / 1e6:g} MB")
        except (ValueError, RecursionError):
            yield SetAside(part.path, "not JSON")
        except TypeError:
            yield SetAside(part.path, "not a JSON list")


def _read_jsonl(path: str, part: Part, max_bytes: int) -> Iterator[Document | SetAside]:
    with open(path, "rb") as file:
        if part.start:  # the line that straddles the start belongs to the part before
            file.seek(part.start - 1)
            while file.tell() < part.stop and (rest := file.readline(PART)) and not rest.endswith(b"\n"):
                pass
        for place, line in _lines(file, max_bytes, part.stop):
            id_ = f"{part.path}@{place}"
            if line is None:
                yield _over(id_, max_bytes)
            elif line.strip():
                text, name = text_encoding.decode(line)
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError):
                    yield SetAside(id_, "not JSON")
                    continue
                yield _record(id_, value, text_encoding.Encoding(name, name == "replaced"), max_bytes)


def _read_parquet(path: str, part: Part, max_bytes: int) -> Iterator[Document | SetAside]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, buffer_size=PART)
        if "text" not in file.schema_arrow.names:
            yield SetAside(part.path, "no 'text' column")
            return
        for group in range(part.start, part.stop):
            i = 0
            for batch in file.iter_batches(_batch_rows(file, group), row_groups=[group], columns=["text"]):
                for cell in batch.column(0):
                    id_ = f"{part.path}#{group}.{i}"
                    is_over = isinstance(cell, pa.BinaryScalar) and cell.is_valid and cell.as_buffer().size > max_bytes
                    yield (
                        _over(id_, max_bytes) if is_over else _record(id_, cell.as_py(), text_encoding.PLAIN, max_bytes)
                    )
                    i += 1
    except pa.ArrowException:
        yield SetAside(part.path, "not a parquet file")


def _batch_rows(file: Any, group: int) -> int:
    """How many rows of a group to decode at a time, by the size of its texts on average."""
    about = file.metadata.row_group(group)
    columns = (about.column(i) for i in range(about.num_columns))
    size = sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] == "text")
    return int(min(max(PARQUET_BYTES * about.num_rows // max(size, 1), 1), PARQUET_ROWS))


def _record(id_: str, value: Any, encoding: text_encoding.Encoding, max_bytes: int) -> Document | SetAside:
    """A string, or an object whose text is under `text`."""
    if isinstance(value, dict):
        value = value.get("text")
    if not isinstance(value, str):
        return SetAside(id_, "no text")
    # A letter takes four bytes at most; counting them is only worth it near the limit.
    size = len(value) if value.isascii() or 4 * len(value) <= max_bytes else len(value.encode("utf-8", "surrogatepass"))
    return _over(id_, max_bytes) if size > max_bytes else Document(id_, value, encoding.of(value))


_READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
