"""The global batch: how it is spread over processes, micro-batches and accumulation."""

from __future__ import annotations

import pytest

from mlm_dist.batches.global_batch import MAX_MICRO_TOKENS, spread
from mlm_dist.config import BatchConfig
from mlm_dist.errors import ConfigError
from mlm_dist.spec import BatchSpec

LENGTH = 128


def batch_of(global_size: int, micro_size: int, accumulation: int, world_size: int) -> BatchSpec:
    """A batch that does not grow."""
    return BatchSpec(global_size, micro_size, accumulation, world_size, global_size, LENGTH)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("per_process", [1, 5, 12, 64])
@pytest.mark.parametrize("max_length", [8, 128, 8192, 100_000])
def test_parts_multiply_to_the_global_batch(world_size: int, per_process: int, max_length: int) -> None:
    batch = spread(BatchConfig(world_size * per_process), max_length, world_size)
    assert batch.micro_size * batch.accumulation * batch.world_size == batch.global_size == world_size * per_process
    assert batch.world_size == world_size
    fits = [
        size for size in range(1, per_process + 1) if per_process % size == 0 and size * max_length <= MAX_MICRO_TOKENS
    ]
    assert batch.micro_size == max(fits, default=1)


@pytest.mark.parametrize(
    ("global_size", "micro_size", "max_length", "world_size", "expected"),
    [
        (16, None, 128, 1, (16, 1)),
        (16, None, 128, 4, (4, 1)),
        (1024, None, 128, 1, (512, 2)),
        (1024, None, 512, 2, (128, 4)),
        (1000, None, 512, 1, (125, 8)),
        (509, None, 512, 1, (1, 509)),
        (64, 4, 128, 2, (4, 8)),
        (64, 1, 128, 64, (1, 1)),
        (2048, 2048, 512, 1, (2048, 1)),
    ],
)
def test_micro_batch_and_accumulation(
    global_size: int, micro_size: int | None, max_length: int, world_size: int, expected: tuple[int, int]
) -> None:
    batch = spread(BatchConfig(global_size, micro_size), max_length, world_size)
    assert (batch.micro_size, batch.accumulation) == expected
    assert batch == BatchSpec(global_size, *expected, world_size, global_size, max_length)


def test_description_shows_the_arithmetic() -> None:
    assert batch_of(64, 4, 8, 2).describe().startswith("64 rows per step = 4 x 8 x 2 ")


@pytest.mark.parametrize(("most_rows", "expected"), [(1, 1), (3, 3), (5, 4), (11, 6), (12, 12), (1000, 12)])
def test_memory_bounds_the_micro_batch(most_rows: int, expected: int) -> None:
    assert spread(BatchConfig(24), LENGTH, 2, most_rows).micro_size == expected


def test_memory_does_not_change_a_micro_batch_of_the_config() -> None:
    assert spread(BatchConfig(96, 48), LENGTH, 1, most_rows=1).micro_size == 48


def test_halving_keeps_the_global_batch() -> None:
    batch = batch_of(48, 12, 2, 2)
    sizes = [batch.micro_size]
    while batch.micro_size > 1:
        batch = batch.halved()
        assert batch.micro_size * batch.accumulation * batch.world_size == batch.global_size == 48
        sizes.append(batch.micro_size)
    assert sizes == [12, 6, 3, 1]
    assert batch_of(45, 15, 1, 3).halved() == batch_of(45, 5, 3, 3)


@pytest.mark.parametrize(
    ("global_size", "micro_size", "world_size", "remedies"),
    [
        (16, None, 3, ["15", "18"]),
        (2, None, 4, ["4"]),
        (16, 3, 1, ["15", "18"]),
        (16, 3, 2, ["12", "18"]),
        (16, 32, 1, ["32"]),
    ],
)
def test_batch_that_does_not_divide_is_refused_with_sizes_that_do(
    global_size: int, micro_size: int | None, world_size: int, remedies: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"^batch\.global_size: ") as caught:
        spread(BatchConfig(global_size, micro_size), LENGTH, world_size)
    message = str(caught.value)
    assert f"use {' or '.join(remedies)}" in message and str(world_size) in message and "\n" not in message
    assert " 0 or" not in message
    for remedy in remedies:
        assert spread(BatchConfig(int(remedy), micro_size), LENGTH, world_size).global_size == int(remedy)


def test_global_batch_is_the_same_on_any_number_of_processes() -> None:
    assert {spread(BatchConfig(64), LENGTH, world_size).global_size for world_size in (1, 2, 4, 8)} == {64}
