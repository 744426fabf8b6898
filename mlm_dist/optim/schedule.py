"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from mlm_dist.spec import OptimSpec

# From scratch the rate falls with the width, as in the maximal-update parametrisation (Yang et al., 2022): 3e-3 at 128
# hidden units, 5e-4 at 768.
SCRATCH_LR_TIMES_WIDTH = 0.384
CHECKPOINT_LR = 5e-5
WSD_DECAY_FRACTION = 0.2


def default_lr(from_scratch: bool, hidden_size: int) -> float:
    """The peak learning rate if the config gives none."""
    return SCRATCH_LR_TIMES_WIDTH / hidden_size if from_scratch else CHECKPOINT_LR


def warmup_steps(warmup: float, num_steps: int) -> int:
    """`optim.warmup` in steps: a number of steps, or under 1 a fraction of all steps; at most all of them."""
    return min(math.ceil(warmup * num_steps if warmup < 1 else warmup), num_steps)


def learning_rate(step: int, spec: OptimSpec, num_steps: int) -> float:
    """The learning rate of a step, from 0.

    It rises linearly from lr / (warm-up steps + 1) to lr, then follows the schedule; linear, cosine and wsd reach zero
    just after the last step. wsd falls as 1 - sqrt of the progress of its decay, the best of the shapes that Hägele et
    al., 2024 (https://arxiv.org/abs/2405.18392) compare.

    Args:
        step: The step.
        spec: Peak learning rate, warm-up and schedule.
        num_steps: Steps of the whole run.
    """
    warmup = warmup_steps(spec.warmup, num_steps)
    if step < warmup:
        return spec.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(num_steps - warmup, 1)  # in [0, 1)
    match spec.schedule:
        case "constant":
            return spec.lr
        case "linear":
            return spec.lr * (1 - progress)
        case "cosine":
            return spec.lr * 0.5 * (1 + math.cos(math.pi * progress))
        case "wsd":
            return spec.lr * (1 - math.sqrt(max(0.0, 1 - (1 - progress) / WSD_DECAY_FRACTION)))
