"""The batch plan: from the global batch to what each process does, and how long the run is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlm_dist.batches.ramp import Ramp
from mlm_dist.config import Config, Duration
from mlm_dist.errors import ConfigError

MAX_MICRO_TOKENS = 65_536
UNBOUNDED = 1 << 40  # updates of a run that ends by the clock, while nobody knows how many those are


@dataclass(frozen=True)
class BatchPlan:
    """How one global batch is spread: micro_size x accumulation x num_processes = global_size.

    Args:
        global_size: Rows per update, over all processes.
        micro_size: Rows per process and forward pass.
        accumulation: Forward passes per update.
        num_processes: Processes.
    """

    global_size: int
    micro_size: int
    accumulation: int
    num_processes: int

    def describe(self) -> str:
        """The arithmetic, for people."""
        parts = f"{self.micro_size} x {self.accumulation} x {self.num_processes}"
        return f"{parts} = {self.global_size} rows per update (micro x accumulation x processes)"

    def accumulation_of(self, size: int) -> int:
        """Forward passes of an update of fewer rows, of which some of the last may be missing."""
        return -(-size // (self.micro_size * self.num_processes))

    def with_micro_size(self, micro_size: int) -> BatchPlan:
        """The same global batch in micro-batches of another size, which divides a process's share."""
        share = self.micro_size * self.accumulation
        assert share % micro_size == 0
        return replace(self, micro_size=micro_size, accumulation=share // micro_size)

    def halved(self) -> BatchPlan:
        """The same global batch in micro-batches of half the size, or of the next smaller one that divides."""
        assert self.micro_size > 1
        return self.with_micro_size(_largest_divisor(self.micro_size * self.accumulation, self.micro_size // 2))


def batch_plan(config: Config, num_processes: int, most_rows: int | None = None) -> BatchPlan:
    """Derive micro-batch and accumulation from the global batch.

    Args:
        config: The run.
        num_processes: Processes.
        most_rows: Rows of a forward pass that fit a device's memory; bounds a micro-batch that the config leaves open.

    Raises:
        ConfigError: The global batch is not a multiple of processes times micro-batch.
    """
    global_size, micro = config.batch.global_size, config.batch.micro_size
    if global_size % num_processes:
        below, above = _around(global_size, num_processes)
        raise ConfigError(
            f"batch.global_size: {global_size} rows do not divide among {num_processes} processes; use {below}{above}"
        )
    share = global_size // num_processes
    if micro is None:
        fitting = max(1, MAX_MICRO_TOKENS // config.rows.max_length)
        micro = _largest_divisor(share, fitting if most_rows is None else min(fitting, most_rows))
    elif share % micro:
        below, above = _around(global_size, num_processes * micro)
        raise ConfigError(
            f"batch.global_size: {global_size} is no multiple of {num_processes} processes x batch.micro_size {micro}; "
            f"use {below}{above}, or a batch.micro_size that divides {share}"
        )
    return BatchPlan(global_size, micro, share // micro, num_processes)


def num_updates(config: Config, num_rows: int) -> tuple[int, int]:
    """How long a run is.

    Returns:
        Updates, and samples they consume; the last update may be smaller than the others. With `optim.hours` both are
        without a bound.

    Raises:
        ConfigError: There are fewer rows than one global batch has.
    """
    size = config.batch.global_size
    if not num_rows:
        raise ConfigError("corpus.source: its training documents hold no token, so there are no rows; name another")
    if num_rows < size:
        raise ConfigError(
            f"batch.global_size: {size} rows per update, but the corpus has only {num_rows} training rows; lower it to "
            f"{num_rows} or less, add documents or lower corpus.min_chars or rows.max_length"
        )
    duration = Duration.parse(config.optim.duration)
    if duration.unit == "hours":
        return UNBOUNDED, UNBOUNDED * size
    ramp = Ramp(config)
    if duration.unit == "steps":
        return int(duration.value), ramp.samples_before(int(duration.value))
    replayed = config.corpus.replay_share if config.corpus.replay_source is not None else 0.0
    samples = max(1, round(duration.value * num_rows / (1 - replayed)))
    return ramp.updates(samples), samples


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)


def _around(size: int, step: int) -> tuple[str, str]:
    below = size // step * step
    return (f"{below} or " if below else ""), str(below + step)
