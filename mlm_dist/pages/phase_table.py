"""The phases of a run as a table: what each learns, for how long, and the validation at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.pages.formats import number
from mlm_dist.pages.record import Record
from mlm_dist.pages.tables import Table
from mlm_dist.spec import describe_objective


def phase_table(record: Record, resolved: Mapping[str, Any] | None) -> Table | None:
    """The table; None without several phases, or without the spec of the run.

    Args:
        record: The run.
        resolved: The content of resolved.yaml.
    """
    phases = (resolved or {}).get("phases")
    if not isinstance(phases, list) or len(phases) < 2:
        return None
    heads = ["phase", "from step", "rows per step", "tokens per row", "objective", "learning rate", "loss at its end"]
    return Table(
        "What each phase trains, and the validation loss at its end",
        heads,
        [_row(record, phase, phases) for phase in phases],
        numbers=True,
    )


def _row(record: Record, phase: Mapping[str, Any], phases: Sequence[Mapping[str, Any]]) -> list[str]:
    name, masking, rate = str(phase["name"]), phase["masking"], phase["rate"]
    begun = record.phases.get(name)
    later = [one["name"] for one in phases[phases.index(phase) + 1 :]]
    ends = [record.phases[one] for one in later if one in record.phases]
    line = record.validation.get(ends[0] if ends else record.step) if begun is not None else None
    return [
        name,
        "" if begun is None else f"{begun:,}",
        f"{phase['batch']['global_size']:,}",
        f"{phase['rows']['max_length']:,}",
        describe_objective(str(phase["objective"]), masking),
        f"{rate['peak']:.3g}, {rate['schedule']}",
        "" if line is None else number(line["loss"]) + record.other_rows(line["step"]),
    ]
