"""Text files that are named themselves: one document, or several with a separator between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, ClassVar

from mlm_dist.corpus.readers import decoded_file, text_encoding
from mlm_dist.corpus.readers.lines import lines
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader, too_large

BLOCK = 1 << 18  # characters that are read at a time
LINES, BLANK_LINES = "\n", "\n\n"
_ESCAPES = {"\\n": "\n", "\\t": "\t", "\\f": "\f", "\\r\\n": "\n", "\r\n": "\n"}


class TextRecordsReader(RecordsReader):
    r"""Reads a text file as one document, or the documents between separators.

    The separator \n makes each line a document, and \n\n each block between blank lines; any other text separates
    documents each time it occurs.
    """

    in_folders: ClassVar[bool] = False
    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        encoding = decoded_file.encoding_of(path, settings)
        if decoded_file.is_binary(path, encoding):
            yield Dropped(part.path, "binary")
            return
        max_bytes = settings.max_bytes
        separator = literal(settings.separator)
        # One document keeps its line breaks. Separators are found whatever kind of line breaks a file has.
        with decoded_file.open_text(path, encoding, newline="" if separator is None else None) as file:
            if separator is None:
                text = file.read(max_bytes + 1)
                if _size(text, max_bytes) > max_bytes:
                    yield Dropped(part.path, f"{too_large('', max_bytes).reason} without a corpus.separator")
                else:
                    yield Document(part.path, text, encoding.of(text))
                return
            for i, piece in enumerate(_pieces(file, separator, max_bytes)):
                id_ = f"{part.path}#{i}"
                if piece is None or _size(piece, max_bytes) > max_bytes:
                    yield too_large(id_, max_bytes)
                else:
                    yield Document(id_, piece, encoding.of(piece))


def literal(separator: str | None) -> str | None:
    r"""A separator with the escapes \n, \t and \f, which a shell passes on as they are, replaced by what they mean."""
    for escape, meaning in _ESCAPES.items():
        separator = separator and separator.replace(escape, meaning)
    return separator


def _size(text: str, max_bytes: int) -> int:
    """The bytes of a text; they are not counted far from the limit."""
    return len(text) if 4 * len(text) <= max_bytes else len(text.encode("utf-8", "surrogatepass"))


def _pieces(file: IO[str], separator: str, max_size: int) -> Iterator[str | None]:
    """The texts between separators that are not blank; None for one of more than `max_size` characters."""
    if separator == LINES:
        for _, line in lines(file, max_size):
            if line is None or line.strip():
                yield line and line.strip()
    elif separator == BLANK_LINES:
        yield from _blocks(file, max_size)
    else:
        yield from _separated(file, separator, max_size)


def _blocks(file: IO[str], max_size: int) -> Iterator[str | None]:
    """The blocks of lines that are not blank."""
    size = 0
    block: list[str] = []
    for _, line in lines(file, max_size):
        if line is not None and not line.strip():
            if size:
                yield None if size > max_size else "".join(block).strip()
            block, size = [], 0
            continue
        size += max_size + 1 if line is None else len(line.rstrip())
        if line is not None and size <= max_size:
            block.append(line)
    if size:
        yield None if size > max_size else "".join(block).strip()


def _separated(file: IO[str], separator: str, max_size: int) -> Iterator[str | None]:
    rest, is_too_long = "", False
    while True:
        block = file.read(BLOCK)
        *pieces, rest = (rest + block).split(separator)
        for piece in [*pieces, *([] if block else [rest])]:
            if is_too_long or len(piece) > max_size:
                yield None
            elif piece.strip():
                yield piece.strip()
            is_too_long = False
        if not block:
            return
        if len(rest) > max_size + len(separator):
            is_too_long, rest = True, rest[-len(separator) :]
