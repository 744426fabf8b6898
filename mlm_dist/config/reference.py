"""The reference of all keys: type, default and description of each, from the docstrings of the sections."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from mlm_dist.config.tree import Config
from mlm_dist.registry import entry_points

# Keys whose values other packages can register, and the groups of their entry points.
_REGISTERED = {
    "objective": "mlm_dist.objectives",
    "corpus.source": "mlm_dist.sources",
    "optim.name": "mlm_dist.optimizers",
}
_NAMES = {str: "text", int: "integer", float: "number", bool: "`true` or `false`", type(None): "`null`"}


class Entry(NamedTuple):
    """A key, for people; code is in backquotes.

    Args:
        key: The dotted key.
        type: What values it takes.
        default: Its default, as YAML.
        text: What it means.
    """

    key: str
    type: str
    default: str
    text: str


def sections() -> dict[str, str]:
    """{section: what it is about}; the keys outside any section have the empty name."""
    import docstring_parser

    hints = typing.get_type_hints(Config)
    trees = {item.name: hints[item.name] for item in dataclasses.fields(Config)}
    found = {name: tree for name, tree in trees.items() if dataclasses.is_dataclass(tree)}
    return {"": ""} | {
        name: str(docstring_parser.parse(tree.__doc__).short_description) for name, tree in found.items()
    }


def entries(section: str) -> Iterator[Entry]:
    """The keys of a section, or those outside any section if its name is empty."""
    tree: Any = typing.get_type_hints(Config)[section] if section else Config
    hints = typing.get_type_hints(tree)
    for item in dataclasses.fields(tree):
        if not dataclasses.is_dataclass(hints[item.name]):
            key = f"{section}.{item.name}" if section else item.name
            default = as_yaml(getattr(tree(), item.name))
            yield Entry(key, _type_name(hints[item.name]), default, _description(tree, item.name))


def registered(key: str) -> str:
    """The values of a key that other packages register, as a sentence; empty if there are none."""
    names = [point.name for point in entry_points(_REGISTERED[key])] if key in _REGISTERED else []
    return f"Other packages register: {', '.join(names)}." if names else ""


def _description(tree: Any, name: str) -> str:
    import docstring_parser

    documented = [kind for kind in reversed(tree.__mro__) if dataclasses.is_dataclass(kind)]
    params = [one for kind in documented for one in docstring_parser.parse(kind.__doc__ or "").params]
    return " ".join({one.arg_name: str(one.description) for one in params}[name].split())


def _type_name(kind: Any) -> str:
    *others, last = _choices(kind)
    return f"{', '.join(others)} or {last}" if others else last


def _choices(kind: Any) -> list[str]:
    """The kinds of value a key accepts."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return [f"`{part}`" for part in parts]
    if origin in (types.UnionType, typing.Union):
        return [choice for part in parts for choice in _choices(part)]
    if origin is list:
        return ["list of keys and values" if parts[0] is dict else f"list of {_type_name(parts[0])}s"]
    if origin is tuple:
        return [f"{len(parts)} {_type_name(parts[0])}s"]
    return ["keys and values" if dict in (origin, kind) else _NAMES[kind]]


def as_yaml(value: Any) -> str:
    """A value in one line of YAML."""
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    written: str = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return written.splitlines()[0]  # after a plain value, YAML writes a second line of dots
