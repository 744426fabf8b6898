"""The global batch, and how it is spread over processes, micro-batches and accumulation."""

from __future__ import annotations

from mlm_dist.config import BatchConfig
from mlm_dist.errors import ConfigError
from mlm_dist.spec import BatchSpec, largest_divisor

MAX_MICRO_TOKENS = 65_536


def spread(batch: BatchConfig, max_length: int, world_size: int, most_rows: int | None = None) -> BatchSpec:
    """Derive micro-batch and accumulation from the global batch.

    Args:
        batch: The batch.
        max_length: Tokens per row.
        world_size: Number of processes.
        most_rows: Rows of a forward pass that fit the memory; bounds a micro-batch that the config leaves open.

    Raises:
        ConfigError: The global batch is not a multiple of processes times micro-batch.
    """
    global_size, micro = batch.global_size, batch.micro_size
    if global_size % world_size:
        below, above = _multiples_around(global_size, world_size)
        raise ConfigError(
            f"batch.global_size: {global_size} rows cannot be divided among {world_size} processes; use {below}{above}"
        )
    rows = global_size // world_size
    if micro is None:
        limit = max(1, MAX_MICRO_TOKENS // max_length)
        micro = largest_divisor(rows, limit if most_rows is None else min(limit, most_rows))
    elif rows % micro:
        below, above = _multiples_around(global_size, world_size * micro)
        raise ConfigError(
            f"batch.global_size: {global_size} is not a multiple of {world_size} processes x batch.micro_size {micro}; "
            f"use {below}{above}, or a batch.micro_size that divides {rows}"
        )
    return BatchSpec(
        global_size,
        micro,
        rows // micro,
        world_size,
        initial_size=batch.initial_size or global_size,
        initial_length=batch.initial_length or max_length,
        ramp_tokens=batch.ramp_tokens or 0,
    )


def _multiples_around(size: int, step: int) -> tuple[str, str]:
    below = size // step * step
    return (f"{below} or " if below else ""), str(below + step)
