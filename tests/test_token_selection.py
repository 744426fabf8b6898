"""Selection of whole words and of spans like SpanBERT's; each token has exactly the requested probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_masking import CLS, MASK, ORDINARY, PAD, SEP, SPECIAL, VOCAB_SIZE, within_four_sigma

from mlm_dist import hashing
from mlm_dist.batches import token_selection
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.token_selection import WordStarts
from mlm_dist.config import MaskingConfig

UNITS = ("word", "span")
LENGTH = 64


def masker(unit: str, seed: int = 0, **config: Any) -> Masker:
    """A masker for a vocabulary of 1000 tokens."""
    return Masker(MaskingConfig(unit=unit, **{"probability": 0.15} | config), seed, MASK, SPECIAL, VOCAB_SIZE)  # type: ignore[arg-type]


def rows(num_rows: int, length: int = LENGTH, seed: int = 1) -> tuple[np.ndarray, WordStarts]:
    """Rows of words of one to four tokens; some hold two chunks, special tokens within a chunk, or padding."""
    draw = np.random.default_rng(seed)
    ids = draw.choice(ORDINARY, (num_rows, length)).astype(np.int32)
    begins = draw.random((num_rows, length)) < 0.5
    ids[draw.random(ids.shape) < 0.02] = 17
    ids[:, 0] = CLS
    lengths = np.where(draw.random(num_rows) < 1 / 3, draw.integers(3, length + 1, num_rows), length)
    chunks = []
    for i in range(num_rows):
        chunks.append(i * length)
        if i % 4 == 0 and lengths[i] > 20:
            middle = int(draw.integers(8, lengths[i] - 8))
            ids[i, middle : middle + 2] = SEP, CLS
            chunks.append(i * length + middle + 1)
        ids[i, lengths[i] - 1] = SEP
        ids[i, lengths[i] :] = PAD
    return ids, WordStarts(begins, np.array(chunks))


def apply(
    masks: Masker,
    ids: np.ndarray,
    words: WordStarts,
    epoch: int = 0,
    first: int = 0,
    progress: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask consecutive rows of the corpus."""
    return masks(ids, np.full(len(ids), epoch), np.arange(first, first + len(ids)), progress, words)[:2]


def some(words: WordStarts, wanted: np.ndarray) -> WordStarts:
    """The words of some rows only."""
    length = words.begins.shape[1]
    row = words.chunks // length
    chunks = [words.chunks[row == old] + (new - old) * length for new, old in enumerate(wanted.tolist())]
    return WordStarts(words.begins[wanted], np.concatenate(chunks) if chunks else np.zeros(0, np.int64))


def words_of(ids: np.ndarray, words: WordStarts) -> list[list[list[int]]]:
    """For each chunk its words: the positions of their ordinary tokens in the flattened rows."""
    flat, begins = ids.reshape(-1), words.begins.reshape(-1)
    edges = set(words.chunks.tolist())
    found: list[list[list[int]]] = []
    for position, token in enumerate(flat.tolist()):
        if position in edges:
            found.append([])
        if token in SPECIAL:
            continue
        if begins[position] or position in edges or flat[position - 1] in SPECIAL:
            found[-1].append([])
        found[-1][-1].append(position)
    return found


def even_rows(num_rows: int, length: int) -> tuple[np.ndarray, WordStarts]:
    """Rows of ordinary tokens, each of them a word, without special tokens."""
    ids = np.random.default_rng(3).choice(ORDINARY, (num_rows, length)).astype(np.int32)
    return ids, WordStarts(np.ones(ids.shape, bool), np.arange(num_rows) * length)


def spans_of(rate: float, num_rows: int, length: int, seed: int = 0) -> np.ndarray:
    """[rows, length] the span of each word, named by the position at which it begins; -1 for none."""
    ids, words = even_rows(num_rows, length)
    keys = np.random.default_rng(seed).integers(0, 2**64, ids.shape, np.uint64)
    chosen, owners = token_selection.spans(keys, np.ones(ids.shape, bool), rate, words)
    found = np.full(ids.shape, -1)
    found[chosen] = owners
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_words_are_selected_whole(unit: str) -> None:
    ids, words = rows(400)
    predicted = apply(masker(unit), ids, words)[1].reshape(-1)
    assert not predicted[np.isin(ids.reshape(-1), SPECIAL)].any()
    sizes = set()
    for word in (word for chunk in words_of(ids, words) for word in chunk):
        assert len(set(predicted[word].tolist())) == 1
        sizes.add((len(word), bool(predicted[word[0]])))
    assert {(size, True) for size in range(1, 5)} <= sizes


@pytest.mark.parametrize("unit", UNITS)
def test_masks_do_not_depend_on_the_batch(unit: str) -> None:
    ids, words = rows(61)
    draw = np.random.default_rng(2)
    epochs, samples, progress = draw.integers(0, 3, 61), draw.integers(0, 10**12, 61), draw.random(61)
    masks = masker(unit, final_probability=0.4)
    whole = masks(ids, epochs, samples, progress, words)[:2]
    for size in (1, 7, 32):
        for start in range(0, 61, size):
            those = draw.permutation(61)[start : start + size]
            part = masks(ids[those], epochs[those], samples[those], progress[those], some(words, those))[:2]
            for one, other in zip(whole, part, strict=True):
                np.testing.assert_array_equal(one[those], other)


@pytest.mark.parametrize("unit", UNITS)
def test_masks_do_not_depend_on_padding(unit: str) -> None:
    ids, words = rows(60)
    wide_ids = np.pad(ids, ((0, 0), (0, 30)), constant_values=PAD)
    row, position = np.divmod(words.chunks, LENGTH)
    wide_words = WordStarts(np.pad(words.begins, ((0, 0), (0, 30))), row * (LENGTH + 30) + position)
    for narrow, wide in zip(apply(masker(unit), ids, words), apply(masker(unit), wide_ids, wide_words), strict=True):
        np.testing.assert_array_equal(wide[:, :LENGTH], narrow)


@pytest.mark.parametrize("unit", UNITS)
def test_seed_epoch_and_sample_each_change_the_masks(unit: str) -> None:
    ids, words = rows(200)
    base = apply(masker(unit), ids, words)[1]
    for other in (
        apply(masker(unit, seed=1), ids, words),
        apply(masker(unit), ids, words, epoch=1),
        apply(masker(unit), ids, words, first=200),
    ):
        both = int((base & other[1]).sum())
        assert 0.5 * 0.15 * other[1].sum() < both < 1.5 * 0.15 * other[1].sum()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("probability", [1e-6, 0.15, 0.99])
def test_every_row_predicts_something(unit: str, probability: float) -> None:
    ids, words = rows(2000, length=16)
    ids[:3], ids[3, 1:] = PAD, 17
    predicted = apply(masker(unit, probability=probability), ids, words)[1]
    np.testing.assert_array_equal(predicted.any(1), (~np.isin(ids, SPECIAL)).any(1))
    if probability == 1e-6:
        whole = [[word for word in chunk if predicted.reshape(-1)[word[0]]] for chunk in words_of(ids, words)]
        assert sum(map(len, whole)) == predicted.any(1).sum(), "more than one word of a row"
        even, all_words = even_rows(6000, 16)  # the word is random
        counts = apply(masker(unit, probability=probability), even, all_words)[1].sum(0)
        assert np.abs(counts - 6000 / 16).max() < 5 * np.sqrt(6000 / 16)


@pytest.mark.parametrize("unit", UNITS)
def test_empty_batch(unit: str) -> None:
    words = WordStarts(np.zeros((0, LENGTH), bool), np.zeros(0, np.int64))
    shown, predicted = apply(masker(unit), np.zeros((0, LENGTH), np.int32), words)
    assert shown.shape == predicted.shape == (0, LENGTH)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("probability", [0.15, 0.4, 0.7])
def test_each_position_has_the_requested_probability(unit: str, probability: float) -> None:
    ids, words = even_rows(20_000, 48)
    by_position = apply(masker(unit, probability=probability), ids, words)[1].sum(0)
    sigma = np.sqrt(len(ids) * probability * (1 - probability))
    forced = len(ids) * 2e-3 if probability == 0.15 else 0  # in rows without any other prediction
    assert (np.abs(by_position - len(ids) * probability) < 4.5 * sigma + forced).all()


@pytest.mark.parametrize("unit", UNITS)
def test_long_and_short_words_are_equally_likely(unit: str) -> None:
    ids, _ = even_rows(20_000, LENGTH)
    begins = np.ones(ids.shape, bool)
    begins[:, 10:14] = begins[:, 30:39] = False
    predicted = apply(masker(unit), ids, WordStarts(begins, np.arange(len(ids)) * LENGTH))[1]
    for position in (5, 9, 13, 29, 38, 50):
        assert abs(int(predicted[:, position].sum()) - 3000) < 4.5 * np.sqrt(3000 * 0.85) + 20
    assert (predicted[:, 29:30] == predicted[:, 29:39]).all()


def test_words_are_chosen_independently() -> None:
    ids, words = even_rows(8000, 128)
    predicted = apply(masker("word"), ids, words)[1]
    for one, other in ((predicted[:, :-1], predicted[:, 1:]), (predicted[:-1], predicted[1:])):
        assert within_four_sigma(int((one & other).sum()), one.size, 0.15**2)


def test_lengths_of_spans_equal_spanberts() -> None:
    spans = spans_of(0.15, 2000, 512)
    starts = spans[(spans >= 0) & (spans % 512 > 0) & (spans % 512 < 500)]  # spans that no edge of a row cuts
    counts = np.bincount(np.unique(starts, return_counts=True)[1], minlength=11)[1:]
    assert len(counts) == 10
    share = 0.2 * 0.8 ** np.arange(10)
    share /= share.sum()
    assert float((share * np.arange(1, 11)).sum()) == pytest.approx(3.8, abs=0.01)  # as in the paper
    chi_squared = float(((counts - counts.sum() * share) ** 2 / (counts.sum() * share)).sum())
    assert counts.sum() > 30_000 and chi_squared < 9 + 5 * np.sqrt(18)


@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_spans_begin_with_equal_probability_at_all_words_between_them(rate: float) -> None:
    spans = spans_of(rate, 1000, 512)
    begins = (spans >= 0) & (spans == np.arange(spans.size).reshape(spans.shape))
    mean = 3.797
    chance = rate / (rate + mean * (1 - rate))
    free = np.ones_like(begins[:, 1:])
    free &= (spans[:, 1:] < 0) | begins[:, 1:]  # words at which a span may begin
    assert within_four_sigma(int(begins[:, 1:].sum()), int(free.sum()), chance)
    touching = free & (spans[:, :-1] >= 0)  # also right behind another span
    assert within_four_sigma(int((begins[:, 1:] & touching).sum()), int(touching.sum()), chance)


def test_chunks_of_a_row_share_no_span_and_are_independent() -> None:
    ids, words = even_rows(500, 120)  # only `chunks` separates them
    words = WordStarts(words.begins, (np.arange(500)[:, None] * 120 + [0, 50, 52]).reshape(-1))
    keys = np.random.default_rng(0).integers(0, 2**64, ids.shape, np.uint64)
    eligible = np.ones(ids.shape, bool)
    chosen, owners = token_selection.spans(keys, eligible, 0.4, words)
    mine = np.searchsorted(words.chunks, np.flatnonzero(chosen), side="right")
    np.testing.assert_array_equal(mine, np.searchsorted(words.chunks, owners, side="right"))
    crossing = chosen[:, 49] & chosen[:, 50]
    assert within_four_sigma(int(crossing.sum()), 500, 0.4**2)
    other = keys.copy()
    other[:, :50] += np.uint64(12345)
    again = token_selection.spans(other, eligible, 0.4, words)[0]
    np.testing.assert_array_equal(again[:, 50:], chosen[:, 50:])
    assert (again[:, :50] != chosen[:, :50]).any()


def test_word_that_spans_two_chunks_is_a_word_in_each() -> None:
    ids, words = even_rows(8000, 32)  # no special token separates the chunks
    begins = np.arange(32) % 8 == 0
    words = WordStarts(np.tile(begins, (8000, 1)), (np.arange(8000)[:, None] * 32 + [0, 12]).reshape(-1))
    predicted = apply(masker("word"), ids, words)[1]
    assert (predicted[:, 8:12] == predicted[:, 8:9]).all() and (predicted[:, 12:16] == predicted[:, 12:13]).all()
    assert within_four_sigma(int((predicted[:, 11] & predicted[:, 12]).sum()), 8000, 0.15**2)


def test_first_word_of_a_chunk_may_be_the_middle_of_a_span() -> None:
    spans = spans_of(0.4, 20_000, 32)
    lengths = (spans == (np.arange(len(spans)) * 32)[:, None]).sum(1)[spans[:, 0] >= 0]
    share = np.cumsum(0.2 * 0.8 ** np.arange(10)[::-1])[::-1]
    counts = np.bincount(lengths, minlength=11)[1:11]
    expected = counts.sum() * share / share.sum()
    assert float(((counts - expected) ** 2 / expected).sum()) < 9 + 5 * np.sqrt(18)


def test_replacement_is_decided_for_each_token_of_a_word() -> None:
    ids, _ = even_rows(20_000, 32)
    begins = np.zeros(ids.shape, bool)
    begins[:, ::2] = True
    shown, predicted = apply(masker("word"), ids, WordStarts(begins, np.arange(len(ids)) * 32))
    pairs = (shown == MASK).reshape(-1, 2)[predicted.reshape(-1, 2).all(1)]
    assert within_four_sigma(int(pairs.all(1).sum()), len(pairs), 0.64)


def test_replacement_is_decided_once_per_span() -> None:
    ids, words = even_rows(4000, 128)
    shown, predicted = apply(masker("span"), ids, words)
    samples = np.arange(len(ids))
    keys = hashing.key(hashing.key(0, np.zeros_like(samples), samples)[:, None], np.arange(128)[None])
    chosen, owners = token_selection.spans(keys, np.ones(ids.shape, bool), 0.15, words)
    np.testing.assert_array_equal(chosen, predicted)
    kinds = np.where(shown == MASK, 0, np.where(shown == ids, 1, 2))[predicted]
    names, first, count = np.unique(owners, return_index=True, return_counts=True)
    long = count > 1
    of_spans = kinds[first]
    same = np.add.reduceat(kinds == np.repeat(of_spans, count), np.cumsum(count) - count) == count
    # A random token may equal the true one.
    assert same[of_spans == 0].all() and same[long].mean() > 0.999
    for kind, share in enumerate((0.8, 0.1, 0.1)):
        assert within_four_sigma(int((of_spans == kind).sum()), len(names), share)
    drawn = shown[predicted][kinds == 2]
    assert len(np.unique(drawn)) > 0.9 * len(ORDINARY)
    assert (drawn[1:] == drawn[:-1]).mean() < 0.01, "all tokens of a span show the same random token"


@pytest.mark.parametrize("unit", ["token", *UNITS])
def test_probability_changes_linearly(unit: str) -> None:
    ids, words = even_rows(40_000, 32)
    progress = np.repeat(np.linspace(0, 1, 5), 8000)
    for first, last in ((0.5, 0.2), (0.2, 0.5)):
        masks = masker(unit, probability=first, final_probability=last)
        predicted = apply(masks, ids, words, progress=progress)[1].reshape(5, -1)
        for i, count in enumerate(predicted.sum(1).tolist()):
            rate = first + (last - first) * i / 4
            # Words of a span are selected together, so their number varies more than that of single words.
            spread = 6 if unit == "span" else 1
            assert abs(count - rate * predicted.shape[1]) < 4 * np.sqrt(spread * rate * (1 - rate) * predicted.shape[1])


@pytest.mark.parametrize("unit", ["token", *UNITS])
def test_equal_first_and_final_probability_give_constant_masks(unit: str) -> None:
    ids, words = rows(50)
    constant = apply(masker(unit), ids, words, progress=np.linspace(0, 1, 50))
    again = apply(masker(unit, final_probability=0.15), ids, words, progress=np.linspace(0, 1, 50))
    for one, other in zip(constant, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("unit", "predicted", "shown"),
    [
        (
            "word",
            [3, 4, 5, 27, 28, 29, 33, 34, 35, 42, 43, 44, 57, 58, 59, 63, 64, 65, 72, 73, 74],
            [4, 43, 4, 142, 4, 4, 460, 54, 4, 62, 949, 4, 322, 4, 4, 241, 4, 297, 4, 966, 4],
        ),
        (
            "span",
            [3, 4, 5, 6, 7, 8, 27, 28, 29, 33, 34, 35, 45, 46, 47],
            [4, 4, 4, 4, 4, 4, 142, 525, 112, 460, 328, 100, 915, 607, 700],
        ),
    ],
)
def test_masks_stay_the_same_across_versions(unit: str, predicted: list[int], shown: list[int]) -> None:
    # A run that is resumed with a newer version must see the same masks.
    ids = np.arange(20, 100, dtype=np.int32).reshape(2, 40)
    words = WordStarts((np.arange(80) % 3 == 0).reshape(2, 40), np.array([0, 40, 60]))
    masks = masker(unit, 7, probability=0.3, mask=0.4, random=0.4)
    found, chosen, _ = masks(ids, np.array([1, 1]), np.array([4, 5]), None, words)
    assert np.flatnonzero(chosen).tolist() == predicted
    assert found[chosen].tolist() == shown
