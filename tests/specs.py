"""Specs, corpora and engines of a config, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlm_dist.config import Config, ContrastiveConfig, Duration, MaskingConfig
from mlm_dist.corpus import pipeline
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.engine.start import start
from mlm_dist.lengths import complete
from mlm_dist.resolve import corpus_spec, resolve
from mlm_dist.spec import BatchSpec, Length, PhaseSpec, RateSpec, RowsSpec, Spec

CPU = Device("cpu", "CPU", 1, 16 << 30, has_bf16=True)
ONE_PROCESS = Launch(1, 1, CPU)
RATE = RateSpec(1e-3, 0.06, "linear")
ONE_BATCH = BatchSpec(16, 16, 1, 1, initial_size=16, initial_length=128)


def phase(duration: str, *, rate: RateSpec = RATE, micro_size: int = 16) -> PhaseSpec:
    """A phase of some duration; its length is known if that is in steps."""
    parsed, rows = Duration.parse(duration), RowsSpec("pack", 128)
    length = Length(int(parsed.value), 16 * int(parsed.value)) if parsed.unit == "steps" else Length()
    batch = BatchSpec(16, micro_size, 16 // micro_size, 1, initial_size=16, initial_length=128)
    masks, pairs = MaskingConfig(), ContrastiveConfig()
    return PhaseSpec("", "masked_lm", {}, rows, masks, pairs, batch, rate, parsed, False, None, None, None, length)


def completed(spec: Spec, corpus: PreparedCorpus) -> Spec:
    """The spec with the lengths of its phases, which all train on the rows of a corpus."""
    return complete(spec, dict.fromkeys((phase.rows for phase in spec.phases), corpus))


def spec_of(config: Config, launch: Launch = ONE_PROCESS) -> Spec:
    """The spec of a config, by default for one process on the CPU."""
    return resolve(config, launch)


def prepare(config: Config) -> PreparedCorpus:
    """The corpus of a config."""
    return pipeline.prepare(corpus_spec(config))


@contextmanager
def cpu_engine(batch: BatchSpec = ONE_BATCH, max_grad_norm: float | None = None) -> Iterator[Engine]:
    """The engine of one process on the CPU."""
    with start(ONE_PROCESS, batch, max_grad_norm) as engine:
        yield engine
