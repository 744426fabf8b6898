"""Tables of text: comma-separated and tab-separated values with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import IO, Any, ClassVar, Literal

from mlm_dist.corpus.readers import decoded_file
from mlm_dist.corpus.readers.lines import lines
from mlm_dist.corpus.readers.protocol import Dropped, Part, ReadSettings
from mlm_dist.corpus.readers.text_encoding import Encoding
from mlm_dist.corpus.readers.values import Value, ValuesReader

DELIMITERS = (",", ";", "\t", "|")
ROOM = 1 << 26  # characters of a field beyond the size limit that are read and dropped


class CommaReader(ValuesReader):
    """Reads an object from each row; the first row names the fields, and its delimiter is that of the file."""

    delimiters: ClassVar[Sequence[str]] = DELIMITERS

    def values(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Value | Dropped]:
        """See `ValuesReader`."""
        if not part.stop:
            return
        encoding = decoded_file.encoding_of(path, settings)
        if decoded_file.is_binary(path, encoding):
            yield Dropped(part.path, "binary")
            return
        max_size = 2 * settings.max_bytes + ROOM
        csv.field_size_limit(max(csv.field_size_limit(), max_size))  # a setting of the process; it is only raised
        table = _Table(path, encoding, max_size)
        header = table.header(self.delimiters, settings)
        if not header:
            return
        try:
            for i, row in enumerate(table.rows(quotes=self.has_quotes(table))):
                id_ = f"{part.path}#{i}"
                if isinstance(row, str):
                    yield Dropped(id_, row)
                elif len(row) != len(header):
                    yield Dropped(id_, "not as many fields as the header")
                else:
                    yield Value(id_, dict(zip(header, row, strict=True)), encoding)
        except OverflowError:
            yield Dropped(part.path, f"not a table to its end, or with a field over {max_size / 1e6:g} MB")
        except csv.Error as error:
            yield Dropped(part.path, f"not a table to its end ({error})")

    def has_quotes(self, table: _Table) -> bool:
        """Whether fields may be in quotes."""
        return True


class TabReader(CommaReader):
    """Reads tab-separated values. They are taken to the letter if the quotes in the file are not those of a table."""

    delimiters: ClassVar[Sequence[str]] = ("\t", ",", ";", "|")

    def has_quotes(self, table: _Table) -> bool:
        """See `CommaReader`."""
        return table.is_strict()


class _Table:
    """A file of rows.

    Args:
        path: The file.
        encoding: Its encoding.
        max_size: Longest line and longest field, in characters.
    """

    def __init__(self, path: str, encoding: Encoding, max_size: int) -> None:
        self._path, self._encoding, self._max_size = path, encoding, max_size
        self._delimiter = ","

    def header(self, delimiters: Sequence[str], settings: ReadSettings) -> list[str]:
        """The names of the fields. The delimiter is the one that gives the wanted fields, else the most fields."""
        wanted = {settings.text[0], *settings.text, *(field.split(".")[0] for field in settings.text)}

        def names(delimiter: str) -> list[str]:
            with self._open() as file:
                try:
                    lines_ = (line for _, line in lines(file, self._max_size) if line and line.strip())
                    first = next(csv.reader(lines_, delimiter=delimiter), [])
                except csv.Error:
                    return []
            return [name.strip() for name in first]

        found = {delimiter: names(delimiter) for delimiter in delimiters}
        self._delimiter = max(found, key=lambda one: (len(wanted & set(found[one])), len(found[one])))
        return found[self._delimiter]

    def rows(self, *, quotes: bool) -> Iterator[list[str] | str]:
        """The rows after the header, without empty ones; a reason instead of a row that has no end.

        Raises:
            OverflowError: A line is too long.
            csv.Error: A field is too long.
        """
        with self._open() as file:
            has_ended = False

            def all_lines() -> Iterator[str]:
                nonlocal has_ended
                for _, line in lines(file, self._max_size):
                    if line is None:
                        raise OverflowError
                    yield line
                has_ended = True

            quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
            reader = csv.reader(all_lines(), delimiter=self._delimiter, quoting=quoting)
            is_first = True
            for row in reader:
                if not row or (len(row) == 1 and not row[0].strip()):
                    continue
                if has_ended:  # the reader asked for another line although the row was not complete
                    yield "a quote without an end"
                elif not is_first:
                    yield row
                is_first = False

    def is_strict(self) -> bool:
        """Whether all quotes begin and end fields."""
        with self._open() as file:
            try:
                all_lines = (line if line is not None else _too_long() for _, line in lines(file, self._max_size))
                for _ in csv.reader(all_lines, delimiter=self._delimiter, strict=True):
                    pass
            except (csv.Error, OverflowError):
                return False
        return True

    def _open(self) -> IO[Any]:
        return decoded_file.open_text(self._path, self._encoding, newline="")


def _too_long() -> str:
    raise OverflowError
