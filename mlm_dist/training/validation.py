"""Held-out validation: loss, perplexity and accuracy on masks that never change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mlm_dist.batching.loader import MicroBatch
from mlm_dist.batching.masking import Masker

MASK_SEED = 0


@dataclass(frozen=True)
class Validation:
    """What a model makes of the held-out rows.

    Args:
        loss: Nats per predicted token.
        accuracy: Share of the predicted tokens whose likeliest token is the right one.
        num_masked: Predicted tokens.
    """

    loss: float
    accuracy: float
    num_masked: int

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


def held_out_masks(masker: Masker) -> Masker:
    """What masks the held-out rows of a run whose training rows this one masks: single tokens, at the same chance.

    They depend neither on the run's seed nor on `masking.unit` and `masking.final_probability`, so that runs that
    differ in these can be compared: the words of a text that is cut into spans are harder to guess.
    """
    return replace(masker, seed=MASK_SEED, config=replace(masker.config, unit="token", final_probability=None))


@torch.no_grad()
def evaluate(accelerator: Accelerator, model: Any, batches: Iterable[MicroBatch]) -> Validation:
    """Evaluate a prepared model on this process's batches and add up over all processes; a collective."""
    device = accelerator.device
    # Apple's GPUs have no double precision; on all others the sum of a million terms shall be as good as its terms.
    wide = torch.float32 if device.type == "mps" else torch.float64
    totals = torch.zeros(3, device=device, dtype=wide)
    model.eval()
    for micro in batches:
        batch = micro.to(device)
        found = model(*batch.inputs)
        counted = totals.new_tensor(micro.num_masked)
        totals += torch.stack([found.loss_sum.to(wide), found.num_correct.to(wide), counted])
    model.train()
    loss_sum, num_correct, num_masked = accelerator.reduce(totals, "sum").tolist()
    count = max(num_masked, 1.0)
    return Validation(loss_sum / count, num_correct / count, int(num_masked))


def unigram_loss(token_counts: np.ndarray, batches: Iterable[MicroBatch]) -> float:
    """Nats per predicted token of the best guess that ignores context: each token by its frequency in training.

    Args:
        token_counts: [vocabulary] how often each token stands in the training rows; one is added to each.
        batches: The held-out batches of all processes.
    """
    log_probability = np.log(token_counts + 1.0) - math.log(float(token_counts.sum()) + len(token_counts))
    total, count = 0.0, 0
    for micro in batches:
        labels = micro.labels.numpy()
        labels = labels[labels >= 0]
        total -= float(log_probability[labels].sum())
        count += len(labels)
    return total / max(count, 1)
