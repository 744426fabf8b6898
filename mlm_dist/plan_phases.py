"""The phases of a run in the table of the plan job: rows, batch, masks, learning rate, length and time of each."""

from __future__ import annotations

from rich.table import Table

from mlm_dist.spec import PhaseSpec, Spec
from mlm_dist.training.time_estimate import PhaseTime


def add_only_phase(table: Table, spec: Spec) -> None:
    """Add what the only phase of a run learns, and how."""
    phase = spec.phases[0]
    decided = " (by a trial of the architecture)" if spec.written["rows"]["mode"] is None else ""
    table.add_row("rows", describe_rows(phase, decided))
    table.add_row("batch", phase.batch.describe())
    is_default = " (the default for this start)" if spec.written["optim"]["lr"] is None else ""
    table.add_row("learning rate", describe_rate(phase, is_default))


def add_phase(table: Table, phase: PhaseSpec, before: PhaseSpec | None, steps: int | None, samples: float) -> None:
    """Add one of several phases; what is the same as in the phase before is left out.

    Args:
        table: The table of the plan.
        phase: The phase.
        before: The phase before it.
        steps: Its number of steps, if it is known.
        samples: Its number of rows.
    """
    length = describe_length(phase, steps, samples)
    table.add_row(f"phase {phase.name}", f"{length}, at most {samples * phase.rows.max_length:,.0f} tokens")
    if before is None or before.rows != phase.rows:
        table.add_row("", describe_rows(phase))
    if before is None or before.batch.global_size != phase.batch.global_size:
        table.add_row("", phase.batch.describe())
    if before is None or (before.objective, before.masking) != (phase.objective, phase.masking):
        table.add_row("", _describe_objective(phase))
    table.add_row("", f"learning rate {describe_rate(phase)}")


def describe_rows(phase: PhaseSpec, decided: str = "") -> str:
    """How documents become rows; `decided` says who chose the mode."""
    what = {
        "pack": "several chunks of documents",
        "chunk": "one chunk of a document",
        "truncate": "the beginning of a document",
    }[phase.rows.mode]
    return f"mode {phase.rows.mode}{decided}: {what} in each row of {phase.rows.max_length:,} tokens"


def describe_rate(phase: PhaseSpec, is_default: str = "") -> str:
    """The learning rate; `is_default` says where its peak comes from."""
    rate, steps = phase.rate, phase.length.warmup_steps
    if steps is not None:
        warmup = f"after {steps:,} warm-up steps"
    elif rate.warmup < 1:
        warmup = f"after a warm-up of {rate.warmup:.3g} of all steps"
    else:
        warmup = f"after {rate.warmup:,.0f} warm-up steps"
    if rate.warmup and rate.begin:
        warmup += f" from {rate.begin:.3g}"
    floor = f"{rate.peak * rate.floor:.3g}" if rate.floor else "0"
    after = {
        "linear": f"falls to {floor} linearly",
        "cosine": f"falls to {floor} as a cosine",
        "sqrt": f"falls to {floor} as 1 - sqrt",
        "constant": "stays",
        "wsd": f"stays, and falls to {floor} over the last fifth",
    }[rate.schedule]
    return f"peak {rate.peak:.3g}{is_default} {warmup if rate.warmup else 'without warm-up'}, then {after}"


def length_of(phase: PhaseSpec, spec: Spec, num_rows: float) -> tuple[int | None, float]:
    """Steps and samples: known, estimated from a number of rows, or for a duration in hours those of one epoch."""
    if phase.length.steps is not None:
        return phase.length.steps, float(phase.length.samples or 0)
    duration, size = phase.duration, phase.batch.global_size
    match duration.unit:
        case "hours":
            return None, num_rows
        case "steps":
            return int(duration.value), duration.value * size
        case "epochs":
            samples = duration.value * num_rows / (1 - spec.replay_share)
        case "tokens":
            samples = duration.value / phase.rows.max_length
    return max(1, round(samples / size)), samples


def describe_length(phase: PhaseSpec, steps: int | None, samples: float) -> str:
    """The length of a phase."""
    if steps is None:
        return f"as many as fit into {phase.duration}"
    return f"{steps:,} for {samples:,.0f} rows ({phase.duration})"


def describe_time(phase: PhaseSpec, time: PhaseTime) -> str:
    """The time of one of several phases."""
    if phase.duration.unit == "hours":
        return f"{phase.name} {phase.duration}"
    return f"{phase.name} {duration(time.total)}"


def _describe_objective(phase: PhaseSpec) -> str:
    masking = phase.masking
    rate = f"{masking.probability:.3g}"
    if masking.final_probability is not None:
        rate += f" to {masking.final_probability:.3g}"
    return f"objective {phase.objective}" + (
        f", {rate} of the {masking.unit}s predicted" if phase.objective == "masked_lm" else ""
    )


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
