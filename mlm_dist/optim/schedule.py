"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from mlm_dist.spec import RateSpec, Schedule

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


def learning_rate(step: int, rate: RateSpec, num_steps: int) -> float:
    """The learning rate of a step of a phase, from 0.

    It rises linearly from the rate that the phase before ended with, after (warm-up steps + 1) steps to the peak, then
    follows the schedule, which reaches the floor just after the last step. sqrt, and wsd over its last fifth, fall as
    1 - sqrt of the progress, the best of the shapes that Hägele et al., 2024 (https://arxiv.org/abs/2405.18392)
    compare.

    Args:
        step: Steps of the phase done before it.
        rate: The learning rate of the phase.
        num_steps: Steps of the phase.
    """
    warmup = warmup_steps(rate.warmup, num_steps)
    if step < warmup:
        return rate.begin + (rate.peak - rate.begin) * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(num_steps - warmup, 1)  # in [0, 1)
    return rate.peak * (rate.floor + (1 - rate.floor) * _height(rate.schedule, progress))


def last_rate(rate: RateSpec) -> float:
    """The learning rate that a phase ends with."""
    return rate.peak * (rate.floor + (1 - rate.floor) * _height(rate.schedule, 1.0))


def _height(schedule: Schedule, progress: float) -> float:
    """A schedule between its floor and its peak, 0 and 1, at a progress from 0 to 1."""
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - progress
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "sqrt":
            return 1 - math.sqrt(progress)
        case "wsd":
            return 1 - math.sqrt(max(0.0, 1 - (1 - progress) / WSD_DECAY_FRACTION))
