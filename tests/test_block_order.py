"""The order of rows that are read in blocks: each row once per epoch, random access, and few blocks at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_dist.batches.block_order import BlockOrder, Blocks
from mlm_dist.batches.mixture import mixed_order
from mlm_dist.batches.upcoming_blocks import UpcomingBlocks

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=40)
GROUP_ROWS = st.integers(1, 200)
SEEDS = st.integers(0, 2**63 - 1)


def order_of(sizes: list[int], group_rows: int, seed: int = 0) -> BlockOrder:
    return BlockOrder(Blocks(np.array(sizes), group_rows), seed)


def blocks_of(sizes: list[int], samples: np.ndarray) -> np.ndarray:
    """The block of each sample."""
    return np.searchsorted(np.cumsum(sizes), samples, side="right")


@settings(deadline=None, max_examples=60)
@given(SIZES, GROUP_ROWS, SEEDS)
def test_each_epoch_has_every_row_once(sizes: list[int], group_rows: int, seed: int) -> None:
    count = sum(sizes)
    epochs, samples = order_of(sizes, group_rows, seed).between(0, 3 * count)
    assert epochs.tolist() == [epoch for epoch in range(3) for _ in range(count)]
    for epoch in range(3):
        assert sorted(samples[epoch * count : (epoch + 1) * count]) == list(range(count))


@pytest.mark.parametrize("count", [4095, 4096, 4097, 9000])
@pytest.mark.parametrize("group_rows", [1, 4096, 5000, 10**6])
def test_long_epochs_have_every_row_once(count: int, group_rows: int) -> None:
    sizes = [count // 3, count // 7, count - count // 3 - count // 7]
    assert sorted(order_of(sizes, group_rows).between(count, 2 * count)[1]) == list(range(count))


@settings(deadline=None, max_examples=50)
@given(SIZES, GROUP_ROWS, SEEDS, st.data())
def test_any_part_of_the_stream_can_be_computed_alone(
    sizes: list[int], group_rows: int, seed: int, data: st.DataObject
) -> None:
    end = 3 * sum(sizes)
    start = data.draw(st.integers(0, end))
    stop = data.draw(st.integers(start, end))
    order = order_of(sizes, group_rows, seed)
    whole = order.between(0, end)
    for found, expected in zip(order_of(sizes, group_rows, seed).between(start, stop), whole, strict=True):
        np.testing.assert_array_equal(found, expected[start:stop])
        assert found.dtype == np.int64


@settings(deadline=None, max_examples=50)
@given(SIZES, GROUP_ROWS, st.data())
def test_steps_need_the_blocks_of_one_group_at_a_time(sizes: list[int], group_rows: int, data: st.DataObject) -> None:
    """A group has few blocks, each block is in one group of an epoch, and both are known ahead."""
    order = order_of(sizes, group_rows)
    count, position = sum(sizes), 0
    seen: list[int] = []
    while position < count:
        here, after = (blocks_of(sizes, rows).tolist() for rows in order.upcoming(position))
        rows = sum(sizes[block] for block in here)
        assert rows - sizes[here[-1]] < group_rows
        within = position + data.draw(st.integers(0, rows - 1))
        assert [found.tolist() for found in order.upcoming(within)] == [
            found.tolist() for found in order.upcoming(position)
        ]
        _, samples = order.between(position, position + rows)
        assert set(blocks_of(sizes, samples)) == set(here)
        position += rows
        assert blocks_of(sizes, order.upcoming(position)[0]).tolist() == after
        seen += here
    assert position == count and sorted(seen) == list(range(len(sizes)))


@pytest.mark.parametrize(("group_rows", "most", "correlation"), [(1000, 11, 0.35), (100_000, 100, 0.05)])
def test_order_is_shuffled(group_rows: int, most: int, correlation: float) -> None:
    """Within a group as well as a permutation of its rows; groups hold other blocks in every epoch."""
    sizes = [100] * 100
    count, positions = sum(sizes), np.arange(sum(sizes))
    order = order_of(sizes, group_rows)
    epochs = [order.between(epoch * count, (epoch + 1) * count)[1] for epoch in range(3)]
    for samples in epochs:
        assert abs(np.abs(samples - positions).mean() / count - 1 / 3) < 0.06
        assert abs((np.diff(samples) < 0).sum() - count / 2) < 5 * np.sqrt(count / 12)
        assert (
            abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < correlation
        )  # neighbours are of the same tenth of the blocks
        assert (np.abs(np.diff(samples)) == 1).sum() < 40
        assert len(set(blocks_of(sizes, samples[:500]))) <= most
    assert all((one == other).sum() < 15 for one, other in zip(epochs, epochs[1:] + epochs[:1], strict=True))
    assert (epochs[0] == order_of(sizes, group_rows, seed=1).between(0, count)[1]).sum() < 15


def test_every_row_is_equally_often_at_each_position() -> None:
    sizes, num_epochs = [1, 2, 3], 400
    samples = order_of(sizes, 3, seed=9).between(0, 6 * num_epochs)[1].reshape(num_epochs, 6)
    sigma = np.sqrt(num_epochs / 6 * 5 / 6)
    # Rows of a larger block are more often where larger groups are; over all positions each is as frequent.
    for position in (0, 5):
        blocks = blocks_of(sizes, samples[:, position])
        for block, size in enumerate(sizes):
            of_rows = np.bincount(samples[blocks == block, position], minlength=6)[sum(sizes[:block]) :][:size]
            assert np.abs(of_rows - of_rows.mean()).max() < 5 * sigma


def test_order_stays_the_same_across_versions() -> None:
    # A run that is resumed with a newer version must continue in the same order.
    assert order_of([3, 2, 4, 1], 4).between(0, 10)[1].tolist() == [3, 8, 4, 5, 6, 7, 1, 2, 9, 0]


def test_sources_have_their_own_blocks() -> None:
    parts, sizes = {"a": range(100), "b": range(100, 130)}, [10] * 13
    blocks = Blocks(np.array(sizes), 20)
    order = mixed_order(parts, {"a": 0.75, "b": 0.25}, 3, None, blocks)
    epochs, rows = order.between(0, 120)
    assert sorted(rows[rows < 100][:90]) == sorted(BlockOrder(blocks.of(parts["a"]), 3).between(0, 90)[1])
    assert sorted(rows[rows >= 100]) == list(range(100, 130)) and set(epochs.tolist()) == {0}
    for position in (0, 50, 119):
        here, after = (set(blocks_of(sizes, some)) for some in order.upcoming(position))
        assert 3 <= len(here) <= 4 and 3 <= len(after) <= 4
        assert blocks_of(sizes, order.between(position, position + 1)[1])[0] in here
    whole = mixed_order(parts, {}, 3, None, blocks)
    assert sorted(whole.between(0, 130)[1]) == list(range(130))
    np.testing.assert_array_equal(whole.between(7, 90)[1], BlockOrder(blocks, 3).between(7, 90)[1])


def test_rows_that_divide_a_block_are_refused() -> None:
    with pytest.raises(ValueError, match="no whole blocks"):
        Blocks(np.array([10, 10]), 5).of(range(15))


def test_two_threads_that_assemble_steps_take_turns() -> None:
    inside, most = [0], [0]

    class Rows:
        def ahead(self, groups: Sequence[np.ndarray]) -> list[int]:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1
            return []

        def fetch(self, row: int) -> None:
            raise AssertionError("no block is needed")

    blocks = UpcomingBlocks(mixed_order({"": range(10)}, {}, 0, blocks=Blocks(np.array([5, 5]), 10)), Rows())
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(blocks.expect, range(6)))
    blocks.close()
    assert most == [1]
