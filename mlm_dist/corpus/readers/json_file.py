"""JSON files: a list of records, an object with such a list, or records one after the other as in JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mlm_dist.corpus.readers import decoded_file, json_lines
from mlm_dist.corpus.readers.json_scanner import JsonScanner
from mlm_dist.corpus.readers.lines import lines
from mlm_dist.corpus.readers.protocol import Dropped, Part, ReadSettings
from mlm_dist.corpus.readers.record_fields import TOKENS
from mlm_dist.corpus.readers.text_encoding import Encoding
from mlm_dist.corpus.readers.values import Value, ValuesReader

USUAL_LIST = "data"  # the records of an object with several lists


@dataclass(frozen=True)
class _Layout:
    """Where the records of a file are.

    Args:
        kind: The values of the list that the file is, or of a list under a name; values one after the other; one
            record per line; or nowhere.
        name: The name of the list, or why there are no records.
    """

    kind: Literal["list", "named", "values", "lines", "none"]
    name: str = ""


class JsonReader(ValuesReader):
    """Reads the records of a JSON file, whichever layout it has."""

    def values(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Value | Dropped]:
        """See `ValuesReader`."""
        max_bytes = settings.max_bytes
        encoding = decoded_file.encoding_of(path, settings)
        try:
            layout = _layout(path, encoding, settings)
            if layout.kind == "none":
                yield Dropped(part.path, layout.name)
            elif layout.kind == "lines":
                yield from json_lines.whole_file(path, part.path, max_bytes, encoding)
            else:
                with decoded_file.open_text(path, encoding) as file:
                    for i, value in enumerate(_records(JsonScanner(file, max_bytes), layout)):
                        yield Value(f"{part.path}#{i}", value, encoding)
        except OverflowError:
            yield Dropped(part.path, f"not JSON to its end, or with a value over {max_bytes / 1e6:g} MB")
        except (ValueError, RecursionError):
            yield Dropped(part.path, "not JSON")


def _records(scanner: JsonScanner, layout: _Layout) -> Iterator[Any]:
    if layout.kind == "list":
        yield from scanner.items()
    elif layout.kind == "named":
        yield from (item for name, item, is_item in scanner.members() if is_item and name == layout.name)
    else:
        yield from scanner.values()
    scanner.end()


def _layout(path: str, encoding: Encoding, settings: ReadSettings) -> _Layout:
    """The layout of a file; an object is read once to its end for it.

    Raises:
        OverflowError, ValueError: As of `JsonScanner`.
    """
    with decoded_file.open_text(path, encoding) as file:
        mark = JsonScanner(file, settings.max_bytes).mark()
    if mark == "[":
        return _Layout("list")
    if mark not in ("{", '"'):
        return _Layout("none", "not JSON")
    with decoded_file.open_text(path, encoding) as file:
        if _begins_with_a_record(file, settings.max_bytes):
            return _Layout("lines")
    if mark == '"':
        return _Layout("values")
    return _layout_of_object(path, encoding, settings)


def _begins_with_a_record(file: Any, max_bytes: int) -> bool:
    """Whether the first of several lines is a value of its own."""
    begun = False
    for _, line in lines(file, max_bytes):
        if line is None or line.strip():
            if begun:
                return True
            try:
                json.loads(line or "")
            except (ValueError, RecursionError):
                return False
            begun = True
    return False


def _layout_of_object(path: str, encoding: Encoding, settings: ReadSettings) -> _Layout:
    wanted = {TOKENS, *settings.text, *(field.split(".")[0] for field in settings.text)}
    lists: dict[str, Any] = {}  # the first item of each
    is_record = False
    with decoded_file.open_text(path, encoding) as file:
        scanner = JsonScanner(file, settings.max_bytes)
        for name, value, is_item in scanner.members():
            if is_item:
                if lists[name] is None:
                    lists[name] = value
            elif value == []:
                lists[name] = None
            else:
                is_record |= name in wanted
        mark = scanner.mark()
    if mark not in ("", "{"):
        return _Layout("none", "not JSON")
    if mark or is_record or not lists or isinstance(lists.get(TOKENS), int):
        return _Layout("values")
    chosen = _list_of_records(lists, settings.text)
    if chosen is None:
        return _Layout("none", f"a JSON object with several lists ({', '.join(lists)})")
    return _Layout("named", chosen)


def _list_of_records(lists: dict[str, Any], fields: Sequence[str]) -> str | None:
    """The name of the list that holds the records; None if several may."""
    objects = [name for name, first in lists.items() if isinstance(first, dict)]
    for names in (list(lists), [name for name in fields if name in lists], objects):
        if len(names) == 1:
            return names[0]
    return USUAL_LIST if USUAL_LIST in lists else None
