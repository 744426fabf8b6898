"""How long an update takes here: a few of them on random tokens and random weights, so that nothing is fetched."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import torch

from mlm_dist.batches.global_batch import BatchPlan
from mlm_dist.batches.loader import assemble
from mlm_dist.batches.masking import Masker
from mlm_dist.config import Config, TrackingConfig
from mlm_dist.engine import distributed
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.optim.parameter_groups import build_optimizer
from mlm_dist.training.step import optimizer_step

NUM_UPDATES = 3
CPU_TOKENS = 4096  # measured at most; a CPU is as fast on these as on more


def seconds_per_update(config: Config, architecture: Any, plan: BatchPlan) -> float:
    """Seconds of an update of this process, data loading aside: the fastest of a few, after one to warm up.

    Args:
        config: The run.
        architecture: The model's transformers configuration.
        plan: The batch of a single process.
    """
    from transformers import AutoModelForMaskedLM

    accelerator = distributed.start(dataclasses.replace(config, tracking=TrackingConfig([])), plan)
    on_cpu = accelerator.device.type == "cpu"
    rows = min(plan.micro_size, max(1, CPU_TOKENS // config.rows.max_length)) if on_cpu else plan.micro_size
    core = MaskedLanguageModel(
        AutoModelForMaskedLM.from_config(architecture, dtype=torch.float32), masked_head=config.model.masked_head
    )
    model, optimizer = distributed.prepare(accelerator, core, build_optimizer(core, config.optim, 1e-5))
    vocab_size, samples = int(architecture.vocab_size), np.arange(rows)
    masker = Masker(config.masking, config.seed, 0, (0,), vocab_size)
    batch = assemble(
        _RandomRows(vocab_size, config.rows.max_length),
        masker,
        np.zeros_like(samples),
        samples,
        rows,
        progress=np.full(rows, 0.5),
    )
    times = []
    for step in range(1 + NUM_UPDATES):
        began = time.perf_counter()
        result = optimizer_step(accelerator, model, optimizer, [batch], config.optim.max_grad_norm, step=step)
        float(result.grad_norm)  # waits for the device
        times.append(time.perf_counter() - began)
    accelerator.free_memory(model, optimizer)
    return min(times[1:]) * plan.accumulation * plan.micro_size / rows


class _RandomRows:
    """Full rows of random tokens.

    Args:
        vocab_size: Tokens there are.
        length: Tokens in a row.
    """

    def __init__(self, vocab_size: int, length: int) -> None:
        self._vocab_size, self._length = vocab_size, length
        self._random = np.random.default_rng(0)

    def __len__(self) -> int:
        return 1 << 20

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self._random.integers(self._vocab_size, size=(len(indices), self._length), dtype=np.int32)

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(indices), self._length), np.ones(len(indices), np.int64)

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), self._length), bool)
