"""Lines of files, of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, AnyStr


def lines(file: IO[AnyStr], max_size: int, stop: int | None = None) -> Iterator[tuple[int, AnyStr | None]]:
    """The lines that begin before `stop`, each with its offset (0 without `stop`); None for a line that is too long.

    Args:
        file: The file, from its current position.
        max_size: Longest line, in bytes or characters as the file was opened; its end does not count.
        stop: Offset in the file.
    """
    while stop is None or file.tell() < stop:
        offset = 0 if stop is None else file.tell()
        line = file.readline(max_size + 1)
        if not line:
            return
        is_whole = len(line) <= max_size or line[-1:] in ("\n", b"\n")
        yield offset, line if is_whole else None
        while not is_whole:
            rest = file.readline(max_size)
            is_whole = len(rest) < max_size or rest[-1:] in ("\n", b"\n")
