"""Near-duplicates: exactly those over the threshold are found, and only those of documents that stay are dropped."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import made_up_text

from mlm_dist import hashing
from mlm_dist.corpus import signatures as signatures_module
from mlm_dist.corpus.near_duplicates import NearDuplicates, find
from mlm_dist.corpus.shingle_sets import ShingleSets
from mlm_dist.corpus.shingles import shingles
from mlm_dist.corpus.signatures import NUM_PERM, SIGNATURE_TYPE, SignatureTable, bands, signatures


def jaccard(one: str, other: str) -> float:
    """The true similarity of two texts."""
    left, right = set(shingles(one).tolist()), set(shingles(other).tolist())
    return len(left & right) / len(left | right)


def near(
    texts: Sequence[str], threshold: float = 0.8, order: Sequence[int] | None = None, cut: int = 1000
) -> NearDuplicates:
    """The near-duplicates among texts, those of `order` preferred first, with signatures in blocks of `cut`.

    Documents are numbered in this order, and all are listed.
    """
    count, values = len(texts), signatures(texts)
    indices = np.arange(count) if order is None else np.array(order)
    position = np.empty(count, np.int64)
    position[indices] = np.arange(count)
    table = SignatureTable([values[i : i + cut] for i in range(0, count, cut)], np.ones(count, bool), threshold)
    found = find(
        table,
        lambda some: some[np.argsort(position[some])],
        lambda some: ShingleSets([texts[i] for i in some.tolist()]),
    )
    original, group = np.arange(count), np.arange(count)
    original[position[found.documents]] = position[found.original]
    group[position[found.documents]] = position[found.group]
    return NearDuplicates(indices, original, group)


def groups(texts: Sequence[str], threshold: float = 0.8) -> list[int]:
    """For each text, the first of its group."""
    group = near(texts, threshold).group.tolist()
    return [group.index(one) for one in group]


def true_groups(texts: Sequence[str], threshold: float) -> list[int]:
    """As `groups`, by comparing all pairs."""
    first = list(range(len(texts)))
    for i in range(len(texts)):
        for j in range(i):
            if jaccard(texts[i], texts[j]) >= threshold and first[i] != first[j]:
                smaller, larger = sorted((first[i], first[j]))
                first = [smaller if one == larger else one for one in first]
    return first


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
    assert (found[0] == found[2]).all() and found.dtype == SIGNATURE_TYPE


def test_signature_does_not_depend_on_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    text = made_up_text(3, 3000)
    whole = signatures([text])
    monkeypatch.setattr(signatures_module, "BLOCK", 97)
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


def chain(number: int, step: int, length: int = 200) -> list[str]:
    """Texts of which each begins `step` words after the one before."""
    words = made_up_text(5, number * step + length).split()
    return [" ".join(words[step * i : step * i + length]) for i in range(number)]


def changelogs(number: int) -> list[str]:
    """A text to which a paragraph is added again and again."""
    paragraphs = [made_up_text(i, 40) for i in range(number)]
    return ["\n\n".join(paragraphs[: i + 1]) for i in range(number)]


def versions(seed: int) -> list[str]:
    """Texts of several lengths, each in versions of versions."""
    draw = random.Random(seed)
    texts = []
    for i in range(5):
        base = latest = made_up_text(100 * seed + i, draw.choice([20, 60, 300]))
        for _ in range(draw.randint(1, 15)):
            latest = edited(draw.choice([base, latest]), draw.choice([0, 0.01, 0.03]), draw.randint(0, 10**6))
            texts.append(latest)
    draw.shuffle(texts)
    return texts


def expected_originals(texts: Sequence[str], threshold: float) -> list[int]:
    """For each text the first earlier one that stays and is its near-duplicate, by comparing all pairs."""
    original: list[int] = []
    for i, text in enumerate(texts):
        similar = (j for j in range(i) if original[j] == j and jaccard(text, texts[j]) >= threshold)
        original.append(next(similar, i))
    return original


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_found_is_what_comparing_all_pairs_finds(seed: int, threshold: float) -> None:
    texts = versions(seed)
    assert near(texts, threshold).original.tolist() == expected_originals(texts, threshold)
    assert groups(texts, threshold) == true_groups(texts, threshold)


@pytest.mark.parametrize("texts", [chain(41, 4), chain(41, 10), changelogs(40)], ids=["85%", "80%", "changelogs"])
def test_a_chain_is_one_group_but_only_near_duplicates_of_what_stays_are_dropped(texts: list[str]) -> None:
    found = near(texts)
    kept = [i for i, original in enumerate(found.original.tolist()) if i == original]
    assert len(kept) > 5
    assert all(jaccard(texts[i], texts[j]) < 0.8 for i in kept for j in kept if i < j)
    assert all(jaccard(text, texts[i]) >= 0.8 for text, i in zip(texts, found.original.tolist(), strict=True))
    assert groups(texts) == true_groups(texts, 0.8)


def test_the_order_says_which_documents_stay() -> None:
    texts = changelogs(40)
    backwards = near(texts, order=range(39, -1, -1))
    assert backwards.original[0] == 0  # the longest
    assert backwards.original[:6].tolist() == expected_originals(texts[::-1], 0.8)[:6]


@pytest.mark.parametrize("kind", ["60 words", "300 words", "Chinese"])
@pytest.mark.parametrize("footer", [False, True], ids=["own ends", "one end"])
def test_recall_at_the_threshold(kind: str, footer: bool) -> None:
    """Of 2,000 pairs whose similarity is the threshold or just above, at least 99.5% are found."""
    similarity = 0.8
    draw = random.Random(3)
    texts: list[str] = []
    length = 300 if kind == "300 words" else 60
    space = "" if kind == "Chinese" else " "

    def words(number: int) -> list[str]:
        if kind == "Chinese":
            return [chr(draw.randrange(0x4E00, 0x9FA0)) for _ in range(number)]
        return [f"{draw.getrandbits(40):x}" for _ in range(number)]

    # If the first k of n words are common to both, the similarity is (k - 4) / (2 (n - 4) - (k - 4)).
    common = int(np.ceil(2 * (length - 4) * similarity / (1 + similarity))) + 4
    end = words(length - common)
    while len(texts) < 4000:
        one = words(length)
        end = end if footer else words(length - common)
        texts += [space.join(one), space.join(one[:common] + end)]
    assert similarity <= jaccard(texts[0], texts[1]) < similarity + 0.02
    original = near(texts).original
    assert (original[1::2] == np.arange(0, 4000, 2)).mean() >= 0.995
    assert (original[::2] == np.arange(0, 4000, 2)).all()


def test_no_document_under_the_threshold_is_dropped() -> None:
    """The estimates of such pairs are often over the threshold."""
    texts = []
    for seed in range(500):
        words = made_up_text(seed, 304).split()
        texts += [" ".join(words), " ".join([*words[:268], *made_up_text(seed + 1000, 36).split()])]
    assert 0.77 < jaccard(texts[0], texts[1]) < 0.8
    assert near(texts).original.tolist() == list(range(1000))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_any_threshold_finds_equal_texts(threshold: float) -> None:
    texts = [made_up_text(seed % 20, 100) for seed in range(60)]
    assert groups(texts, threshold) == [i % 20 for i in range(60)]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8, 0.9, 0.99, 1.0])
def test_bands_find_nearly_all_pairs_at_the_threshold(threshold: float) -> None:
    number, width = bands(threshold)
    assert number * width <= NUM_PERM and 1 - (1 - threshold**width) ** number >= 0.995


def test_what_is_found_does_not_depend_on_the_blocks() -> None:
    texts = [edited(made_up_text(seed % 40, 200), 0.01, seed) for seed in range(120)]
    whole = near(texts)
    assert len(set(whole.group.tolist())) < 80
    for cut in (1, 7, 60):
        assert near(texts, cut=cut).original.tolist() == whole.original.tolist()


@pytest.mark.parametrize("words", [60, 300])
def test_many_nearly_equal_documents_do_not_take_quadratic_time(words: int) -> None:
    base = made_up_text(1, words).split()
    texts = [" ".join([*base[: i % words], f"n{i}", *base[i % words + 1 :]]) for i in range(2000)]
    values, started = signatures(texts), time.process_time()
    table = SignatureTable([values] * 5, np.ones(10_000, bool), 0.8)
    found = find(table, lambda some: some, lambda some: ShingleSets([(texts * 5)[i] for i in some.tolist()]))
    assert time.process_time() - started < 20
    kept = np.unique(found.original)
    assert len(kept) < words and kept.max() < words
    assert len(np.unique(found.group)) == 1


def test_documents_of_one_template_stay() -> None:
    """They share 60% of their phrases, so that most bands of many pairs are equal."""
    base = made_up_text(1, 150)
    texts = [f"{base} {made_up_text(i, 50)}" for i in range(2, 1002)]
    assert 0.55 < jaccard(texts[0], texts[1]) < 0.65
    found = near(texts)
    assert found.original.tolist() == list(range(1000)) and len(set(found.group.tolist())) == 1000


def test_similarity_of_sets_is_exact() -> None:
    texts = [*versions(9), "", "one", made_up_text(1, 30_000), made_up_text(1, 29_000)]
    sets = ShingleSets(texts)
    everything = np.arange(len(texts))
    for i in (0, 7, len(texts) - 4, len(texts) - 1):
        expected = [jaccard(texts[i], text) for text in texts]
        assert sets.similarity(i, everything, 0.0).tolist() == expected
        assert sets.similarity(i, everything, 0.5).tolist() == [one if one >= 0.5 else -1 for one in expected]
    sets.reorder(everything[::-1])
    assert sets.similarity(0, everything[:2], 0.0).tolist() == [1.0, jaccard(texts[-1], texts[-2])]


def test_phrases_are_hashed_with_the_finalizer_of_splitmix64() -> None:
    """The first outputs of SplitMix64 with seed 0, from its reference implementation (Vigna, 2015)."""
    states = np.array([0, 1, 2], np.uint64) * np.uint64(hashing.INCREMENT)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert hashing.mix(states).tolist() == expected
    assert hashing.mix(states + np.uint64(hashing.INCREMENT), increment=0).tolist() == expected
    assert [int(hashing.mix(np.asarray(state))) for state in states] == expected
    assert int(hashing.mix(np.asarray(0, np.uint64), increment=0)) == 0


def test_no_documents_have_no_groups() -> None:
    assert near([]).group.tolist() == [] and signatures([]).shape == (0, NUM_PERM)
