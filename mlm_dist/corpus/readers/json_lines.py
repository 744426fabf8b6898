"""JSON lines: one record per line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import ClassVar

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.lines import lines
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader, record, too_large

PART_BYTES = 1 << 18


class JsonLinesReader(RecordsReader):
    """Reads a string, or an object with a string under `text`, from each line; a part is a range of bytes."""

    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES

    def parts(self, name: str, size: int, units: int | None) -> Iterator[tuple[Part, int]]:
        """See `Reader`."""
        for start in range(0, size, PART_BYTES):
            stop = min(start + PART_BYTES, size)
            yield Part(name, start, stop), stop - start

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`. A line belongs to the part in which it begins."""
        max_bytes = settings.max_bytes
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
                    text, name = text_encoding.decode(line)
                    try:
                        value = json.loads(text)
                    except (ValueError, RecursionError):
                        yield Dropped(id_, "not JSON")
                        continue
                    yield record(id_, value, settings, text_encoding.Encoding(name, name == "replaced"))
