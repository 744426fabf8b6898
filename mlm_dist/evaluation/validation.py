"""Validation: an objective's figures on rows that are not trained on, and the unigram baseline."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from mlm_dist.batches.micro_batch import MicroBatch
from mlm_dist.engine.protocol import Engine
from mlm_dist.objectives.figures import Validation
from mlm_dist.objectives.protocol import Objective


def evaluate(engine: Engine, objective: Objective, batches: Iterable[MicroBatch]) -> Validation:
    """Evaluate the engine's model on this rank's batches and add up over all ranks; collective."""
    return objective.figures(sums(engine, objective, batches))


@torch.no_grad()
def sums(engine: Engine, objective: Objective, batches: Iterable[MicroBatch]) -> list[float]:
    """What `Objective.evaluate` returns, added up over this rank's batches and over all ranks; collective."""
    dtype = torch.float32 if engine.device.type == "mps" else torch.float64
    totals = torch.zeros(objective.num_sums, device=engine.device, dtype=dtype)
    engine.model.eval()
    for batch in batches:
        engine.progress.count += 1
        totals += objective.evaluate(engine.model, batch.to(engine.device))
    engine.model.train()
    found: list[float] = engine.sum(totals).tolist()
    return found


def unigram_baseline(token_counts: np.ndarray, batches: Iterable[MicroBatch]) -> float:
    """The loss, in nats per predicted token, of predicting each token by its frequency in the training rows.

    Args:
        token_counts: [vocabulary] how often each token occurs in the training rows; one is added to each.
        batches: The batches of the validation set, of all ranks.
    """
    log_probability = np.log(token_counts + 1.0) - math.log(float(token_counts.sum()) + len(token_counts))
    total, count = 0.0, 0
    for micro in batches:
        labels = micro.labels.numpy()
        labels = labels[labels >= 0]
        total -= float(log_probability[labels].sum())
        count += len(labels)
    return total / max(count, 1)
