"""Specs, corpora and engines of a config, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlm_dist.config import Config
from mlm_dist.corpus import pipeline
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.engine.start import start
from mlm_dist.resolve import corpus_spec, resolve
from mlm_dist.spec import BatchSpec, Spec

CPU = Device("cpu", "CPU", 1, 16 << 30, has_bf16=True)
ONE_PROCESS = Launch(1, 1, CPU)
ONE_BATCH = BatchSpec(16, 16, 1, 1, initial_size=16, initial_length=128)


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
