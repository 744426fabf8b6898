"""The lengths of the phases of a run, which depend on the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mlm_dist.batches.ramp import Ramp
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.optim.schedule import warmup_steps
from mlm_dist.spec import Length, PhaseSpec, RowsSpec, Spec


def complete(spec: Spec, corpora: Mapping[RowsSpec, PreparedCorpus]) -> Spec:
    """The spec with the lengths of its phases, which depend on their training rows.

    An epoch is one pass over the training rows; with replay it takes 1 / (1 - replay_share) times as many samples. A
    duration in tokens counts tokens that are not padding, by their mean number per row.

    Args:
        spec: The spec.
        corpora: The corpus of each kind of rows.

    Raises:
        ConfigError: A corpus has fewer training rows than one global batch.
    """
    phases = (dataclasses.replace(phase, length=_length(phase, spec, corpora[phase.rows])) for phase in spec.phases)
    return dataclasses.replace(spec, phases=tuple(phases))


def _length(phase: PhaseSpec, spec: Spec, corpus: PreparedCorpus) -> Length:
    num_rows = int(corpus.manifest["rows"]["train"])
    size = phase.batch.global_size
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
        # Only a duration in tokens needs the rows; loading them takes most of a second.
        divisor = 1 - spec.replay_share if duration.unit == "epochs" else corpus.rows("train").num_tokens
        samples = max(1, round(duration.value * num_rows / divisor))
        steps = ramp.steps(samples)
    return Length(steps, samples, warmup_steps(phase.rate.warmup, steps))
