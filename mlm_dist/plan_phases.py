"""The phases of a run in the table of the plan job: rows, batch, masks, learning rate, length and time of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from rich.table import Table

from mlm_dist.batches.mixture import samples_per_epoch
from mlm_dist.spec import PhaseSpec, RowsSpec, Spec, describe_objective
from mlm_dist.training.time_estimate import PhaseTime

Rows: TypeAlias = dict[str, dict[str, int]]  # {split: {source: rows}}
Length: TypeAlias = tuple[int | None, float]  # steps, if they are known, and samples


def add_only_phase(table: Table, spec: Spec) -> None:
    """Add what the only phase of a run learns, and how."""
    phase = spec.phases[0]
    decided = " (by a trial of the architecture)" if spec.written["rows"]["mode"] is None else ""
    table.add_row("rows", describe_rows(phase, decided))
    table.add_row("batch", phase.batch.describe())
    is_default = " (the default for this start)" if spec.written["optim"]["lr"] is None else ""
    table.add_row("learning rate", describe_rate(phase, is_default))


def add_lengths(table: Table, phases: Sequence[PhaseSpec], lengths: Sequence[Length], rows: Rows) -> None:
    """Add the steps and the sources of each phase, and what it learns if there are several.

    Args:
        table: The table of the plan.
        phases: The phases of the run.
        lengths: Their lengths.
        rows: The rows of each source.
    """
    for before, phase, (steps, samples) in zip([None, *phases], phases, lengths, strict=False):
        length = describe_length(phase, steps, samples, "" if len(phases) == 1 else " steps")
        sources = list(_sources(phase, rows, None if steps is None else samples))
        if len(phases) == 1:
            table.add_row("steps", length)
            for i, text in enumerate(sources):
                table.add_row("" if i else "sources", text)
            return
        tokens = "" if steps is None else f", at most {samples * phase.rows.max_length:,.0f} tokens"
        table.add_row(f"phase {phase.name}", f"{length}{tokens}")
        texts = [*_changes(phase, before), f"learning rate {describe_rate(phase)}"]
        for text in [*texts, *(sources if before is None or before.mix != phase.mix else ())]:
            table.add_row("", text)


def _changes(phase: PhaseSpec, before: PhaseSpec | None) -> Iterator[str]:
    """Rows, batch and objective of a phase, as far as they differ from those of the phase before."""
    if before is None or before.rows != phase.rows:
        yield describe_rows(phase)
    if before is None or before.batch.global_size != phase.batch.global_size:
        yield phase.batch.describe()
    if before is None or (before.objective, before.masking) != (phase.objective, phase.masking):
        yield f"objective {describe_objective(phase.objective, dataclasses.asdict(phase.masking))}"


def _sources(phase: PhaseSpec, rows: Rows, samples: float | None) -> Iterator[str]:
    """The share, the rows and the epochs of each source, if there are several."""
    train = rows["train"]
    shares = phase.mix or {name: count / sum(train.values()) for name, count in train.items() if count}
    for name, num_rows in train.items() if len(train) > 1 else ():
        held_out = rows["validation"][name]
        text = f"validation only, {held_out:,} rows"
        if name in shares:
            share = shares[name] / sum(shares.values())
            epochs = f", {samples * share / num_rows:,.3g} epochs" if samples is not None and num_rows else ""
            text = f"{share:.1%}, {num_rows:,} rows{epochs}, {held_out:,} for validation"
        yield f"{name}: {text}"


def describe_rows(phase: PhaseSpec, decided: str = "") -> str:
    """How documents become rows; `decided` says who chose the mode."""
    what = {
        "pack": "several chunks of documents",
        "chunk": "one chunk of a document",
        "truncate": "the beginning of a document",
        "pairs": "a query and a passage",
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


def length_of(phase: PhaseSpec, rows: Mapping[str, int], kind: RowsSpec) -> Length:
    """Steps and samples: known, estimated from rows, or for a duration in hours those of one epoch.

    Args:
        phase: The phase.
        rows: {source: training rows}.
        kind: What rows these are.
    """
    if phase.length.steps is not None:
        return phase.length.steps, float(phase.length.samples or 0)
    duration, size = phase.duration, phase.batch.global_size
    epoch = samples_per_epoch(rows, phase.mix) * kind.max_length / phase.rows.max_length
    match duration.unit:
        case "hours":
            return None, epoch
        case "steps":
            return int(duration.value), duration.value * size
        case "epochs":
            samples = duration.value * epoch
        case "tokens":
            samples = duration.value / phase.rows.max_length
    return max(1, round(samples / size)), samples


def describe_length(phase: PhaseSpec, steps: int | None, samples: float, unit: str = "") -> str:
    """The length of a phase; `unit` follows the number of steps."""
    if steps is None:
        return f"as many as fit into {phase.duration}"
    return f"{steps:,}{unit} for {samples:,.0f} rows ({phase.duration})"


def describe_time(phase: PhaseSpec, time: PhaseTime) -> str:
    """The time of one of several phases."""
    if phase.duration.unit == "hours":
        return f"{phase.name} {phase.duration}"
    return f"{phase.name} {duration(time.total)}"


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
