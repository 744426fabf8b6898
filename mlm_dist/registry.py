"""Registries: the kinds of a thing that can be named, each loaded when it is first used.

Another package adds a kind through an entry point, in its own pyproject.toml:

    [project.entry-points."mlm_dist.sources"]
    wiki = "my_package.wiki:Wiki"
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar, cast

from mlm_dist.errors import ConfigError, reason

T = TypeVar("T")


class Registry(Generic[T]):
    """Named objects of one kind.

    Args:
        group: The entry-point group in which other packages register theirs, such as mlm_dist.sources.
        entries: {name: object, or "module:attribute"} of those in this package, in order.
    """

    def __init__(self, group: str, entries: Mapping[str, T | str]) -> None:
        self.group = group
        self._entries: dict[str, Any] = dict(entries)

    @cached_property
    def _registered(self) -> dict[str, importlib.metadata.EntryPoint]:
        """{name: entry point} of other packages; a name of this package cannot be replaced."""
        return {point.name: point for point in entry_points(self.group)}

    def add(self, name: str, entry: T | str) -> None:
        """Register an object, or "module:attribute", in this process."""
        self._entries[name] = entry

    def names(self) -> list[str]:
        """All names: those of this package in their order, then others."""
        return [*self._entries, *(name for name in self._registered if name not in self._entries)]

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._registered

    def __getitem__(self, name: str) -> T:
        """The object of a name, imported if it has not been yet.

        Raises:
            KeyError: There is no such name.
            ConfigError: Another package registers it, and it cannot be imported.
        """
        if name not in self._entries:
            self._entries[name] = _load(self._registered[name])
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, attribute = entry.partition(":")
            entry = self._entries[name] = getattr(importlib.import_module(module), attribute)
        return cast(T, entry)


def entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
    """The entry points that installed packages declare in a group, by name."""
    return sorted(importlib.metadata.entry_points(group=group), key=lambda point: point.name)


def _load(point: importlib.metadata.EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist is not None else point.module
        raise ConfigError(
            f"{point.group}: cannot import {point.name} of the package {package} ({reason(error)}); repair or remove "
            "the package"
        ) from error
