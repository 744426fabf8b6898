"""Cross-entropy of a vocabulary, summed, without a copy of the scores in fp32."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

LN_2 = math.log(2)
IGNORED = -100  # the label of a position that predicts nothing
SCORES_AT_A_TIME = 1 << 18  # on the CPU: so many, in fp32, stay in a core's cache


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood in nats, summed over all labels but IGNORED; a scalar in fp32.

    Args:
        logits: [n, vocabulary] scores in any precision; all sums are taken in fp32.
        labels: [n].
    """
    if logits.device.type != "cpu" or torch.compiler.is_compiling():  # a compiler works in blocks by itself
        return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    found: torch.Tensor = _InBlocks.apply(logits, labels)  # type: ignore[no-untyped-call]
    return found


class _InBlocks(torch.autograd.Function):
    """The same some rows at a time, so that what is in fp32 never leaves the cache.

    Powers of two stand for those of e, because torch takes them three times faster on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        log_sums = torch.empty(len(logits), 1)  # to the base of 2
        for here, scores in _blocks(logits):
            largest = scores.amax(1, keepdim=True)
            log_sums[here] = scores.sub_(largest).exp2_().sum(1, keepdim=True).log2_().add_(largest)
        counts = labels != IGNORED
        of_labels = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0].float()
        ctx.save_for_backward(logits, labels, log_sums, counts)
        return torch.where(counts, log_sums[:, 0] * LN_2 - of_labels, 0.0).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, labels, log_sums, counts = ctx.saved_tensors
        weights = (gradients[0] * counts)[:, None]  # [n, 1]
        found = torch.empty_like(logits)
        for here, scores in _blocks(logits):
            probabilities = scores.sub_(log_sums[here]).exp2_()
            ones = probabilities.new_full((len(probabilities), 1), -1.0)
            found[here] = probabilities.scatter_add_(1, labels[here, None].clamp(min=0), ones).mul_(weights[here])
        return found, None


def _blocks(logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Some rows at a time: where they are, and their scores in fp32, to the base of 2; always in the same memory."""
    size = max(1, SCORES_AT_A_TIME // logits.shape[1])
    memory = torch.empty(size, logits.shape[1])
    for i in range(0, len(logits), size):
        here = slice(i, min(i + size, len(logits)))
        yield here, memory[: here.stop - i].copy_(logits[here]).mul_(1 / LN_2)
