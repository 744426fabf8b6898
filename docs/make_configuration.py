"""Write configuration.md, the reference of all keys, from mlm_dist/config.py; `make docs` runs it."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

import docstring_parser
import yaml

from mlm_dist.config import Config

HEAD = """\
# Configuration

<!-- Written by `make docs` from mlm_dist/config.py: change it there. -->

All keys, with their types and defaults. A YAML file holds them as a tree, a flag with dots, as `--optim.lr 3e-5`; a
flag wins over the file, the file over the default. How many processes there are, in which precision, and what is
sharded is said in the accelerate file alone: [topologies.md](topologies.md).
"""
TABLE = "| key | type | default | |\n|---|---|---|---|\n"
NAMES = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", type(None): "`null`"}


def reference() -> str:
    """The whole page: first the keys that stand alone, then a section for each group."""
    kinds = typing.get_type_hints(Config)
    groups = [item for item in dataclasses.fields(Config) if dataclasses.is_dataclass(kinds[item.name])]
    page = f"{HEAD}\n{TABLE}" + "".join(_row(Config, item) for item in dataclasses.fields(Config) if item not in groups)
    for group in groups:
        tree = kinds[group.name]
        page += f"\n## {group.name}\n\n{docstring_parser.parse(tree.__doc__).short_description}\n\n{TABLE}"
        page += "".join(_row(tree, item, f"{group.name}.") for item in dataclasses.fields(tree))
    return page


def _row(tree: Any, item: dataclasses.Field[Any], prefix: str = "") -> str:
    """One key, with what its dataclass's docstring says of it."""
    said = {one.arg_name: str(one.description) for one in docstring_parser.parse(tree.__doc__).params}
    text = " ".join(said[item.name].split()).replace("|", "\\|").replace("<", "&lt;")
    kind = typing.get_type_hints(tree)[item.name]
    return f"| `{prefix}{item.name}` | {_in_words(kind)} | {_as_yaml(getattr(tree(), item.name))} | {text} |\n"


def _in_words(kind: Any) -> str:
    *others, last = _choices(kind)
    return f"{', '.join(others)} or {last}" if others else last


def _choices(kind: Any) -> list[str]:
    """What a value may be: kinds in words, and words that stand for themselves in code."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return [f"`{part}`" for part in parts]
    if origin in (types.UnionType, typing.Union):
        return [choice for part in parts for choice in _choices(part)]
    if origin is list:
        return [f"list of {_in_words(parts[0])}s"]
    if origin is tuple:
        return [f"{len(parts)} {_in_words(parts[0])}s"]
    return ["keys and values" if origin is dict else NAMES[kind]]


def _as_yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    written = yaml.safe_dump(plain, default_flow_style=True, width=1000)
    return f"`{written.splitlines()[0]}`"  # a plain value is followed by a line of dots


if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(reference(), "utf-8")
