"""The settings of a run: {config key: value}, with the values that were decided for keys that were left open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_dist.config import flat


def settings(written: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The settings of a run, flat, in the types that every tracker takes.

    Args:
        written: The config as it was written, with defaults: the content of config.yaml.
        resolved: Every value as it was decided: the content of resolved.yaml.
    """
    values = flat(written)
    for section, decided in {**resolved, "rows": (resolved.get("corpus") or {}).get("rows")}.items():
        if isinstance(decided, Mapping):
            names = [name for name in decided if f"{section}.{name}" in values]
            values |= flat({section: {name: decided[name] for name in names if not isinstance(decided[name], Mapping)}})
    return values
