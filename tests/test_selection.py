"""Selection: duplicates go, and a document's side depends on its text alone."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from mlm_dist.corpus.selection import DROPPED, TRAIN, VALIDATION, Selection, select, text_key


def keys_of(start: int, stop: int) -> list[bytes]:
    """Keys of different texts."""
    return [text_key(f"document number {i}") for i in range(start, stop)]


def choose(keys: list[bytes], fraction: float = 0.1, deduplicate: bool = True) -> list[int]:
    """The side of each document."""
    return list(select(keys, deduplicate=deduplicate, validation_fraction=fraction).side.tolist())


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", " a\n\n b\t"), ("a b", "a\u00a0b"), ("caf\u00e9", "cafe\u0301"), ("", " \n"), ("a\r\nb", "a\nb")],
)
def test_key_ignores_white_space_and_composition(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a b", "ab"), ("a", "A"), ("a", "a."), ("a b", "b a"), ("ﬁ", "fi"), ("", "a")]
)
def test_key_tells_texts_apart(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)
    assert len(text_key(one)) == 16


def test_only_the_first_of_equal_documents_stays() -> None:
    keys = keys_of(0, 50)
    many = [*keys, *reversed(keys), *keys]
    side = choose(many)
    assert DROPPED not in side[:50] and set(side[50:]) == {DROPPED}
    assert side[:50] == choose(keys)


def test_without_deduplication_nothing_is_dropped_and_equals_stay_together() -> None:
    keys = keys_of(0, 200)
    side = choose(keys + keys, deduplicate=False)
    assert DROPPED not in side and side[:200] == side[200:]
    assert side[:200] == choose(keys)


def test_no_text_is_on_both_sides() -> None:
    draw = random.Random(5)
    keys = draw.choices(keys_of(0, 100), k=1000)
    for deduplicate in (True, False):
        side = choose(keys, 0.3, deduplicate)
        sides = {key: {s for k, s in zip(keys, side, strict=True) if k == key and s != DROPPED} for key in set(keys)}
        assert all(len(found) == 1 for found in sides.values())


def test_side_stays_while_the_corpus_grows_or_is_shuffled() -> None:
    keys = keys_of(0, 300)
    before = dict(zip(keys, choose(keys), strict=True))
    grown = [*keys_of(300, 900), *reversed(keys)]
    random.Random(1).shuffle(grown)
    after = dict(zip(grown, choose(grown), strict=True))
    assert {key: after[key] for key in keys} == before


def test_side_stays_validation_while_the_fraction_grows() -> None:
    keys = keys_of(0, 500)
    held_out = [
        {key for key, s in zip(keys, choose(keys, f), strict=True) if s == VALIDATION} for f in (0.05, 0.2, 0.6)
    ]
    assert held_out[0] < held_out[1] < held_out[2]


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.9])
def test_fraction_is_kept_within_four_sigma(fraction: float) -> None:
    count = Counter(choose(keys_of(0, 20_000), fraction))
    sigma = (20_000 * fraction * (1 - fraction)) ** 0.5
    assert abs(count[VALIDATION] - 20_000 * fraction) < 4 * sigma


@pytest.mark.parametrize("fraction", [1e-9, 0.05, 0.5, 0.95, 1 - 1e-9])
@pytest.mark.parametrize("number", [2, 3, 5])
def test_no_side_is_empty_with_two_documents_or_more(fraction: float, number: int) -> None:
    for start in range(0, 500, number):
        for keys in (keys_of(start, start + number), keys_of(start, start + number) * 2):
            for deduplicate in (True, False):
                assert {TRAIN, VALIDATION} <= set(choose(keys, fraction, deduplicate))


def test_one_document_is_not_split() -> None:
    for i in range(50):
        (key,) = keys_of(i, i + 1)
        assert Counter(choose([key] * 3)) in (Counter({DROPPED: 2, TRAIN: 1}), Counter({DROPPED: 2, VALIDATION: 1}))
        assert len(set(choose([key] * 3, deduplicate=False))) == 1


def test_fraction_of_nothing_holds_out_nothing() -> None:
    assert set(choose(keys_of(0, 1000), 0.0)) == {TRAIN}


def test_no_documents_no_sides() -> None:
    found = select([], deduplicate=True, validation_fraction=0.1)
    assert len(found.side) == 0 and found.count(TRAIN) == 0


def test_count() -> None:
    found = Selection(np.array([TRAIN, DROPPED, TRAIN, VALIDATION], np.int8))
    assert [found.count(side) for side in (DROPPED, TRAIN, VALIDATION)] == [1, 2, 1]
