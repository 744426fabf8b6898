"""A JSON list read value by value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

BLOCK = 1 << 18  # characters that are read together, or more
_SPACE = re.compile(r"[ \t\r\n]*")


def items(file: IO[str], max_size: int) -> Iterator[Any]:
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
        block = file.read(max(BLOCK, len(text) - at))
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
