"""How a section of the config checks its values."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from mlm_dist.config.value_types import fits, type_hints, type_name
from mlm_dist.errors import ConfigError


@dataclass(frozen=True)
class Section:
    """A section of the config: a frozen dataclass that checks its own values when it is made.

    Subclasses set `SECTION`, the prefix of their keys, and override `check`.
    """

    SECTION: ClassVar[str] = ""

    def __post_init__(self) -> None:
        section: Any = type(self)
        hints = type_hints(section)
        for item in dataclasses.fields(self):
            value: Any = getattr(self, item.name)
            kind = hints[item.name]
            if not fits(value, kind):
                raise ConfigError(f"{self.key(item.name)}: expected {type_name(kind)}, got {value}")
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ConfigError(f"{self.key(item.name)}: must be a finite number, got {value}")
        self.check()

    def check(self) -> None:
        """Refuse values that no run can use.

        Raises:
            ConfigError: Names the key, what is expected and what was given.
        """

    def key(self, name: str) -> str:
        """The dotted key of a field."""
        return f"{self.SECTION}.{name}" if self.SECTION else name

    def require(self, name: str, ok: bool, expected: str) -> None:
        """Refuse a field's value unless `ok`."""
        if not ok:
            raise ConfigError(f"{self.key(name)}: {expected}, got {getattr(self, name)}")

    def require_at_least(self, name: str, least: float, *, or_null: bool = False) -> None:
        """Refuse a number below `least`."""
        value: Any = getattr(self, name)
        null = ", or null" if or_null else ""
        self.require(name, value is None or value >= least, f"must be at least {least:g}{null}")

    def require_over_zero(self, name: str, *, or_null: bool = False) -> None:
        """Refuse a number that is not over 0."""
        value: Any = getattr(self, name)
        self.require(name, value is None or value > 0, f"must be over 0{', or null' if or_null else ''}")

    def require_text(self, name: str, expected: str) -> None:
        """Refuse an empty text; None passes."""
        value: Any = getattr(self, name)
        self.require(name, value is None or bool(value.strip()), expected)
