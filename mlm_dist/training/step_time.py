"""The time of a step on this machine: a few steps on random tokens and random weights, so that nothing is fetched."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mlm_dist import environment
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import Samples, assemble
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.start import start
from mlm_dist.model.activation_checkpointing import checkpoint_layers
from mlm_dist.objectives import OBJECTIVES, is_contrastive
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.optim.optimizers import build_optimizer
from mlm_dist.spec import PhaseSpec, Spec
from mlm_dist.training.step import train_step

NUM_STEPS = 3
SLOW_SECONDS = 5.0  # a first step that takes longer is not repeated: what is done once hardly matters in it
CPU_TOKENS = 4096  # measured at most; more do not make a CPU faster
# What a launcher says to its processes, except how many share the cores of this machine.
_OF_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OF_SHARDING = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")
MIDDLE = 0.5  # of the run, on which the masking rate may depend


def seconds_per_step(spec: Spec, phase: PhaseSpec) -> float:
    """Seconds of a step of a phase, without data loading: the fastest of a few, after one that counts if it is slow.

    Of several processes it is the time that this one needs for its share of the global batch, alone and unsharded, with
    its share of the CPU's cores. What they exchange comes on top, see `engine.communication`.
    """
    from transformers import AutoModelForMaskedLM

    batch, length, vocab_size = phase.batch, phase.rows.max_length, int(spec.architecture.vocab_size)
    on_cpu = spec.launch.device.kind == "cpu"
    rows = min(batch.micro_size, max(1, CPU_TOKENS // length)) if on_cpu else batch.micro_size
    kind = OBJECTIVES[phase.objective]
    if not issubclass(kind, MaskedLM):  # what another package's objective costs is not known
        kind = MaskedLM
    objective = kind(Masker(phase.masking, spec.seed, 0, (0,), vocab_size))
    samples = np.arange(rows)
    wanted = Samples(np.zeros_like(samples), samples, progress=np.full(rows, MIDDLE))
    of_pairs = is_contrastive(phase.objective)
    micro_batch = assemble(RandomRows(vocab_size, length, pairs=of_pairs), objective.corruption, wanted, rows)
    with _alone(spec.launch) as launch, start(launch, batch, spec.optim.max_grad_norm) as engine:
        model = AutoModelForMaskedLM.from_config(spec.architecture, dtype=torch.float32)
        module = objective.module(model, masked_head=spec.model.masked_head, packed=of_pairs)
        if spec.model.checkpointing == "layers":
            checkpoint_layers(module.model)
        engine.setup(module, build_optimizer(module, spec.optim))
        times = []
        for step in range(1 + NUM_STEPS):
            began = time.perf_counter()
            result = train_step(engine, objective, [micro_batch], phase.rate.peak, step)
            float(result.grad_norm)  # waits for the device
            times.append(time.perf_counter() - began)
            if times[0] > SLOW_SECONDS:
                break
    return min(times[1:] or times) * batch.accumulation * batch.micro_size / rows


@contextlib.contextmanager
def _alone(launch: Launch) -> Iterator[Launch]:
    """The launch of one process without sharding, in the precision and on the device of another launch."""
    with environment.restored():
        for name in (*_OF_LAUNCHER, *_OF_SHARDING):
            os.environ.pop(name, None)
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no" if launch.precision == "fp32" else launch.precision
        plain: dict[str, Any] = {"sharding": "none", "stage": 0, "offload": frozenset(), "deepspeed_file": None}
        yield dataclasses.replace(launch, world_size=1, local_world_size=1, rank=0, deepspeed={}, **plain)


class RandomRows:
    """Full rows of random tokens; see `Rows`.

    Args:
        vocab_size: Tokens are drawn below it.
        length: Tokens per row.
        pairs: Whether each row is a pair of texts of half the length.
    """

    def __init__(self, vocab_size: int, length: int, *, pairs: bool = False) -> None:
        self._vocab_size, self._length = vocab_size, length
        self._chunks = [length // 2, length - length // 2] if pairs else [length]
        self.counts = RowCounts(length << 20, self._chunks[-1], {len(self._chunks): 1 << 20})
        self.groups = np.arange(2 * len(self)).reshape(-1, 2) if pairs else None
        self._random = np.random.default_rng(0)

    def __len__(self) -> int:
        return 1 << 20

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._random.integers(self._vocab_size, size=(len(indices), self._length), dtype=np.int32)

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""
        return np.tile(self._chunks, len(indices)), np.full(len(indices), len(self._chunks))

    def word_starts(self, indices: np.ndarray) -> Any:
        """See `Rows`."""
        return np.ones((len(indices), self._length), bool)
