"""How a section of the config checks its values."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mlm_dist import object_store
from mlm_dist.config.value_types import fits, shown, type_hints, type_name
from mlm_dist.errors import ConfigError

_NOT_TEXT = ("Cc", "Zl", "Zp")  # control characters, and separators of lines and paragraphs
MOST = 1_000_000_000  # of steps, rows or documents: more than any run has


@dataclass(frozen=True)
class Section:
    """A section of the config: a frozen dataclass that checks its own values when it is made.

    Subclasses set `SECTION`, the prefix of their keys, and override `check`. No text is empty or holds line breaks and
    other control characters, unless its field is in `FREE_TEXT`.
    """

    SECTION: ClassVar[str] = ""
    FREE_TEXT: ClassVar[tuple[str, ...]] = ()  # fields whose texts may be blank or hold line breaks

    def __post_init__(self) -> None:
        section: Any = type(self)
        hints = type_hints(section)
        for item in dataclasses.fields(self):
            value: Any = getattr(self, item.name)
            kind = hints[item.name]
            if not fits(value, kind):
                raise ConfigError(f"{self.key(item.name)}: expected {type_name(kind)}, got {shown(value)}")
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ConfigError(f"{self.key(item.name)}: must be a finite number, got {value}")
        self.check()
        for item in dataclasses.fields(self):
            if item.name not in self.FREE_TEXT:
                self._check_texts(self.key(item.name), getattr(self, item.name))

    def check(self) -> None:
        """Refuse values that no run can use.

        Raises:
            ConfigError: Names the key, what is expected and what was given.
        """

    def _check_texts(self, key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, one in value.items():
                self._check_texts(key, name)
                self._check_texts(f"{key}.{name}", one)
        elif isinstance(value, list | tuple):
            for one in value:
                self._check_texts(key, one)
        elif isinstance(value, str):
            if not value.strip():
                raise ConfigError(f"{key}: must not be empty")
            if any(unicodedata.category(one) in _NOT_TEXT for one in value):
                raise ConfigError(f"{key}: must have no line breaks or control characters, got {shown(value)}")

    def key(self, name: str) -> str:
        """The dotted key of a field."""
        return f"{self.SECTION}.{name}" if self.SECTION else name

    def require(self, name: str, ok: bool, expected: str) -> None:
        """Refuse a field's value unless `ok`."""
        if not ok:
            raise ConfigError(f"{self.key(name)}: {expected}, got {shown(getattr(self, name))}")

    def require_range(self, name: str, least: float, most: float = MOST, *, or_null: bool = False) -> None:
        """Refuse a number below `least` or over `most`."""
        value: Any = getattr(self, name)
        null = ", or null" if or_null else ""
        self.require(name, value is None or value >= least, f"must be at least {least:g}{null}")
        self.require(name, value is None or value <= most, f"must be at most {most:,}{null}")

    def require_over_zero(self, name: str, *, or_null: bool = False) -> None:
        """Refuse a number that is not over 0."""
        value: Any = getattr(self, name)
        self.require(name, value is None or value > 0, f"must be over 0{', or null' if or_null else ''}")

    def require_place(self, name: str) -> None:
        """Refuse an address where a path of this machine is expected: it would become the name of a folder.

        Raises:
            ConfigError: The value is an address, which may hold a password and is not quoted.
        """
        value = getattr(self, name)
        self.require(name, value is None or "://" not in value, "must be a path on this machine, not an address")

    def require_store(self, name: str) -> None:
        """Refuse what is not the address of a folder in an object store; None passes.

        Raises:
            ConfigError: The value is no such address.
        """
        value = getattr(self, name)
        if value is not None:
            object_store.check(value, self.key(name))

    def require_text(self, name: str, expected: str) -> None:
        """Refuse an empty text; None passes."""
        value: Any = getattr(self, name)
        self.require(name, value is None or bool(value.strip()), expected)
