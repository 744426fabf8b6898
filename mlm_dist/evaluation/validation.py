"""Held-out validation: loss, perplexity and accuracy on masks that never change."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from mlm_dist.batches.loader import MicroBatch
from mlm_dist.batches.masking import Masker
from mlm_dist.evaluation.frequency_bands import NO_BANDS, Bands

MASK_SEED = 0


@dataclass(frozen=True)
class BandAccuracy:
    """How many of a band's predicted tokens were right.

    Args:
        name: The band's.
        num_correct: Predicted tokens of the band whose likeliest token is the right one.
        num_masked: Predicted tokens of the band.
    """

    name: str
    num_correct: int
    num_masked: int


@dataclass(frozen=True)
class Validation:
    """What a model makes of the held-out rows.

    Args:
        loss: Nats per predicted token.
        accuracy: Share of the predicted tokens whose likeliest token is the right one.
        num_masked: Predicted tokens.
        bands: The same accuracy by how often a token stands in the training rows.
        second: The same of a second corpus, without bands; None where there is none.
    """

    loss: float
    accuracy: float
    num_masked: int
    bands: tuple[BandAccuracy, ...] = ()
    second: Validation | None = None

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite where that is too large for a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    def figures(self) -> dict[str, Any]:
        """{name: number}, flat, as trackers and JSON take them; None stands for what is not finite or has no tokens."""
        found: dict[str, Any] = {
            "loss": _finite(self.loss),
            "perplexity": _finite(self.perplexity),
            "accuracy": self.accuracy,
            "masked_tokens": self.num_masked,
        }
        for band in self.bands:
            found[f"accuracy_{band.name}"] = band.num_correct / band.num_masked if band.num_masked else None
            found[f"masked_tokens_{band.name}"] = band.num_masked
        if self.second is not None:
            found |= {f"second_{name}": value for name, value in self.second.figures().items()}
        return found


def held_out_masks(masker: Masker) -> Masker:
    """What masks the held-out rows of a run whose training rows this one masks: single tokens, at the same chance.

    They depend neither on the run's seed nor on `masking.unit` and `masking.final_probability`, so that runs that
    differ in these can be compared: the words of a text that is cut into spans are harder to guess.
    """
    return replace(masker, seed=MASK_SEED, config=replace(masker.config, unit="token", final_probability=None))


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: Any, batches: Iterable[MicroBatch], bands: Bands = NO_BANDS
) -> Validation:
    """Evaluate a prepared model on this process's batches and add up over all processes; a collective."""
    device = accelerator.device
    # Apple's GPUs have no double precision; on all others the sum of a million terms shall be as good as its terms.
    wide = torch.float32 if device.type == "mps" else torch.float64
    totals = torch.zeros(3 + 2 * len(bands.names), device=device, dtype=wide)
    membership = torch.from_numpy(bands.membership).to(device)  # [vocabulary, bands]
    model.eval()
    for micro in batches:
        batch = micro.to(device)
        found = model(*batch.inputs)
        counted = totals.new_tensor([micro.num_masked])
        sums = [found.loss_sum.to(wide)[None], found.correct.sum(dtype=wide)[None], counted]
        if bands.names:
            inside = membership[batch.labels.clamp(min=0)] & (batch.labels >= 0)[:, None]  # [predicted, bands]
            sums += [(inside & found.correct[:, None]).sum(0, dtype=wide), inside.sum(0, dtype=wide)]
        totals += torch.cat(sums)
    model.train()
    loss_sum, num_correct, num_masked, *of_bands = accelerator.reduce(totals, "sum").tolist()
    count, half = max(num_masked, 1.0), len(bands.names)
    by_band = zip(bands.names, map(int, of_bands[:half]), map(int, of_bands[half:]), strict=True)
    return Validation(
        loss_sum / count, num_correct / count, int(num_masked), tuple(BandAccuracy(*one) for one in by_band)
    )


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


def _finite(value: float) -> float | None:
    """JSON has no NaN or infinity; null stands for them."""
    return value if math.isfinite(value) else None
