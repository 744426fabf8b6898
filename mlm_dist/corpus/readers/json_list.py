"""JSON files that are a list of records, read value by value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any, ClassVar

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader, record

BLOCK = 1 << 18  # characters that are read at a time, at least
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonListReader(RecordsReader):
    """Reads a list of strings, or of objects with a string under `text`."""

    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        max_bytes = settings.max_bytes
        encoding = text_encoding.encoding_of(path, settings.encoding)
        with open(path, encoding=encoding.name, errors="replace") as file:
            try:
                for i, value in enumerate(items(file, max_bytes)):
                    yield record(f"{part.path}#{i}", value, settings, encoding)
            except OverflowError:
                yield Dropped(part.path, f"not JSON to its end, or with a value over {max_bytes / 1e6:g} MB")
            except (ValueError, RecursionError):
                yield Dropped(part.path, "not JSON")
            except TypeError:
                yield Dropped(part.path, "not a JSON list")


def items(file: IO[str], max_size: int) -> Iterator[Any]:
    """The values of a JSON list one by one, so that the whole list need not fit into memory.

    Raises:
        TypeError: The file is JSON, but not a list.
        OverflowError: A value is longer than `max_size`, or has no end.
        ValueError: The file is not JSON.
    """
    decoder = json.JSONDecoder()
    text, at, ended = "", 0, False

    def more() -> None:
        # Doubling the text keeps the total cost of decoding a long value again and again linear.
        nonlocal text, at, ended
        block = file.read(max(BLOCK, len(text) - at))
        ended = not block
        text, at = text[at:] + block, 0

    def skip_space() -> str:
        nonlocal at
        while True:
            space = _SPACE.match(text, at)
            at = space.end() if space else at
            if at < len(text) or ended:
                return text[at : at + 1]
            more()

    def value() -> Any:
        nonlocal at
        while True:
            try:
                decoded, end = decoder.raw_decode(text, at)
                if end < len(text) or ended:
                    at = end
                    return decoded
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
