"""Text files that hold many documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.lines import lines
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader, record, too_large


class TextRecordsReader(RecordsReader):
    """Reads documents separated by blank lines; in a file without blank lines, each line is a document."""

    in_folders: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        max_bytes = settings.max_bytes
        with open(path, "rb") as raw:
            head = raw.read(text_encoding.SAMPLE)
        if text_encoding.is_binary(head, settings.encoding):
            yield Dropped(part.path, "binary")
            return
        encoding = text_encoding.encoding_of(path, settings.encoding)
        with open(path, encoding=encoding.name, errors="replace") as file:
            has_blocks = _has_blank_lines(line for _, line in lines(file, max_bytes))
        with open(path, encoding=encoding.name, errors="replace") as file:
            count, size = 0, 0
            block: list[str] = []

            def end_of_block() -> Document | Dropped:
                id_ = f"{part.path}#{count}"
                if size > max_bytes:
                    return too_large(id_, max_bytes)
                return record(id_, "".join(block).strip(), settings, encoding)

            for _, line in lines(file, max_bytes):
                if line is None:
                    size += max_bytes + 1
                elif line.strip():
                    size += len(line.rstrip())
                    if size <= max_bytes:
                        block.append(line)
                if size and (not has_blocks or (line is not None and not line.strip())):
                    yield end_of_block()
                    count, block, size = count + 1, [], 0
            if size:
                yield end_of_block()


def _has_blank_lines(all_lines: Iterable[str | None]) -> bool:
    """Whether a blank line lies between two lines that are not blank."""
    has_begun = is_blank = False
    for line in all_lines:
        if line is not None and not line.strip():
            is_blank = has_begun
        elif is_blank:
            return True
        else:
            has_begun = True
    return False
