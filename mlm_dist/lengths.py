"""The lengths of the phases of a run, which depend on the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mlm_dist.batches.mixture import samples_per_epoch
from mlm_dist.batches.ramp import Ramp
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.optim.schedule import warmup_steps
from mlm_dist.spec import Length, PhaseSpec, RowsSpec, Spec, num_steps


def complete(spec: Spec, corpora: Mapping[RowsSpec, PreparedCorpus]) -> Spec:
    """The spec with the lengths of its phases, which depend on their training rows.

    An epoch is one pass over the training rows; with a mix, one over those of the source that it names first. A
    duration in tokens counts tokens that are not padding, by their mean number per row.

    Args:
        spec: The spec.
        corpora: The corpus of each kind of rows.

    Raises:
        ConfigError: A corpus has fewer training rows than one global batch, or none of a source of a mix; or the run
            saves fewer checkpoints than are to be averaged.
    """
    phases = [dataclasses.replace(phase, length=_length(phase, corpora[phase.rows])) for phase in spec.phases]
    if (steps := num_steps(phases)) is not None:
        spec.checkpoint.require_saved(spec.export.average, steps)
    return dataclasses.replace(spec, phases=tuple(phases))


def _length(phase: PhaseSpec, corpus: PreparedCorpus) -> Length:
    parts = {name: len(rows) for name, rows in corpus.source_rows("train").items()}
    num_rows = sum(parts[name] for name in phase.mix or parts)
    size = phase.batch.global_size
    for name in phase.mix:
        if not parts[name]:
            raise ConfigError(
                f"{phase.key('corpus.mix')}.{name}: the source has no training rows; add documents, or leave it out"
            )
    if not num_rows:
        raise ConfigError("corpus.source: its training documents hold no tokens, so there are no rows; use another one")
    if num_rows < size:
        raise ConfigError(
            f"{phase.key('batch.global_size')}: {size} rows per step, but the corpus has only {num_rows} training "
            f"rows; lower it to {num_rows} or less, add documents or lower corpus.min_chars or rows.max_length"
        )
    duration, ramp = phase.duration, Ramp(phase.batch, phase.rows.max_length)
    if duration.unit == "hours":
        return Length()
    if duration.unit == "steps":
        steps = int(duration.value)
        samples = ramp.samples_before(steps)
    else:
        is_epochs = duration.unit == "epochs"
        count = duration.value * samples_per_epoch(parts, phase.mix) if is_epochs else _samples(phase, corpus)
        samples = max(1, round(count))
        steps = ramp.steps(samples)
    return Length(steps, samples, warmup_steps(phase.rate.warmup, steps))


def _samples(phase: PhaseSpec, corpus: PreparedCorpus) -> float:
    """The samples of a duration in tokens."""
    tokens, counts = phase.duration.value, corpus.source_counts("train")
    if not phase.mix:
        total = sum(counts.values(), RowCounts())
        return tokens * total.rows / total.tokens
    mean = sum(share * counts[name].tokens / counts[name].rows for name, share in phase.mix.items())
    return tokens * sum(phase.mix.values()) / mean
