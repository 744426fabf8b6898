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
    phases, corpus = resolved.get("phases") or [], resolved.get("corpus") or {}
    sections = dict(resolved) | {"rows": corpus.get("rows")}
    if len(phases) == 1 and not written.get("phases"):
        rate = phases[0]["rate"]
        sections |= phases[0] | {"optim": {**resolved["optim"], "lr": rate["peak"]}}
    for section, decided in sections.items():
        given = written.get(section)
        if isinstance(decided, Mapping) and isinstance(given, Mapping):
            names = [name for name in decided if name in given and _is_decided(given[name], decided[name])]
            values |= flat({section: {name: decided[name] for name in names}})
    return values


def _is_decided(written: Any, resolved: Any) -> bool:
    """Whether a value was decided: a text that was written, such as a duration, stays as it is."""
    return not isinstance(resolved, Mapping) and not isinstance(written, str)
