"""The types that values of the config can have: whether a value fits, and their names for people."""

from __future__ import annotations

import codecs
import functools
import types
import typing
from typing import Any, Literal


@functools.cache
def type_hints(section: type) -> dict[str, Any]:
    """{field: type} of a section."""
    return typing.get_type_hints(section)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has a type; an integer is a number too, and true and false are not integers."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin in (list, dict):
        values = value.values() if isinstance(value, dict) else value
        return isinstance(value, origin) and all(fits(one, parts[-1]) for one in values)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if kind in (int, float):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return kind is Any or isinstance(value, origin or kind)


def type_name(kind: Any) -> str:
    """A type for messages."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(typing.get_args(kind))
    if typing.get_origin(kind) is list and typing.get_origin(typing.get_args(kind)[0]) is Literal:
        return f"a list of {', '.join(typing.get_args(typing.get_args(kind)[0]))}"
    if typing.get_origin(kind) is dict:
        return f"{{name: {type_name(typing.get_args(kind)[1])}}}"
    if isinstance(kind, type) and not typing.get_args(kind):
        return kind.__name__
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join("null" if part is type(None) else type_name(part) for part in typing.get_args(kind))
    return str(kind)


def is_text_encoding(name: str) -> bool:
    """Whether Python can decode text with an encoding of this name."""
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        return False
    return found._is_text_encoding and found.name not in ("idna", "punycode", "undefined")


def shown(value: Any) -> str:
    """A value for messages, not over 80 characters."""
    try:
        text = str(value)
    except ValueError:  # Python converts no integer of over 4,300 digits
        text = f"an integer of {value.bit_length():,} bits"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"
