"""The order of samples: each sample once per epoch, random access, and well shuffled."""

from __future__ import annotations

import numpy as np
import pytest

from mlm_dist.batches.order import SampleOrder

HUGE = 10**12


def epoch(num_samples: int, number: int = 0, seed: int = 0) -> np.ndarray:
    """The samples of one epoch, in order."""
    start = number * num_samples
    epochs, samples = SampleOrder(num_samples, seed).at(np.arange(start, start + num_samples))
    assert (epochs == number).all()
    return samples


@pytest.mark.parametrize(
    "numbers", [range(1, 101), range(101, 201), range(201, 301), [511, 512, 513, 4095, 4096, 4097, 65537]]
)
def test_each_epoch_has_every_sample_once(numbers: list[int]) -> None:
    for num_samples in numbers:
        for number, seed in ((0, 0), (1, 0), (5, 2**63 - 1)):
            samples = epoch(num_samples, number, seed)
            np.testing.assert_array_equal(np.sort(samples), np.arange(num_samples), err_msg=f"{num_samples} samples")


@pytest.mark.parametrize("num_samples", [HUGE, HUGE + 1, 2**40 - 1, 2**40, 2**40 + 1, 2**53 + 1])
def test_largest_orders_stay_in_range_without_repeats(num_samples: int) -> None:
    draw = np.random.default_rng(7)
    positions = np.unique(
        np.concatenate([draw.integers(0, num_samples, 50_000), np.arange(1000), num_samples - 1 - np.arange(1000)])
    )
    _, samples = SampleOrder(num_samples, 3).at(positions)
    assert samples.min() >= 0 and samples.max() < num_samples
    assert len(np.unique(samples)) == len(positions)
    assert abs(samples.mean() / num_samples - 0.5) < 4 / np.sqrt(12 * len(samples))


def test_dtypes_and_shapes() -> None:
    epochs, samples = SampleOrder(10, 0).at(np.arange(25))
    assert epochs.dtype == np.int64 and samples.dtype == np.int64 and epochs.shape == samples.shape == (25,)
    epochs, samples = SampleOrder(10, 0).at(np.empty(0, np.int64))
    assert epochs.shape == samples.shape == (0,)


@pytest.mark.parametrize("num_samples", [1, 2, 7, 64, 1000])
def test_random_access_equals_sequential_access(num_samples: int) -> None:
    order = SampleOrder(num_samples, 11)
    epochs, samples = order.at(np.arange(5 * num_samples))
    np.testing.assert_array_equal(epochs, np.repeat(np.arange(5), num_samples))
    wanted = np.random.default_rng(1).integers(0, 5 * num_samples, 500)
    for found, expected in zip(order.at(wanted), (epochs, samples), strict=True):
        np.testing.assert_array_equal(found, expected[wanted])
    for position in wanted[:50].tolist():
        one_epoch, one_sample = SampleOrder(num_samples, 11).at(np.array([position]))
        assert (one_epoch[0], one_sample[0]) == (epochs[position], samples[position])


def test_positions_across_epochs_end_one_and_begin_the_next() -> None:
    order = SampleOrder(10, 4)
    epochs, samples = order.at(np.arange(7, 33))
    assert epochs.tolist() == [0] * 3 + [1] * 10 + [2] * 10 + [3] * 3
    assert sorted(samples[3:13]) == sorted(samples[13:23]) == list(range(10))
    np.testing.assert_array_equal(samples, np.concatenate([epoch(10, i, 4) for i in range(4)])[7:33])


def test_order_has_no_state() -> None:
    order, positions = SampleOrder(100, 2), np.arange(100)
    first = order.at(positions)[1]
    order.at(np.arange(1000, 2000))
    np.testing.assert_array_equal(order.at(positions)[1], first)
    np.testing.assert_array_equal(positions, np.arange(100))


@pytest.mark.parametrize("num_samples", [100, 4096, 5000])
def test_epochs_and_seeds_have_different_orders(num_samples: int) -> None:
    orders = [epoch(num_samples, number, seed) for seed in (0, 1, 2**62) for number in range(4)]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # Two random permutations agree at one position on average.
            assert (one == other).sum() < 10
            assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(num_samples)


@pytest.mark.parametrize("num_samples", [1000, 4096, 4097, 50_000])
def test_order_is_shuffled(num_samples: int) -> None:
    positions = np.arange(num_samples)
    for number in range(3):
        samples = epoch(num_samples, number)
        # A random permutation moves a sample by N/3 on average, keeps about one at its position, and has N/2 descents.
        assert abs(np.abs(samples - positions).mean() / num_samples - 1 / 3) < 2 / np.sqrt(num_samples)
        assert (samples == positions).sum() < 10
        assert abs((np.diff(samples) < 0).sum() - num_samples / 2) < 5 * np.sqrt(num_samples / 12)
        assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 5 / np.sqrt(num_samples)
        assert (np.abs(np.diff(samples)) == 1).sum() < 15


@pytest.mark.parametrize("num_samples", [2, 3, 5, 8])
def test_every_sample_is_equally_often_at_each_position(num_samples: int) -> None:
    num_epochs = 600
    samples = SampleOrder(num_samples, 9).at(np.arange(num_samples * num_epochs))[1].reshape(num_epochs, num_samples)
    expected = num_epochs / num_samples
    sigma = np.sqrt(expected * (1 - 1 / num_samples))
    for position in range(num_samples):
        assert np.abs(np.bincount(samples[:, position], minlength=num_samples) - expected).max() < 5 * sigma


def test_order_stays_the_same_across_versions() -> None:
    # A run that is resumed with a newer version must continue in the same order.
    assert SampleOrder(10, 0).at(np.arange(10))[1].tolist() == [8, 4, 6, 3, 9, 1, 0, 2, 5, 7]


@pytest.mark.parametrize("num_samples", [0, -1])
def test_order_without_samples_is_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        SampleOrder(num_samples, 0)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (0, 1), (4090, 4100), (4096, 8192), (4095, 4096), (10_000, 22_000), (HUGE, HUGE + 5)]
)
def test_between_equals_at(start: int, stop: int) -> None:
    order = SampleOrder(5000, 3)
    for _ in range(2):  # the second time from the cache
        for found, expected in zip(order.between(start, stop), order.at(np.arange(start, stop)), strict=True):
            np.testing.assert_array_equal(found, expected)
