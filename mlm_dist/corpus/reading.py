"""From files to documents, part by part and within bounded memory; what cannot be used comes out as well, with why."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, AnyStr

from mlm_dist.corpus.sources import Source
from mlm_dist.errors import reason

PART = 1 << 18  # bytes of a .jsonl file that are read together
SMALL_SHARD, LARGE_SHARD, NUM_SHARDS = 1 << 19, 16 << 20, 64
PARQUET_ROWS = 256  # decoded at a time
SAMPLE = 100_000  # bytes by which an unknown encoding is recognised
_SPACE = re.compile(r"[ \t\r\n]*")


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
    root = str(source.root)
    parts = [found for path in source.files for found in _parts(os.path.join(root, path), path)]
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
    """All documents of some parts, in order; those of more than `max_bytes` are set aside."""
    root = str(source.root)
    for part in parts:
        path = os.path.join(root, part.path)
        suffix = _suffix(path)
        try:
            if suffix in _READERS:
                yield from _READERS[suffix](path, part, max_bytes)
            elif source.records:
                yield from _read_lines(path, part, max_bytes)
            else:
                yield _read_whole(path, part, source.files[part.path], max_bytes)
        except OSError as error:
            yield SetAside(part.path, f"unreadable ({error.strerror or reason(error)})")


def decode(data: bytes) -> tuple[str, str]:
    """Text of unknown encoding: UTF-8, UTF-16 where a byte-order mark says so, else the likeliest, else replacement.

    Returns:
        The text, and the name of the encoding; "replaced" where bytes had to be given up.
    """
    marked = _marked(data)
    if marked is not None:
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode(marked), marked
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    best = _likeliest(data[:SAMPLE])
    if best is not None:
        try:
            return data.decode(best), best
        except UnicodeDecodeError:
            pass
    return data.decode("utf-8", errors="replace"), "replaced"


def _marked(data: bytes) -> str | None:
    """The encoding that a byte-order mark tells, or the zero bytes of UTF-16 that has none."""
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in data[:SAMPLE]:
        return None
    # Every other byte of Western text in UTF-16 is zero, and none of the rest.
    zeros = [data[i:SAMPLE:2].count(0) for i in (0, 1)]
    if min(zeros) == 0 and max(zeros) * 4 > min(len(data), SAMPLE):
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return None


def _is_binary(data: bytes) -> bool:
    return b"\0" in data and _marked(data) is None


def _likeliest(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    best = from_bytes(sample).best()
    return None if best is None else best.encoding


def _encoding_of(path: str) -> str:
    """The encoding of a file that may be too large to be decoded at once, by the rules of `decode`."""
    with open(path, "rb") as file:
        sample = file.read(SAMPLE)
        marked = _marked(sample)
        if marked is not None:
            return marked
        decoder = codecs.getincrementaldecoder("utf-8")()
        block = sample
        try:
            while block:
                decoder.decode(block)
                block = file.read(PART)
            decoder.decode(b"", final=True)
            return "utf-8"
        except UnicodeDecodeError:
            return _likeliest(sample) or "utf-8"


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _parts(place: str, path: str) -> Iterator[tuple[Part, int]]:
    """The parts of the file at `place`, which the source calls `path`, and their weights."""
    try:
        size = os.stat(place).st_size
    except OSError:
        size = 0  # it has gone since it was listed; the reader says so
    suffix = _suffix(path)
    if suffix == ".jsonl":
        for start in range(0, size, PART):
            stop = min(start + PART, size)
            yield Part(path, start, stop), stop - start
    elif suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(place) as file:
                groups = file.num_row_groups
        except (pa.ArrowException, OSError):
            groups = 0  # the reader says what is wrong with it
        for i in range(groups):
            yield Part(path, i, i + 1), max(size // groups, 1)
        if not groups:
            yield Part(path, 0, 0), size
    else:
        yield Part(path, 0, size), size


def _over(id_: str, max_bytes: int) -> SetAside:
    return SetAside(id_, f"over {max_bytes / 1e6:g} MB")


def _read_whole(path: str, part: Part, sha256: str, max_bytes: int) -> Document | SetAside:
    with open(path, "rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        return _over(part.path, max_bytes)
    if hashlib.sha256(data).hexdigest() != sha256:
        return SetAside(part.path, "changed while the corpus was being prepared")
    if _is_binary(data):
        return SetAside(part.path, "binary")
    return Document(part.path, *decode(data))


def _read_lines(path: str, part: Part, max_bytes: int) -> Iterator[Document | SetAside]:
    """A text file that was named itself: blank lines part its documents; without any, each line is one."""
    with open(path, "rb") as file:
        head = file.read(SAMPLE)
    if _is_binary(head):
        yield SetAside(part.path, "binary")
        return
    encoding = _encoding_of(path)
    with open(path, encoding=encoding, errors="replace") as text:
        has_blocks = _has_blank_lines(line for _, line in _lines(text, max_bytes))
    with open(path, encoding=encoding, errors="replace") as text:
        count, size = 0, 0
        block: list[str] = []

        def ended() -> Document | SetAside:
            id_ = f"{part.path}#{count}"
            return _over(id_, max_bytes) if size > max_bytes else Document(id_, "".join(block).strip(), encoding)

        for _, line in _lines(text, max_bytes):
            if line is None:
                size += max_bytes + 1
            elif line.strip():
                size += len(line)
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
    """The lines that begin before `stop`, with their places (where it is given); None for one that is too long."""
    while stop is None or file.tell() < stop:
        place = 0 if stop is None else file.tell()
        line = file.readline(max_size + 1)
        if not line:
            return
        whole = len(line) <= max_size
        yield place, line if whole else None
        while not whole:
            rest = file.readline(max_size)
            whole = len(rest) < max_size or rest[-1:] in ("\n", b"\n")


def _read_json(path: str, part: Part, max_bytes: int) -> Iterator[Document | SetAside]:
    encoding = _encoding_of(path)
    with open(path, encoding=encoding, errors="replace") as file:
        try:
            for i, value in enumerate(_list_items(file, max_bytes)):
                yield _record(f"{part.path}#{i}", value, encoding, max_bytes)
        except OverflowError:
            yield SetAside(part.path, f"not JSON to its end, or with a value over {max_bytes / 1e6:g} MB")
        except (ValueError, RecursionError):
            yield SetAside(part.path, "not JSON")
        except TypeError:
            yield SetAside(part.path, "not a JSON list")


def _list_items(file: IO[str], max_size: int) -> Iterator[Any]:
    """The values of a JSON list one by one, so that the list need not be in memory.

    Raises:
        TypeError: It is JSON, but no list.
        OverflowError: A value is longer than `max_size`, or never ends.
        ValueError: It is no JSON.
    """
    decoder = json.JSONDecoder()
    text, at, ended = "", 0, False

    def more() -> None:
        # Doubling what is looked at keeps the cost of trying again linear.
        nonlocal text, at, ended
        block = file.read(max(PART, len(text) - at))
        ended = not block
        text, at = text[at:] + block, 0

    def skip_space() -> str:
        nonlocal at
        while True:
            found = _SPACE.match(text, at)
            at = found.end() if found else at
            if at < len(text) or ended:
                return text[at : at + 1]
            more()

    def value() -> Any:
        nonlocal at
        while True:
            try:
                found, end = decoder.raw_decode(text, at)
                if end < len(text) or ended:
                    at = end
                    return found
            except json.JSONDecodeError:
                if ended:
                    raise
            if len(text) - at > 2 * max_size:
                raise OverflowError
            more()

    if skip_space() != "[":
        value()
        raise TypeError
    at += 1
    first = True
    while (mark := skip_space()) != "]":
        if not first:
            if mark != ",":
                raise ValueError
            at += 1
            skip_space()
        yield value()
        first = False
    at += 1
    if skip_space():
        raise ValueError


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
                text, encoding = decode(line)
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError):
                    yield SetAside(id_, "not JSON")
                    continue
                yield _record(id_, value, encoding, max_bytes)


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
            for batch in file.iter_batches(PARQUET_ROWS, row_groups=[group], columns=["text"]):
                for value in batch.column(0).to_pylist():
                    yield _record(f"{part.path}#{group}.{i}", value, "utf-8", max_bytes)
                    i += 1
    except pa.ArrowException:
        yield SetAside(part.path, "not a parquet file")


def _record(id_: str, value: Any, encoding: str, max_bytes: int) -> Document | SetAside:
    """A string, or an object whose text is under `text`."""
    if isinstance(value, dict):
        value = value.get("text")
    if not isinstance(value, str):
        return SetAside(id_, "no text")
    return _over(id_, max_bytes) if len(value) > max_bytes else Document(id_, value, encoding)


_READERS = {".json": _read_json, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
