"""resolved.yaml of a run: every value as it was decided."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlm_dist.config import Duration
from mlm_dist.spec import OptimSpec


def read_yaml(path: Path) -> dict[str, Any] | None:
    """The content of a YAML file of a run; None without the file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not YAML, or no mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError("not a mapping")
    return values


def optim_spec(resolved: Mapping[str, Any] | None) -> OptimSpec | None:
    """The optimizer in resolved.yaml; None if it is not there, or does not have its fields."""
    optim = (resolved or {}).get("optim")
    try:
        values = dict(optim or {})
        values["duration"] = Duration.parse(str(values["duration"]).replace(",", ""))
        return OptimSpec(**values)
    except (KeyError, TypeError, ValueError):
        return None
