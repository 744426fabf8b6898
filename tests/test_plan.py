"""The batch plan: how the global batch is spread, and how many updates a run has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlm_dist.batches.global_batch import MAX_MICRO_TOKENS, BatchPlan, batch_plan, num_updates
from mlm_dist.config import BatchConfig, Config, OptimConfig, RowsConfig
from mlm_dist.errors import ConfigError


def config(global_size: int, micro_size: int | None = None, max_length: int = 128, **optim: Any) -> Config:
    """A config with such a batch."""
    return replace(
        Config(),
        batch=BatchConfig(global_size, micro_size),
        rows=RowsConfig(max_length=max_length),
        optim=OptimConfig(**optim),
    )


@pytest.mark.parametrize("num_processes", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("per_process", [1, 5, 12, 64])
@pytest.mark.parametrize("max_length", [8, 128, 8192, 100_000])
def test_parts_multiply_to_the_global_batch(num_processes: int, per_process: int, max_length: int) -> None:
    plan = batch_plan(config(num_processes * per_process, max_length=max_length), num_processes)
    assert plan.micro_size * plan.accumulation * plan.num_processes == plan.global_size == num_processes * per_process
    assert plan.num_processes == num_processes
    fits = [
        size for size in range(1, per_process + 1) if per_process % size == 0 and size * max_length <= MAX_MICRO_TOKENS
    ]
    assert plan.micro_size == max(fits, default=1)


@pytest.mark.parametrize(
    ("global_size", "micro_size", "max_length", "num_processes", "expected"),
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
    global_size: int, micro_size: int | None, max_length: int, num_processes: int, expected: tuple[int, int]
) -> None:
    plan = batch_plan(config(global_size, micro_size, max_length), num_processes)
    assert (plan.micro_size, plan.accumulation) == expected
    assert plan == BatchPlan(global_size, *expected, num_processes)


def test_arithmetic_is_shown() -> None:
    assert BatchPlan(64, 4, 8, 2).describe().startswith("4 x 8 x 2 = 64 ")


@pytest.mark.parametrize(("most_rows", "expected"), [(1, 1), (3, 3), (5, 4), (11, 6), (12, 12), (1000, 12)])
def test_memory_bounds_the_micro_batch(most_rows: int, expected: int) -> None:
    assert batch_plan(config(24), 2, most_rows).micro_size == expected


def test_halved_keeps_the_global_batch() -> None:
    plan = BatchPlan(48, 12, 2, 2)
    sizes = [plan.micro_size]
    while plan.micro_size > 1:
        plan = plan.halved()
        assert plan.micro_size * plan.accumulation * plan.num_processes == plan.global_size == 48
        sizes.append(plan.micro_size)
    assert sizes == [12, 6, 3, 1]
    assert BatchPlan(45, 15, 1, 3).halved() == BatchPlan(45, 5, 3, 3)


@pytest.mark.parametrize(
    ("global_size", "micro_size", "num_processes", "remedies"),
    [
        (16, None, 3, ["15", "18"]),
        (2, None, 4, ["4"]),
        (16, 3, 1, ["15", "18"]),
        (16, 3, 2, ["12", "18"]),
        (16, 32, 1, ["32"]),
    ],
)
def test_batch_that_does_not_divide_is_refused_with_sizes_that_do(
    global_size: int, micro_size: int | None, num_processes: int, remedies: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"^batch\.global_size: ") as caught:
        batch_plan(config(global_size, micro_size), num_processes)
    said = str(caught.value)
    assert f"use {' or '.join(remedies)}" in said and str(num_processes) in said and "\n" not in said
    assert " 0 or" not in said
    for remedy in remedies:
        assert batch_plan(config(int(remedy), micro_size), num_processes).global_size == int(remedy)


@pytest.mark.parametrize(
    ("num_rows", "epochs", "expected"),
    [
        (32, 1.0, (2, 32)),
        (33, 1.0, (3, 33)),
        (100, 3.0, (19, 300)),
        (100, 0.5, (4, 50)),
        (100, 0.001, (1, 1)),
        (16, 1.0, (1, 16)),
        (100, 1.25, (8, 125)),
    ],
)
def test_updates_from_epochs(num_rows: int, epochs: float, expected: tuple[int, int]) -> None:
    updates, samples = num_updates(config(16, epochs=epochs), num_rows)
    assert (updates, samples) == expected
    assert (updates - 1) * 16 < samples <= updates * 16


def test_steps_take_the_place_of_epochs() -> None:
    assert num_updates(config(16, steps=7, epochs=3.0), 100) == (7, 112)
    assert num_updates(config(16, steps=1000, epochs=0.1), 16) == (1000, 16_000)


def test_no_rows_at_all_are_the_corpus_s_fault() -> None:
    with pytest.raises(ConfigError, match=r"^corpus\.source: .*no rows"):
        num_updates(config(16), 0)


@pytest.mark.parametrize("optim", [{"epochs": 3.0}, {"steps": 5}])
@pytest.mark.parametrize("num_rows", [1, 15])
def test_fewer_rows_than_a_batch_are_refused(num_rows: int, optim: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^batch\.global_size: 16 ") as caught:
        num_updates(config(16, **optim), num_rows)
    assert f"only {num_rows} training rows" in str(caught.value)


def test_length_of_a_run_is_the_same_on_any_number_of_processes() -> None:
    wanted = config(64, epochs=2.0)
    plans = [batch_plan(wanted, num_processes) for num_processes in (1, 2, 4, 8)]
    assert {plan.global_size for plan in plans} == {64}
    assert num_updates(wanted, 1000) == (32, 2000)
