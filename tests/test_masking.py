"""Masks: a function of (seed, epoch, sample, position) only, with BERT's proportions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlm_dist.batches import shapes
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import Samples, assemble
from mlm_dist.config import MaskingConfig
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.objectives.masked_lm import MaskedLM

VOCAB_SIZE = 1000
PAD, UNK, CLS, SEP, MASK = range(5)
SPECIAL = (PAD, UNK, CLS, SEP, MASK, 17, 999)  # also in the middle and at the end of the vocabulary
ORDINARY = np.setdiff1d(np.arange(VOCAB_SIZE), SPECIAL)


def masker(seed: int = 0, special: tuple[int, ...] = SPECIAL, **config: Any) -> Masker:
    """A masker for a vocabulary of 1000 tokens, of 15% of them by default."""
    return Masker(MaskingConfig(**{"probability": 0.15} | config), seed, MASK, special, VOCAB_SIZE)


def rows(num_rows: int, length: int = 64, seed: int = 1) -> np.ndarray:
    """Rows of ordinary tokens between [CLS] and [SEP], a third of them padded."""
    draw = np.random.default_rng(seed)
    found = draw.choice(ORDINARY, (num_rows, length)).astype(np.int32)
    found[:, 0] = CLS
    lengths = np.where(draw.random(num_rows) < 1 / 3, draw.integers(3, length + 1, num_rows), length)
    found[np.arange(num_rows), lengths - 1] = SEP
    found[np.arange(length) >= lengths[:, None]] = PAD
    return found


def apply(masks: Masker, input_ids: np.ndarray, epoch: int = 0, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mask consecutive rows of the corpus."""
    return masks(input_ids, np.full(len(input_ids), epoch), np.arange(first, first + len(input_ids)))[:2]


@pytest.fixture(scope="module")
def million() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """More than 10^6 ordinary tokens, the tokens shown to the model, and which are predicted."""
    input_ids = np.random.default_rng(3).choice(ORDINARY, (8400, 128)).astype(np.int32)
    return input_ids, *apply(masker(), input_ids)


def within_four_sigma(hits: int, trials: int, probability: float) -> bool:
    """Whether a number of hits is within four standard deviations of its mean."""
    return bool(abs(hits - trials * probability) < 4 * np.sqrt(trials * probability * (1 - probability)))


def test_same_arguments_give_the_same_masks() -> None:
    input_ids = rows(50)
    before = input_ids.copy()
    first = apply(masker(3), input_ids, epoch=2)
    apply(masker(4), rows(9), epoch=1)
    for one, other in zip(first, apply(masker(3), input_ids.copy(), epoch=2), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(input_ids, before)
    assert first[0].shape == first[1].shape == input_ids.shape
    assert first[0].dtype == np.int32 and first[1].dtype == bool


def test_seed_epoch_and_sample_each_change_the_masks() -> None:
    input_ids = rows(200)
    base = apply(masker(0), input_ids)[1]
    others = [apply(masker(1), input_ids), apply(masker(0), input_ids, epoch=1), apply(masker(0), input_ids, first=200)]
    eligible = int((~np.isin(input_ids, SPECIAL)).sum())
    for _, predicted in others:
        assert within_four_sigma(int((predicted & base).sum()), eligible, 0.15**2)


def test_masks_do_not_depend_on_the_batch() -> None:
    input_ids, draw = rows(60), np.random.default_rng(2)
    epochs, samples = draw.integers(0, 3, 60), draw.integers(0, 10**12, 60)
    whole = masker()(input_ids, epochs, samples)[:2]
    shuffled = draw.permutation(60)
    again = masker()(input_ids[shuffled], epochs[shuffled], samples[shuffled])[:2]
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_array_equal(one[shuffled], other)
    for size in (1, 7, 32):
        parts = [
            masker()(input_ids[i : i + size], epochs[i : i + size], samples[i : i + size])[:2]
            for i in range(0, 60, size)
        ]
        for one, other in zip(whole, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(one, np.concatenate(other))


def test_masks_do_not_depend_on_padding() -> None:
    input_ids = rows(60)
    padded = np.pad(input_ids, ((0, 0), (0, 30)), constant_values=PAD)
    for narrow, wide in zip(apply(masker(), input_ids), apply(masker(), padded), strict=True):
        np.testing.assert_array_equal(wide[:, :64], narrow)
        assert not wide[:, 64:].any()


def test_masks_do_not_depend_on_other_tokens_of_the_row() -> None:
    input_ids = rows(60)
    other = input_ids.copy()
    other[:, 1::2] = np.where(np.isin(other[:, 1::2], SPECIAL), other[:, 1::2], ORDINARY[5])
    first, second = apply(masker(), input_ids), apply(masker(), other)
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[0][:, ::2], second[0][:, ::2])


def test_empty_batch() -> None:
    shown, predicted, _ = masker()(rows(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert shown.shape == predicted.shape == (0, 64)


def test_every_row_predicts_something_even_at_the_smallest_probability() -> None:
    input_ids = rows(2000, length=16)
    eligible = ~np.isin(input_ids, SPECIAL)
    shown, predicted = apply(masker(probability=1e-6), input_ids)
    np.testing.assert_array_equal(predicted.sum(1), eligible.any(1))
    assert not (predicted & ~eligible).any()
    assert (shown != input_ids).sum() > 0.8 * len(input_ids)
    full = eligible.sum(1) == 14  # its position in the row is random
    counts = np.bincount(predicted[full].argmax(1), minlength=16)[1:15]
    assert np.abs(counts - full.sum() / 14).max() < 5 * np.sqrt(full.sum() / 14)


def test_special_tokens_are_never_predicted_nor_changed() -> None:
    input_ids = rows(500)
    input_ids[::5, 10] = 17
    input_ids[::7, 20] = MASK
    shown, predicted = apply(masker(probability=0.99), input_ids)
    special = np.isin(input_ids, SPECIAL)
    assert special.sum() > 1000 and not predicted[special].any()
    np.testing.assert_array_equal(shown[special], input_ids[special])


def test_tokens_that_are_not_predicted_are_not_changed(million: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    input_ids, shown, predicted = million
    np.testing.assert_array_equal(shown[~predicted], input_ids[~predicted])


def test_rows_of_special_tokens_predict_nothing() -> None:
    input_ids = np.array([[CLS, SEP, PAD, PAD], [PAD] * 4, [CLS, 17, UNK, SEP], [CLS, 20, SEP, PAD]], np.int32)
    shown, predicted = apply(masker(), input_ids)
    assert predicted.sum(1).tolist() == [0, 0, 0, 1] and predicted[3, 1]
    np.testing.assert_array_equal(shown[:3], input_ids[:3])


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_fraction_of_predicted_tokens(million: tuple[np.ndarray, np.ndarray, np.ndarray], probability: float) -> None:
    input_ids = million[0]
    predicted = apply(masker(probability=probability), input_ids)[1]
    assert input_ids.size >= 10**6
    assert within_four_sigma(int(predicted.sum()), input_ids.size, probability)
    by_position = predicted.sum(0)
    sigma = np.sqrt(len(input_ids) * probability * (1 - probability))
    assert np.abs(by_position - len(input_ids) * probability).max() < 5 * sigma


@pytest.mark.parametrize(("mask", "random"), [(0.8, 0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.2)])
def test_fractions_of_what_is_shown(
    million: tuple[np.ndarray, np.ndarray, np.ndarray], mask: float, random: float
) -> None:
    input_ids = million[0]
    shown, predicted = apply(masker(mask=mask, random=random), input_ids)
    count = int(predicted.sum())
    hidden, true = shown[predicted], input_ids[predicted]
    by_chance = random / len(ORDINARY)  # a random token may be the true one
    for hits, share in (
        (hidden == MASK, mask),
        ((hidden != MASK) & (hidden != true), random - by_chance),
        (hidden == true, 1 - mask - random + by_chance),
    ):
        assert within_four_sigma(int(hits.sum()), count, share) or int(hits.sum()) == count * share


def test_random_tokens_are_ordinary_and_equally_likely(million: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    input_ids = million[0]
    shown, predicted = apply(masker(mask=0.0, random=1.0), input_ids)
    counts = np.bincount(shown[predicted], minlength=VOCAB_SIZE)
    assert counts[list(SPECIAL)].sum() == 0
    expected = predicted.sum() / len(ORDINARY)
    chi_squared = float(((counts[ORDINARY] - expected) ** 2 / expected).sum())
    degrees = len(ORDINARY) - 1
    assert abs(chi_squared - degrees) < 5 * np.sqrt(2 * degrees)


def test_random_tokens_do_not_depend_on_the_true_ones(million: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    input_ids = million[0]
    shown, predicted = apply(masker(mask=0.0, random=1.0), input_ids)
    assert abs(np.corrcoef(input_ids[predicted], shown[predicted])[0, 1]) < 5 / np.sqrt(predicted.sum())


def test_neighbours_are_independent(million: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    input_ids, shown, predicted = million
    for one, other in (
        (predicted[:, :-1], predicted[:, 1:]),  # in a row
        (predicted[:, :-2], predicted[:, 2:]),
        (predicted[:-1], predicted[1:]),  # in a column: samples that follow each other
        (predicted, apply(masker(), input_ids, epoch=1)[1]),
        (predicted, apply(masker(seed=1), input_ids)[1]),
    ):
        assert within_four_sigma(int((one & other).sum()), one.size, 0.15**2)
    masked = (shown == MASK)[:, :-1] & (shown == MASK)[:, 1:]
    assert within_four_sigma(int(masked.sum()), masked.size, (0.15 * 0.8) ** 2)


def test_numbers_of_predictions_per_row_are_binomial(million: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    counts = million[2].sum(1)
    variance = 128 * 0.15 * 0.85
    assert abs(counts.var() / variance - 1) < 5 * np.sqrt(2 / len(counts))


def test_validation_masks_are_the_same_for_all_runs() -> None:
    plain = masker(0, probability=0.15, mask=0.8, random=0.1, unit="token", final_probability=None)
    for config in (
        {"unit": "word"},
        {"unit": "span", "final_probability": 0.1},
        {"probability": 0.4, "mask": 0.5, "random": 0.5},
        {},
    ):
        objective = MaskedLM(masker(9, **config))
        assert objective.validation_corruption == plain
        assert objective.corruption == masker(9, **config)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_fixed_shapes_fit_the_largest_number_of_predicted_tokens(unit: str) -> None:
    made = FullRows(16)
    masks = masker(unit=unit, probability=0.1, final_probability=0.3)
    room = shapes.fixed(masks, made, 16).predicted
    most = 0
    for epoch in range(150):
        wanted = Samples(np.full(16, epoch), np.arange(16), progress=np.ones(16))
        most = max(most, assemble(made, masks, wanted, 16).num_predicted)
    assert most <= room < 3 * most


class FullRows:
    """Rows of 128 ordinary tokens, two to a word."""

    groups: np.ndarray | None = None

    def __init__(self, num_rows: int) -> None:
        self._ids = np.random.default_rng(0).choice(ORDINARY, (num_rows, 128)).astype(np.int32)
        self.counts = RowCounts.of(*self.chunks(np.arange(num_rows)))

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, indices: np.ndarray) -> np.ndarray:
        return self._ids.take(indices, 0)

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(indices), 128), np.ones(len(indices), np.int64)

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        return np.tile([True, False], (len(indices), 64))


def test_largest_seeds_and_samples() -> None:
    input_ids = rows(20)
    epochs, samples = np.full(20, 2**40), np.arange(2**62, 2**62 + 20)
    shown, predicted, _ = masker(2**63 - 1)(input_ids, epochs, samples)
    assert predicted.any() and (shown != input_ids).any()
    assert (predicted != masker(2**63 - 2)(input_ids, epochs, samples)[1]).any()


def test_masks_stay_the_same_across_versions() -> None:
    # A run that is resumed with a newer version must see the same masks.
    input_ids = np.arange(20, 40, dtype=np.int32)[None]
    shown, predicted, _ = masker(7, probability=0.3)(input_ids, np.array([1]), np.array([5]))
    assert np.flatnonzero(predicted).tolist() == [1, 2, 4, 7, 9, 12, 13, 17]
    assert shown[predicted].tolist() == [21, 520, 4, 27, 4, 32, 4, 4]
