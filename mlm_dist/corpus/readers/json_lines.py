"""JSON lines: one record per line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator

from mlm_dist.corpus.readers import decoded_file
from mlm_dist.corpus.readers.compression import is_compressed
from mlm_dist.corpus.readers.lines import lines
from mlm_dist.corpus.readers.protocol import Dropped, Part, ReadSettings, too_large
from mlm_dist.corpus.readers.text_encoding import Encoding
from mlm_dist.corpus.readers.values import Value, ValuesReader

PART_BYTES = 1 << 18


class JsonLinesReader(ValuesReader):
    """Reads a string, or an object with strings, from each line; a part is a range of bytes.

    A compressed file, or one whose characters have two or four bytes, is read as a whole, with its first part.
    """

    def parts(self, name: str, size: int, units: int | None) -> Iterator[tuple[Part, int]]:
        """See `Reader`."""
        if is_compressed(name):
            yield Part(name, 0, size), size
            return
        for start in range(0, size, PART_BYTES):
            stop = min(start + PART_BYTES, size)
            yield Part(name, start, stop), stop - start

    def values(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Value | Dropped]:
        """See `ValuesReader`. A line belongs to the part in which it begins."""
        encoding = decoded_file.encoding_of(path, settings)
        if not is_compressed(path) and not decoded_file.is_wide(encoding):
            yield from _in_range(path, part, settings.max_bytes, encoding)
        elif part.start == 0:
            yield from whole_file(path, part.path, settings.max_bytes, encoding)


def whole_file(path: str, name: str, max_bytes: int, encoding: Encoding) -> Iterator[Value | Dropped]:
    """The records in the lines of a file of any encoding, whose positions are numbers of lines."""
    with decoded_file.open_text(path, encoding) as file:
        for i, (_, line) in enumerate(lines(file, max_bytes)):
            if line is None:
                yield too_large(f"{name}@{i}", max_bytes)
            elif line.strip():
                yield _value(f"{name}@{i}", line, encoding)


def _in_range(path: str, part: Part, max_bytes: int, encoding: Encoding) -> Iterator[Value | Dropped]:
    """The records in the lines that begin in a range of bytes."""
    with open(path, "rb") as file:
        if part.start:
            file.seek(part.start - 1)
            while file.tell() < part.stop and (rest := file.readline(PART_BYTES)) and not rest.endswith(b"\n"):
                pass
        for offset, line in lines(file, max_bytes, part.stop):
            id_ = f"{part.path}@{offset}"
            if line is None:
                yield too_large(id_, max_bytes)
            elif line.strip():
                text = (line if offset else line.removeprefix(codecs.BOM_UTF8)).decode(encoding.name, "replace")
                yield _value(id_, text, encoding)


def _value(id_: str, line: str, encoding: Encoding) -> Value | Dropped:
    try:
        return Value(id_, json.loads(line), encoding)
    except (ValueError, RecursionError):
        return Dropped(id_, "not JSON")
