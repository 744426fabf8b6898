"""resolved.yaml of a run: every value as it was decided."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlm_dist.spec import RateSpec


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


class PlannedRate(NamedTuple):
    """The learning rate of a phase.

    Args:
        rate: The rate.
        steps: Steps of the phase; None if they were not known before its first.
    """

    rate: RateSpec
    steps: int | None


def planned_rates(resolved: Mapping[str, Any] | None) -> list[PlannedRate]:
    """The learning rates of the phases in resolved.yaml; none if they are not there, or do not have their fields."""
    try:
        phases = (resolved or {}).get("phases") or []
        return [PlannedRate(RateSpec(**phase["rate"]), phase["length"]["steps"]) for phase in phases]
    except (AttributeError, KeyError, TypeError):
        return []
