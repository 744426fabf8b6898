"""Selection: duplicates are dropped, near-duplicates are on one side, and sides depend on texts alone."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import comparing
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import made_up_text

from mlm_dist.corpus import selection, signatures
from mlm_dist.corpus.normal_text import IGNORABLE, normal_text
from mlm_dist.corpus.selection import DUPLICATE, NEAR_DUPLICATE, Selection
from mlm_dist.corpus.shingles import shingles
from mlm_dist.corpus.split_labels import TRAIN, VALIDATION
from mlm_dist.corpus.text_keys import text_key

MODES = ("none", "exact", "near")


def keys_of(start: int, stop: int) -> list[bytes]:
    """Keys of different texts."""
    return [text_key(f"document number {i}") for i in range(start, stop)]


def selected(keys: Sequence[bytes], fraction: float | np.ndarray = 0.1, deduplicate: str = "exact") -> Selection:
    """The selection among documents that are similar only if their keys are equal."""
    values = [np.random.default_rng(list(key)).integers(0, 2**32, signatures.NUM_PERM) for key in keys]
    documents = comparing.with_keys(
        keys,
        np.array(values).reshape(-1, signatures.NUM_PERM).astype(signatures.SIGNATURE_TYPE),
        ["no document is a candidate"] * len(keys),
    )
    return selection.select(documents, deduplicate=deduplicate, near_threshold=0.8, validation_fraction=fraction)


def choose(keys: Sequence[bytes], fraction: float | np.ndarray = 0.1, deduplicate: str = "exact") -> list[int]:
    """The side of each document."""
    return list(selected(keys, fraction, deduplicate).side.tolist())


def select_texts(
    texts: Sequence[str],
    deduplicate: str,
    fraction: float = 0.3,
    ids: Sequence[str] | None = None,
    prefer: str | list[str] = "first",
) -> Selection:
    """The selection among real texts."""
    documents = comparing.documents(texts, ids)
    return selection.select(
        documents, deduplicate=deduplicate, near_threshold=0.8, validation_fraction=fraction, prefer=prefer
    )


def phrases(text: str) -> set[str]:
    """The five-word phrases of a text without punctuation."""
    words = text.split()
    return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}


def versions(seed: int, number: int = 40) -> dict[str, str]:
    """Documents in versions of versions, by id."""
    draw = random.Random(seed)
    texts = {}
    for i in range(number):
        words = [f"w{draw.randrange(10**6)}" for _ in range(draw.choice([60, 200]))]
        for j in range(draw.randint(1, 8)):
            texts[f"v{j}/{i}.md"] = " ".join(words)
            for _ in range(draw.randint(0, 3)):
                words[draw.randrange(len(words))] = f"w{draw.randrange(10**6)}"
    return texts


def kept(texts: Mapping[str, str], prefer: str | list[str] = "first", fraction: float = 0.3) -> dict[str, int]:
    """{id: side} of the documents that stay."""
    found = select_texts(list(texts.values()), "near", fraction, list(texts), prefer)
    return {id_: int(side) for id_, side in zip(texts, found.side.tolist(), strict=True) if side < DUPLICATE}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *[("a b", " a\n\n b\t"), ("a b", "a\u00a0b"), ("caf\u00e9", "cafe\u0301"), ("", " \n"), ("a\r\nb", "a\nb")],
        *[
            ("a", "A"),
            ("\ufb01", "fi"),
            ("Straße", "STRASSE"),
            ("ABC 123", "\uff21\uff22\uff23\u3000\uff11\uff12\uff13"),
        ],
        *[("ガイド", "\uff76\uff9e\uff72\uff84\uff9e"), ("가", "\u1100\u1161"), ("x²", "x2")],
        *[("soft", f"so{chr(code)}ft") for pair in IGNORABLE for code in pair],
    ],
)
def test_key_ignores_what_a_reader_cannot_see(one: str, other: str) -> None:
    assert text_key(one) == text_key(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a b", "ab"), ("e", "é"), ("a", "a."), ("a b", "b a"), ("か", "が"), ("", "a")]
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


def near_duplicate_texts(number: int, versions: int) -> tuple[list[str], np.ndarray]:
    """Groups of versions of a text, each with a word of its own, in any order, and the group of each."""
    texts = []
    for i in range(number):
        words = made_up_text(i, 300).split()
        for j in range(versions):
            changed = [*words]
            changed[(37 * j) % len(words)] = f"version{j}"
            texts.append((" ".join(changed), i))
    random.Random(number).shuffle(texts)
    return [text for text, _ in texts], np.array([i for _, i in texts])


@pytest.mark.parametrize("deduplicate", MODES)
def test_no_near_duplicate_of_a_held_out_document_is_trained_on(deduplicate: str) -> None:
    texts, group = near_duplicate_texts(60, 4)
    found = select_texts(texts, deduplicate)
    sides = {g: {int(s) for s in found.side[group == g] if s in (TRAIN, VALIDATION)} for g in set(group.tolist())}
    assert all(len(side) == 1 for side in sides.values())
    assert {TRAIN, VALIDATION} == set.union(*sides.values())
    dropped = Counter(found.side[found.is_dropped].tolist())
    assert dropped == (Counter({NEAR_DUPLICATE: 180}) if deduplicate == "near" else Counter())
    if deduplicate == "near":
        assert (group[found.original] == group).all() and not found.is_dropped[found.original].any()


def test_every_mode_holds_out_the_same_groups() -> None:
    texts, group = near_duplicate_texts(60, 4)
    held_out = [set(group[select_texts(texts, mode).side == VALIDATION].tolist()) for mode in MODES]
    assert held_out[0] == held_out[1] == held_out[2] and held_out[0]


@pytest.mark.parametrize("deduplicate", MODES)
def test_no_two_documents_over_the_threshold_are_on_different_sides(deduplicate: str) -> None:
    texts = list(versions(3).values())
    found = select_texts(texts, deduplicate, 0.4)
    sets = [phrases(text) for text in texts]
    sides = [[sets[i] for i in np.flatnonzero(found.side == side)] for side in (TRAIN, VALIDATION)]
    assert all(sides)
    assert all(len(one & other) < 0.8 * len(one | other) for one in sides[0] for other in sides[1])
    if deduplicate == "near":
        stays = sides[0] + sides[1]
        assert all(len(stays[i] & one) < 0.8 * len(stays[i] | one) for i in range(len(stays)) for one in stays[:i])
        for i, j in enumerate(found.original.tolist()):
            assert len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])


@pytest.mark.parametrize("prefer", ["first", "longest", ["v3/", "v*/1*.md"]], ids=["first", "longest", "patterns"])
def test_what_is_kept_does_not_depend_on_the_order_of_shards(prefer: str | list[str]) -> None:
    texts = versions(4)
    expected = kept(texts, prefer)
    assert 40 < len(expected) < len(texts) / 2 + 40
    for seed in range(4):
        items = list(texts.items())
        random.Random(seed).shuffle(items)
        assert kept(dict(items), prefer) == expected


LONG = made_up_text(1, 200)
PAGES = {"v1.0/a.md": LONG, "current/a.md": f"{LONG} and more", "v2.0/a.md": f"{LONG} and more and more", "b.md": LONG}


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ("first", "b.md"),
        ("longest", "v2.0/a.md"),
        (["current/"], "current/a.md"),
        (["v*/", "current/"], "v1.0/a.md"),
        (["/v2.0/**", "current/"], "v2.0/a.md"),
        (["no match", "**/a.md"], "current/a.md"),
        (["no match"], "b.md"),
        (["!v1.0/"], "b.md"),
    ],
)
def test_prefer_says_which_document_stays(prefer: str | list[str], expected: str) -> None:
    for texts in (PAGES, dict(reversed(PAGES.items()))):
        assert list(kept(texts, prefer, 0)) == [expected]


@pytest.mark.parametrize("deduplicate", ["exact", "near"])
def test_prefer_chooses_among_equal_documents_as_well(deduplicate: str) -> None:
    ids = ["v1/a.md", "v2/a.md"]
    found = select_texts([LONG, LONG.upper()], deduplicate, 0, ids, ["v2/"])
    assert found.side.tolist() == [DUPLICATE, TRAIN] and found.original.tolist() == [1, 1]


def test_records_are_in_the_order_of_their_file() -> None:
    for ids in (["a.jsonl@9", "a.jsonl@80"], ["a#2", "a#10"], ["a#3.9", "a#3.10"], ["a#9.9", "a#10.1"], ["a#7", "b#1"]):
        for some in (ids, ids[::-1]):
            assert list(kept(dict.fromkeys(some, LONG), fraction=0)) == [ids[0]]
            assert list(kept(dict.fromkeys(some, LONG), [ids[1].rsplit("@")[0].rsplit("#")[0]], 0)) == (
                [ids[0]] if ids[1][0] == "a" else [ids[1]]
            )


def test_the_original_of_a_duplicate_is_kept_itself() -> None:
    texts = {"a": LONG, "b": f"{LONG} and more", "c": f"{LONG} and more", "d": LONG}
    found = select_texts(list(texts.values()), "near", 0, list(texts))
    assert found.original.tolist() == [0, 0, 0, 0]
    assert found.side.tolist() == [TRAIN, NEAR_DUPLICATE, DUPLICATE, DUPLICATE]


HIDDEN: dict[str, Callable[[str], str]] = {
    "soft hyphens": lambda text: text.replace("la", "l\u00ada"),
    "zero-width spaces": lambda text: text.replace("e", "e\u200b"),
    "zero-width joiners": lambda text: text.replace("o", "\u200do\u200c"),
    "a byte-order mark": lambda text: f"\ufeff{text}",
    "marks of direction": lambda text: "\u200e".join(text.split(" ")).replace("\u200e", " \u200e"),
    "variation selectors": lambda text: text.replace("i", "i\ufe0f"),
    "full width": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "decomposed letters": lambda text: unicodedata.normalize("NFD", text),
    "capitals": str.upper,
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
}


@pytest.mark.parametrize("form", HIDDEN)
def test_invisible_differences_hide_neither_duplicates_nor_near_duplicates(form: str) -> None:
    texts = [made_up_text(i, 120).replace("ke", "ké").replace("mu", "mü") for i in range(30)]
    changed = [HIDDEN[form](text) for text in texts]
    assert not set(texts) & set(changed)
    found = select_texts([*texts, *changed], "near")
    assert found.side[30:].tolist() == [DUPLICATE] * 30 and not found.is_dropped[:30].any()
    found = select_texts([*texts, *(HIDDEN[form](f"{text} one more sentence") for text in texts)], "near")
    assert found.side[30:].tolist() == [NEAR_DUPLICATE] * 30 and not found.is_dropped[:30].any()
    sides = select_texts([*texts, *changed], "none").side
    assert sides[:30].tolist() == sides[30:].tolist()


@given(st.text())
def test_the_normal_form_is_final_and_agrees_with_python(text: str) -> None:
    normal = normal_text(text)
    assert normal_text(normal) == normal
    visible = "".join(c for c in text if not any(first <= ord(c) <= last for first, last in IGNORABLE))
    assert normal == unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())


def test_marks_are_parts_of_words() -> None:
    one, other = "की के कि", "का कू को"
    assert shingles(one).tolist() != shingles(other).tolist()


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
    old, _ = near_duplicate_texts(300, 1)
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


@pytest.mark.parametrize("deduplicate", MODES)
@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, False), (1.0, True)])
def test_documents_that_are_in_a_source_without_validation(deduplicate: str, fraction: float, held_out: bool) -> None:
    """Nothing can be held out by a fraction; documents of a validation source are, and the others go."""
    keys = keys_of(0, 4)
    sides = choose([*keys, *keys], np.repeat([0.0, fraction], 4), deduplicate)
    assert set(sides) - {DUPLICATE} == {VALIDATION if held_out else TRAIN}


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
    kept.save(tmp_path / "selection.npy")
    found = selection.load(tmp_path / "selection.npy")
    assert found.side.tolist() == kept.side.tolist() and found.original.tolist() == kept.original.tolist()
    assert [found.count(side) for side in (DUPLICATE, NEAR_DUPLICATE)] == [5, 0]
