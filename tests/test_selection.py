"""Selection: duplicates are dropped, near-duplicates are on one side, and sides depend on texts alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from making import made_up_text

from mlm_dist.corpus import near_duplicates, selection
from mlm_dist.corpus.selection import DUPLICATE, NEAR_DUPLICATE, TRAIN, VALIDATION, Selection, select, text_key

MODES = ("none", "exact", "near")


def keys_of(start: int, stop: int) -> list[bytes]:
    """Keys of different texts."""
    return [text_key(f"document number {i}") for i in range(start, stop)]


def selected(keys: Sequence[bytes], fraction: float = 0.1, deduplicate: str = "exact") -> Selection:
    """The selection among documents that are similar only if their keys are equal."""
    found = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16)
    signatures = np.array(
        [np.random.default_rng(list(key)).integers(0, 2**32, near_duplicates.NUM_PERM) for key in keys]
    )
    blocks = [signatures.reshape(-1, near_duplicates.NUM_PERM).astype(near_duplicates.SIGNATURE_TYPE)]
    return select(found, blocks, deduplicate=deduplicate, near_threshold=0.8, validation_fraction=fraction)


def choose(keys: Sequence[bytes], fraction: float = 0.1, deduplicate: str = "exact") -> list[int]:
    """The side of each document."""
    return list(selected(keys, fraction, deduplicate).side.tolist())


def select_texts(texts: Sequence[str], deduplicate: str, fraction: float = 0.3) -> Selection:
    """The selection among real texts."""
    keys = np.frombuffer(b"".join(map(text_key, texts)), np.uint8).reshape(-1, 16)
    return select(
        keys,
        [near_duplicates.signatures(texts)],
        deduplicate=deduplicate,
        near_threshold=0.8,
        validation_fraction=fraction,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", " a\n\n b\t"), ("a b", "a\u00a0b"), ("caf\u00e9", "cafe\u0301"), ("", " \n"), ("a\r\nb", "a\nb")],
)
def test_key_ignores_white_space_and_composition(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a b", "ab"), ("a", "A"), ("a", "a."), ("a b", "b a"), ("ﬁ", "fi"), ("", "a")]
)
def test_key_distinguishes_texts(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)
    assert len(text_key(one)) == 16


@pytest.mark.parametrize("deduplicate", ["exact", "near"])
def test_only_the_first_of_equal_documents_stays(deduplicate: str) -> None:
    keys = keys_of(0, 50)
    many = [*keys, *reversed(keys), *keys]
    found = selected(many, deduplicate=deduplicate)
    assert not found.is_dropped[:50].any() and set(found.side[50:].tolist()) == {DUPLICATE}
    assert found.side[:50].tolist() == choose(keys)
    assert [many[i] for i in found.original.tolist()] == many and found.original.max() < 50


def test_without_deduplication_nothing_is_dropped_and_equal_documents_are_on_one_side() -> None:
    keys = keys_of(0, 200)
    found = selected(keys + keys, deduplicate="none")
    assert not found.is_dropped.any() and found.side[:200].tolist() == found.side[200:].tolist() == choose(keys)
    assert found.original.tolist() == list(range(400))


def near_duplicate_texts(number: int, versions: int) -> list[str]:
    """Groups of versions of a text, each with a word of its own, in any order."""
    texts = []
    for i in range(number):
        words = made_up_text(i, 300).split()
        for j in range(versions):
            changed = [*words]
            changed[(37 * j) % len(words)] = f"version{j}"
            texts.append(" ".join(changed))
    random.Random(number).shuffle(texts)
    return texts


@pytest.mark.parametrize("deduplicate", MODES)
def test_no_near_duplicate_of_a_held_out_document_is_trained_on(deduplicate: str) -> None:
    texts = near_duplicate_texts(60, 4)
    found = select_texts(texts, deduplicate)
    group = near_duplicates.groups([near_duplicates.signatures(texts)], 0.8)
    assert len(set(group.tolist())) == 60
    sides = {g: {int(s) for s in found.side[group == g] if s in (TRAIN, VALIDATION)} for g in set(group.tolist())}
    assert all(len(side) == 1 for side in sides.values())
    assert {TRAIN, VALIDATION} == set.union(*sides.values())
    dropped = Counter(found.side[found.is_dropped].tolist())
    assert dropped == (Counter({NEAR_DUPLICATE: 180}) if deduplicate == "near" else Counter())
    if deduplicate == "near":
        assert (found.original == group).all()


def test_every_mode_holds_out_the_same_groups() -> None:
    texts = near_duplicate_texts(60, 4)
    group = near_duplicates.groups([near_duplicates.signatures(texts)], 0.8)
    held_out = [set(group[select_texts(texts, mode).side == VALIDATION].tolist()) for mode in MODES]
    assert held_out[0] == held_out[1] == held_out[2] and held_out[0]


def test_no_text_is_on_both_sides() -> None:
    draw = random.Random(5)
    keys = draw.choices(keys_of(0, 100), k=1000)
    for deduplicate in MODES:
        side = choose(keys, 0.3, deduplicate)
        sides = {key: {s for k, s in zip(keys, side, strict=True) if k == key and s != DUPLICATE} for key in set(keys)}
        assert all(len(found) == 1 for found in sides.values())


@pytest.mark.parametrize("deduplicate", MODES)
def test_side_is_the_same_if_the_corpus_grows_or_is_shuffled(deduplicate: str) -> None:
    keys = keys_of(0, 300)
    before = dict(zip(keys, choose(keys, 0.1, deduplicate), strict=True))
    grown = [*keys_of(300, 900), *reversed(keys)]
    random.Random(1).shuffle(grown)
    after = dict(zip(grown, choose(grown, 0.1, deduplicate), strict=True))
    assert {key: after[key] for key in keys} == before


def test_a_new_near_duplicate_rarely_moves_a_document() -> None:
    fraction = 0.2
    old = near_duplicate_texts(300, 1)
    before = select_texts(old, "none", fraction).side
    after = select_texts([*old, *(f"{text} once more" for text in old)], "none", fraction).side[:300]
    moved = int((before != after).sum())
    expected = 300 * 0.5 * 2 * fraction * (1 - fraction)  # half of the new keys are smaller than the old ones
    assert 0 < moved < expected + 4 * expected**0.5


def test_validation_set_grows_with_the_fraction() -> None:
    keys = keys_of(0, 500)
    held_out = [
        {key for key, s in zip(keys, choose(keys, f), strict=True) if s == VALIDATION} for f in (0.05, 0.2, 0.6)
    ]
    assert held_out[0] < held_out[1] < held_out[2]


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.9])
def test_fraction_is_kept_within_four_sigma(fraction: float) -> None:
    count = Counter(choose(keys_of(0, 4000), fraction))
    sigma = (4000 * fraction * (1 - fraction)) ** 0.5
    assert abs(count[VALIDATION] - 4000 * fraction) < 4 * sigma


@pytest.mark.parametrize("fraction", [1e-9, 0.05, 0.5, 0.95, 1 - 1e-9])
@pytest.mark.parametrize("number", [2, 3, 5])
def test_no_side_is_empty_with_two_documents_or_more(fraction: float, number: int) -> None:
    for start in range(0, 50, number):
        for keys in (keys_of(start, start + number), keys_of(start, start + number) * 2):
            for deduplicate in MODES:
                assert {TRAIN, VALIDATION} <= set(choose(keys, fraction, deduplicate))


def test_one_document_is_not_split() -> None:
    for i in range(50):
        (key,) = keys_of(i, i + 1)
        count = Counter(choose([key] * 3))
        assert count in (Counter({DUPLICATE: 2, TRAIN: 1}), Counter({DUPLICATE: 2, VALIDATION: 1}))
        assert len(set(choose([key] * 3, deduplicate="none"))) == 1


@pytest.mark.parametrize("deduplicate", MODES)
def test_fraction_of_zero_holds_out_nothing(deduplicate: str) -> None:
    assert set(choose(keys_of(0, 1000), 0.0, deduplicate)) == {TRAIN}


@pytest.mark.parametrize("deduplicate", MODES)
def test_selection_of_no_documents_is_empty(deduplicate: str) -> None:
    found = selected([], 0.1, deduplicate)
    assert len(found.side) == 0 and found.count(TRAIN) == 0


def test_selection_can_be_saved_and_loaded(tmp_path: Path) -> None:
    kept = selected([*keys_of(0, 20), *keys_of(0, 5)])
    kept.save(tmp_path / "selection.npz")
    found = selection.load(tmp_path / "selection.npz")
    assert found.side.tolist() == kept.side.tolist() and found.original.tolist() == kept.original.tolist()
    assert [found.count(side) for side in (DUPLICATE, NEAR_DUPLICATE)] == [5, 0]
