"""Fields of records: the text, the token ids, and what else says how a record is used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

TOKENS = "input_ids"
TRAIN, VALIDATION, UNKNOWN = "train", "validation", "unknown"
_SIDES = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "test", "testing", "eval"), VALIDATION),
}
MAX_DEPTH = 20


def values_at(record: Any, field: str) -> Iterator[Any]:
    """The values of a record under a field: one, or several if a list of objects lies on the way.

    A dot leads into a field, unless a field has the whole name.
    """
    if isinstance(record, Mapping):
        if field in record:
            yield record[field]
            return
        for end in (i for i, letter in enumerate(field) if letter == "."):
            if field[:end] in record:
                yield from values_at(record[field[:end]], field[end + 1 :])
                return
    elif isinstance(record, Sequence) and not isinstance(record, str | bytes):
        for item in record:
            yield from values_at(item, field)


def has(record: Any, field: str) -> bool:
    """Whether a record has a field, whatever its value. A record that is a text has every field."""
    return isinstance(record, str) or any(True for _ in values_at(record, field))


def text_of(record: Any, fields: Sequence[str]) -> str | None:
    """The texts under some fields, joined by blank lines; None if there is none.

    A list of texts counts as several texts.
    """
    if isinstance(record, str):
        return record
    if not isinstance(record, Mapping):
        return None
    if len(fields) == 1 and isinstance(value := record.get(fields[0]), str):
        return value
    texts = [text for field in fields for value in values_at(record, field) for text in _texts(value)]
    return "\n\n".join(text for text in texts if text.strip()) if texts else None


def tokens_of(record: Any, fields: Sequence[str]) -> Sequence[int] | None:
    """The token ids of a record without text: a list of integers under its only field, or under `input_ids`."""
    if isinstance(record, Mapping):
        for field in (*fields[:1], TOKENS) if len(fields) == 1 else (TOKENS,):
            value = next(values_at(record, field), None)
            if isinstance(value, list) and value and all(type(token) is int for token in value):
                return value
    return None


def side_of(record: Any, field: str | None) -> str | None:
    """The side of the split that a record names: train, validation or unknown; None if it names none.

    A record for testing is on the side of validation.
    """
    value = _first_at(record, field)
    if value is None or value == "":
        return None
    return _SIDES.get(value.strip().lower(), UNKNOWN) if isinstance(value, str) else UNKNOWN


def side_of_path(path: str) -> str | None:
    """The side of the split that the name of a file, or of a folder above it, says: data/train-00000.parquet is train.

    None if no name says it, or one names both sides.
    """
    for name in reversed(path.split("/")):
        sides = {_SIDES[word] for word in re.split(r"[\W_]+|\d+", name.lower()) if word in _SIDES}
        if sides:
            return sides.pop() if len(sides) == 1 else None
    return None


def group_of(record: Any, field: str | None) -> str | None:
    """The value of a record by which it is grouped, as text; None if it names no group.

    Tools that cluster documents write -1 for those in no cluster.
    """
    value = _first_at(record, field)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = str(value)
    return None if text.strip() in ("", "-1", "-1.0") else text


def names(record: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """The names of a record's fields, those of nested ones with dots."""
    if isinstance(record, Mapping) and depth < MAX_DEPTH:
        for name, value in record.items():
            inner = value[0] if isinstance(value, list) and value and isinstance(value[0], Mapping) else value
            if isinstance(inner, Mapping) and inner:
                yield from names(inner, f"{prefix}{name}.", depth + 1)
            else:
                yield f"{prefix}{name}"


def _first_at(record: Any, field: str | None) -> Any:
    """The first value of a record under a field; None if there is none, or no field."""
    if field is None or isinstance(record, str):
        return None
    if isinstance(record, dict) and (field in record or "." not in field):
        return record.get(field)
    return next(values_at(record, field), None)


def _texts(value: Any) -> list[str]:
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return []
    if isinstance(value, list):
        return [text for text in value if isinstance(text, str)] if all(isinstance(v, str) for v in value) else []
    return [value] if isinstance(value, str) else []
