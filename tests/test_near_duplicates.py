"""Near-duplicates: signatures estimate Jaccard similarity, and groups hold similar documents and no others."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import made_up_text

from mlm_dist import hashing
from mlm_dist.corpus import near_duplicates
from mlm_dist.corpus.near_duplicates import NUM_PERM, groups, shingles, signatures


def jaccard(one: str, other: str) -> float:
    """The true similarity of two texts."""
    left, right = set(shingles(one).tolist()), set(shingles(other).tolist())
    return len(left & right) / len(left | right)


def edited(text: str, rate: float, seed: int) -> str:
    """The text with a fraction of its words replaced."""
    draw = random.Random(seed)
    return " ".join(f"new{draw.random()}" if draw.random() < rate else word for word in text.split())


@pytest.mark.parametrize(
    "text", ["one two three four five six", "A b. C, d? e!", "x1 y2", "größe ÉTÉ ñ", "日本語の文書です"]
)
def test_case_space_and_punctuation_do_not_count(text: str) -> None:
    for other in (text.upper(), f"  {text}\n", text.replace(" ", "\n\t "), f"...{text}!!!"):
        assert shingles(other).tolist() == shingles(text).tolist()


def test_shingles_are_phrases_of_five_words() -> None:
    words = made_up_text(1, 50).split()
    hashes = shingles(" ".join(words)).tolist()
    assert len(hashes) == len(words) - 4
    assert hashes[7:20] == shingles(" ".join(words[7:24])).tolist()
    assert len(set(hashes)) == len({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    assert shingles("five words in another order").tolist() != shingles("order another in words five").tolist()


@pytest.mark.parametrize("text", ["", " ", "...", "a", "one two", "\ud800", "\0", "日"])
def test_short_and_unusual_texts_are_one_phrase(text: str) -> None:
    assert len(shingles(text)) == 1
    assert signatures([text]).shape == (1, NUM_PERM)


def test_texts_of_punctuation_alone_are_distinguished() -> None:
    assert shingles("---").tolist() != shingles("+++").tolist()
    assert shingles("- - -").tolist() == shingles("---").tolist()


def test_letters_of_scripts_without_spaces_are_words() -> None:
    one, other = "東京都は日本の首都である。", "東京都は日本の首都でした。"
    assert len(shingles(one)) == 12 - 4 and 0.2 < jaccard(one, other) < 1


@given(st.text(max_size=200), st.text(max_size=20))
def test_any_text_has_a_signature(text: str, more: str) -> None:
    found = signatures([text, more, text])
    assert (found[0] == found[2]).all() and found.dtype == near_duplicates.SIGNATURE_TYPE


def test_signature_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    text = made_up_text(3, 3000)
    whole = signatures([text])
    monkeypatch.setattr(near_duplicates, "BLOCK", 97)
    assert (signatures([text]) == whole).all()


def test_equal_values_estimate_the_jaccard_similarity() -> None:
    errors = []
    for seed in range(60):
        text = made_up_text(seed, 400)
        other = edited(text, 0.002 * (seed % 30), seed)
        one, two = signatures([text, other])
        true = jaccard(text, other)
        errors.append(((one == two).mean() - true) / np.sqrt(true * (1 - true) / NUM_PERM + 1e-9))
    assert abs(np.mean(errors)) < 0.5 and 0.6 < np.std(errors) < 1.5


def test_near_duplicates_are_found_and_others_are_not() -> None:
    texts = [made_up_text(seed, 300) for seed in range(150)]
    near = [edited(text, 0.01, seed) for seed, text in enumerate(texts)]
    far = [edited(text, 0.15, seed) for seed, text in enumerate(texts)]
    assert min(jaccard(*pair) for pair in zip(texts, near, strict=True)) > 0.7
    assert max(jaccard(*pair) for pair in zip(texts, far, strict=True)) < 0.7
    found = groups([signatures(texts), signatures(near), signatures(far)], 0.8)
    assert found[:150].tolist() == list(range(150))
    surely = [i for i in range(150) if jaccard(texts[i], near[i]) > 0.9]
    assert len(surely) > 50 and all(found[150 + i] == i for i in surely)
    assert (found[300:] == np.arange(300, 450)).all()


def test_connected_documents_are_one_group() -> None:
    words = made_up_text(5, 400).split()
    chain = [" ".join(words[20 * i : 20 * i + 300]) for i in range(5)]
    assert jaccard(chain[0], chain[1]) > 0.85 and jaccard(chain[0], chain[4]) < 0.7
    assert groups([signatures(chain)], 0.8).tolist() == [0] * 5


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_any_threshold_finds_equal_texts(threshold: float) -> None:
    texts = [made_up_text(seed % 20, 100) for seed in range(60)]
    assert groups([signatures(texts)], threshold).tolist() == [i % 20 for i in range(60)]


def test_groups_do_not_depend_on_the_blocks() -> None:
    texts = [edited(made_up_text(seed % 40, 200), 0.01, seed) for seed in range(120)]
    whole = signatures(texts)
    expected = groups([whole], 0.8).tolist()
    assert len(set(expected)) < 80
    for cut in (1, 7, 60):
        blocks = [whole[i : i + cut] for i in range(0, 120, cut)] + [whole[:0]]
        assert groups(blocks, 0.8).tolist() == expected


def test_many_equal_documents_do_not_take_quadratic_time() -> None:
    equal = np.repeat(signatures([made_up_text(1, 50)]), 200_000, axis=0)
    assert not groups([equal], 0.8).any()


def test_phrases_are_hashed_with_the_finalizer_of_splitmix64() -> None:
    """The first outputs of SplitMix64 with seed 0, from its reference implementation (Vigna, 2015)."""
    states = np.array([0, 1, 2], np.uint64) * np.uint64(hashing.INCREMENT)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert hashing.mix(states).tolist() == expected
    assert hashing.mix(states + np.uint64(hashing.INCREMENT), increment=0).tolist() == expected
    assert [int(hashing.mix(np.asarray(state))) for state in states] == expected
    assert int(hashing.mix(np.asarray(0, np.uint64), increment=0)) == 0


def test_no_documents_have_no_groups() -> None:
    assert groups([], 0.8).tolist() == [] and signatures([]).shape == (0, NUM_PERM)
