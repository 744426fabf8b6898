"""Two steps of tiny models of many architectures with packed rows, under whatever launched this; one line of JSON.

For each: the losses, the gradient norms, and the weights and moments read after a validation, as a checkpoint does.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import torch
from models import optim_spec
from tiny import LENGTH, overrides

from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.config import MaskingConfig, ModelConfig
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Engine
from mlm_dist.engine.start import start
from mlm_dist.model.architecture import architecture
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.optim.optimizers import build_optimizer
from mlm_dist.spec import BatchSpec
from mlm_dist.training.step import example_loss, train_step

ROWS, VOCABULARY, STEPS = 4, 300, 2


class TwoChunks:
    """Rows of random tokens with two chunks each; see `Rows`."""

    groups: np.ndarray | None = None
    counts = RowCounts(ROWS * STEPS * LENGTH, LENGTH - 10, {2: ROWS * STEPS})

    def __len__(self) -> int:
        return ROWS * STEPS

    def take(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([np.random.default_rng(i).integers(5, VOCABULARY, LENGTH, np.int32) for i in indices])

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.tile([10, LENGTH - 10], len(indices)), np.full(len(indices), 2)

    def word_starts(self, indices: np.ndarray) -> Any:
        raise NotImplementedError


def batch_of(step: int, rank: int, micro_size: int) -> MicroBatch:
    """The rows of a rank in a step; dropout is off, so they need no keys."""
    samples = step * ROWS + rank * micro_size + np.arange(micro_size)
    masker = Masker(MaskingConfig(), 0, 4, (0, 1, 2, 3, 4), VOCABULARY)
    wanted = Samples(np.zeros_like(samples), samples, progress=np.zeros(micro_size))
    return assemble(TwoChunks(), masker, wanted, micro_size)


def steps(engine: Engine, name: str, batch: BatchSpec) -> dict[str, Any]:
    """Train one architecture, and read its state after a forward pass without a backward pass."""
    from transformers import AutoModelForMaskedLM

    config = architecture(
        ModelConfig(name_or_path=name, overrides=overrides(name)), LENGTH, None, train_vocab_size=VOCABULARY
    )
    for field in [field for field in vars(config) if "drop" in field and isinstance(getattr(config, field), float)]:
        setattr(config, field, 0.0)
    torch.manual_seed(0)
    objective = MaskedLM(Masker(MaskingConfig(), 0, 4, (0, 1, 2, 3, 4), VOCABULARY))
    module = objective.module(AutoModelForMaskedLM.from_config(config), masked_head=True, packed=True)
    named = dict(module.named_parameters())
    trained = [parameter for parameter in named.values() if parameter.requires_grad]
    engine.setup(module, build_optimizer(module, optim_spec()))
    losses, norms = [], []
    for step in range(STEPS):
        result = train_step(engine, objective, [batch_of(step, engine.rank, batch.micro_size)], 1e-3, step)
        losses.append(float(engine.sum(result.loss_sums).sum() / result.counts.sum()))
        norms.append(float(result.grad_norm))
    with torch.no_grad():
        example_loss(engine, objective, batch_of(0, engine.rank, batch.micro_size))
    weights, moments = (
        {name: value.cpu() for name, value in read if value is not None}  # on rank 0
        for read in (engine.parameters(), engine.moments())
    )
    every = [*weights.values(), *moments.values()]
    return {
        "losses": losses,
        "norms": norms,
        "parameters": list(weights) == list(named),
        "moments": len(moments) == 2 * len(trained),
        "fp32": all(value.dtype == torch.float32 for value in every),
        "zeros": sum(not value.any() for value in moments.values()),
        "weights": [float(value.double().abs().sum()) for value in weights.values()],
    }


def main(names: list[str]) -> None:
    """Train each of these architectures."""
    warnings.simplefilter("ignore")  # of libraries
    launch = Launch.read()
    micro_size = ROWS // launch.world_size
    batch = BatchSpec(ROWS, micro_size, 1, launch.world_size, initial_size=ROWS, initial_length=LENGTH)
    found = {}
    for name in names:
        with start(launch, batch, max_grad_norm=1.0) as engine:
            found[name] = steps(engine, name, batch)
            is_main = engine.is_main
    if is_main:
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
