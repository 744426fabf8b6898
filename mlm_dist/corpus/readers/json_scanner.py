"""A scanner of JSON that decodes value by value, so that a whole file need not fit into memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 18  # characters that are read at a time, at least
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonScanner:
    """Reads JSON values from a file, from its current position.

    Args:
        file: The file.
        max_size: Longest value, in characters; about twice as much is read before it is refused.
    """

    def __init__(self, file: IO[str], max_size: int) -> None:
        self._file, self._max_size = file, max_size
        self._decoder = json.JSONDecoder()
        self._text, self._at, self._ended = "", 0, False

    def mark(self) -> str:
        """The next character that is not a space, which is not read yet; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._more()

    def value(self) -> Any:
        """The next value.

        Raises:
            OverflowError: It is longer than `max_size`, or has no end.
            ValueError: It is not JSON.
        """
        self.mark()
        while True:
            try:
                decoded, end = self._decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self._at = end
                    return decoded
            except json.JSONDecodeError:
                if self._ended:
                    raise
            if len(self._text) - self._at > 2 * self._max_size:
                raise OverflowError
            self._more()

    def values(self) -> Iterator[Any]:
        """All values up to the end of the file, one after the other."""
        while self.mark():
            yield self.value()

    def items(self) -> Iterator[Any]:
        """The values of the list that comes next."""
        for _ in self._separated("[", "]"):
            yield self.value()

    def members(self) -> Iterator[tuple[str, Any, bool]]:
        """Names and values of the object that comes next. A list is read item by item.

        Yields:
            (name, value, False); for a list first (name, [], False), then (name, item, True) for each of its items.
        """
        for _ in self._separated("{", "}"):
            name = self.value()
            if not isinstance(name, str):
                raise ValueError
            self._expect(":")
            if self.mark() == "[":
                yield name, [], False
                for item in self.items():
                    yield name, item, True
            else:
                yield name, self.value(), False

    def end(self) -> None:
        """Refuse anything but spaces up to the end of the file."""
        if self.mark():
            raise ValueError

    def _separated(self, begin: str, end: str) -> Iterator[None]:
        """Yields before each part between two brackets; the parts are separated by commas."""
        self._expect(begin)
        first = True
        while self.mark() != end:
            if not first:
                self._expect(",")
            yield
            first = False
        self._expect(end)

    def _expect(self, mark: str) -> None:
        if self.mark() != mark:
            raise ValueError
        self._at += 1

    def _more(self) -> None:
        # Doubling the text keeps the total cost of decoding a long value again and again linear.
        block = self._file.read(max(BLOCK, len(self._text) - self._at))
        self._ended = not block
        self._text, self._at = self._text[self._at :] + block, 0
