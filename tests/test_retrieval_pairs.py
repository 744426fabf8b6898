"""Retrieval pairs from the structure of documents: queries, passages, and links to other documents."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import made_up_text

from mlm_dist.corpus import cleaners, link_targets, passages, retrieval_pairs, trivial_queries
from mlm_dist.corpus.link_targets import LinkTargets
from mlm_dist.corpus.passages import OutlinedDocument
from mlm_dist.corpus.retrieval_pairs import RetrievalPairs

# --- where links lead ---

IDS = [
    *("docs/index.md", "docs/guide/install.md", "docs/guide/Use.rst", "docs/guide/index.md", "docs/api/install.md"),
    *("docs/book.md#validation", "docs/other.md#train", "docs/other.md#validation", "README.md", "docs/a b.md"),
]


@pytest.mark.parametrize(
    ("id_", "target", "expected"),
    [
        ("docs/guide/Use.rst", "install.md", "docs/guide/install.md"),
        ("docs/guide/Use.rst", "./install.html#step-2", "docs/guide/install.md"),
        ("docs/guide/Use.rst", "../api/install", "docs/api/install.md"),
        ("docs/guide/Use.rst", "../api/install/?x=1", "docs/api/install.md"),
        ("docs/guide/Use.rst", ".", "docs/guide/index.md"),
        ("docs/guide/Use.rst", "../", "docs/index.md"),
        ("docs/index.md", "guide/", "docs/guide/index.md"),
        ("docs/index.md", "GUIDE/use", "docs/guide/Use.rst"),
        ("docs/index.md", "a%20b.md", "docs/a b.md"),
        ("docs/guide/install.md", "docs/api/install.md", "docs/api/install.md"),  # from the root
        ("docs/guide/install.md", "/docs/api/install.md", "docs/api/install.md"),
        ("docs/guide/Use.rst", "/api/install", "docs/api/install.md"),  # the root of the site is a folder
        ("docs/guide/install.md", "/product/guide/use", "docs/guide/Use.rst"),  # the source is a part of the site
        ("docs/guide/install.md", "/use", "docs/guide/Use.rst"),
        ("docs/index.md", "book.md", "docs/book.md#validation"),
        ("docs/index.md", "{{ '/guide/use/' | relative_url }}", "docs/guide/Use.rst"),
        ("docs/index.md", '{{< ref "guide/use.md" >}}', "docs/guide/Use.rst"),
        ("docs/index.md", "{% link docs/guide/Use.rst %}", "docs/guide/Use.rst"),
        ("docs/index.md", "{{ site.baseurl }}/guide/use", "docs/guide/Use.rst"),
        ("docs/index.md", "#../README.adoc#", "README.md"),
        ("docs/index.md", "~/docs/guide/use.md", "docs/guide/Use.rst"),
    ],
)
def test_target_is_resolved(id_: str, target: str, expected: str) -> None:
    targets = LinkTargets(IDS)
    assert targets.resolve(id_, target) == (expected,)
    assert not targets.dropped


def test_parts_of_a_document_are_found_together() -> None:
    assert LinkTargets(IDS).resolve("docs/index.md", "other.md") == ("docs/other.md#train", "docs/other.md#validation")


@pytest.mark.parametrize(
    ("id_", "target", "reason"),
    [
        ("docs/index.md", "https://example.org/docs/guide/use", link_targets.ELSEWHERE),
        ("docs/index.md", "//example.org/docs/guide/use", link_targets.ELSEWHERE),
        ("docs/index.md", "mailto:a@b.org", link_targets.ELSEWHERE),
        ("docs/index.md", "{{ page.next }}", link_targets.ELSEWHERE),
        ("docs/index.md", "#use", link_targets.WITHIN),
        ("docs/guide/Use.rst", "use.html#top", link_targets.WITHIN),
        ("docs/book.md#validation", "book.md", link_targets.WITHIN),
        ("docs/index.md", "guide/none.md", link_targets.NO_DOCUMENT),
        ("docs/index.md", "use.md", link_targets.NO_DOCUMENT),  # a relative path says where it leads
        ("docs/index.md", "/install", link_targets.NO_DOCUMENT),  # two documents
        ("docs/index.md", "/product/use", link_targets.NO_DOCUMENT),  # a name alone, in another folder
        ("docs/index.md", "../../../guide/use", link_targets.NO_DOCUMENT),
    ],
)
def test_other_targets_are_counted(id_: str, target: str, reason: str) -> None:
    targets = LinkTargets(IDS)
    assert targets.resolve(id_, target) == ()
    assert targets.dropped == {reason: 1}


# --- queries ---


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("Configure the firewall", None),
        ("Redis cache", None),
        ("next.js", None),
        ("数据加密概述", None),
        ("Introduction", trivial_queries.FEW_WORDS),
        ("here", trivial_queries.FEW_WORDS),
        ("Version 2.0", trivial_queries.FEW_WORDS),
        ("概述", trivial_queries.FEW_WORDS),
        ("See also", trivial_queries.GENERIC),
        ("this article", trivial_queries.GENERIC),
        ("Next Steps", trivial_queries.GENERIC),
        ("https://example.org/a-b", trivial_queries.ADDRESS),
        ("docs/some/file", trivial_queries.ADDRESS),
        ("word " * 41, trivial_queries.MANY_WORDS),
    ],
)
def test_trivial_queries(query: str, reason: str | None) -> None:
    assert trivial_queries.fault(query) == reason


# --- passages ---


def document(id_: str, markdown: str) -> OutlinedDocument:
    cleaned = cleaners.clean(markdown, "markdown")
    return OutlinedDocument(id_, cleaned.text, cleaned.outline)


def test_body_and_sections() -> None:
    one = document("a", "---\ntitle: T\n---\n# T again\n\nintro\n\n## One [l](b)\n\ntext\n\n### Two\n\n## Three\n- x")
    assert passages.title(one) == "T"
    assert passages.body(one).startswith("intro\n\nOne l\n\ntext")
    assert list(passages.sections(one)) == [("One l", "text"), ("Two", ""), ("Three", "- x")]
    plain = document("b", "no title")
    assert (passages.title(plain), passages.body(plain), list(passages.sections(plain))) == (None, "no title", [])


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab 漢\n", max_size=200), limit=st.integers(1, 20))
def test_a_passage_has_a_bounded_number_of_words(text: str, limit: int) -> None:
    some = passages.shortened(text, limit)
    assert text.startswith(some)
    assert passages.num_words(some) == min(limit, passages.num_words(text))
    assert some == text or (passages.num_words(text) >= limit and some == some.rstrip())


def test_halves_are_divided_between_blocks() -> None:
    assert passages.halves("aa\n\nbb\n\ncccc") == ("aa\n\nbb", "cccc")
    assert passages.halves("one block") is None


# --- pairs ---


def words(seed: int, count: int = 60) -> str:
    return made_up_text(seed, count)


def documents() -> list[OutlinedDocument]:
    return [
        document(
            f"docs/{i}.md",
            f"# Guide of the {name}\n\n{words(10 * i)} [how {name} works](x.md) and [the {name} follower]({i + 1}.md) "
            f"[elsewhere at least](https://a.b)\n\n## Set up {name}\n\n{words(10 * i + 1)}\n\n## See also\n\n"
            f"{words(10 * i + 2)} [common text](0.md) [shared words](1.md)\n\n## Equal heading\n\n"
            f"{words(10 * i + 3)}\n\n## Short {name}\n\nfew words\n\n",
        )
        for i, name in enumerate(["ant", "bee", "cat", "dog", "eel"])
    ]


def of_kind(found: list[RetrievalPairs], kind: str) -> RetrievalPairs:
    (one,) = [pairs for pairs in found if pairs.kind == kind]
    return one


def test_pairs() -> None:
    found = retrieval_pairs.retrieval_pairs(documents())
    assert [pairs.kind for pairs in found] == list(retrieval_pairs.KINDS)
    for pairs in found:
        assert len(pairs.queries) == len(pairs.relevant) == len(set(pairs.queries))
        assert len(pairs.passages) == len(pairs.documents) == len(set(pairs.passages))
        assert all(0 <= i < len(pairs.passages) for indices in pairs.relevant for i in indices)
    titles = of_kind(found, "title")
    assert titles.queries[1] == "Guide of the bee"
    ((index,),) = [titles.relevant[1]]
    assert titles.documents[index] == "docs/1.md" and titles.passages[index].startswith(words(10)[:40])
    assert not any("Guide of the" in passage for passage in titles.passages)
    headings = of_kind(found, "heading")
    assert headings.queries == [f"Set up {name}" for name in ("ant", "bee", "cat", "dog", "eel")]
    assert [headings.passages[i] for (i,) in headings.relevant] == [words(10 * i + 1) for i in range(5)]
    assert headings.dropped == {
        trivial_queries.GENERIC: 5, retrieval_pairs.SEVERAL: 5, retrieval_pairs.SHORT: 5
    }  # fmt: skip
    halves = of_kind(found, "half")
    assert len(halves.queries) == 5
    assert all(passages.num_words(one) <= retrieval_pairs.PASSAGE_WORDS for one in halves.queries + halves.passages)
    links = of_kind(found, "link")
    expected = {f"the {name} follower": (f"docs/{i + 1}.md",) for i, name in enumerate(["ant", "bee", "cat", "dog"])}
    expected |= {"common text": ("docs/0.md",), "shared words": ("docs/1.md",)}
    assert {
        query: tuple(links.documents[i] for i in indices)
        for query, indices in zip(links.queries, links.relevant, strict=True)
    } == expected
    # One document each leads to itself.
    assert links.dropped == {
        link_targets.ELSEWHERE: 5, link_targets.NO_DOCUMENT: 6, link_targets.WITHIN: 2
    }  # fmt: skip


def test_order_of_documents_makes_no_difference() -> None:
    some = documents()
    random.Random(0).shuffle(some)
    assert retrieval_pairs.retrieval_pairs(some) == retrieval_pairs.retrieval_pairs(documents())


def test_text_that_links_to_several_documents() -> None:
    targets = [document(f"{i}.md", f"# Target of {i}\n\n{words(i)}") for i in range(5)]
    pages = [document(f"page{i}.md", f"{words(50 + i)} [two goals]({i % 2}.md) [five goals]({i}.md)") for i in range(5)]
    links = of_kind(retrieval_pairs.retrieval_pairs([*targets, *pages]), "link")
    assert links.queries == ["two goals"]
    assert [links.documents[i] for i in links.relevant[0]] == ["0.md", "1.md"]
    assert links.dropped == {retrieval_pairs.SEVERAL: 5}


def test_passages_have_a_bounded_number_of_words() -> None:
    for pairs in retrieval_pairs.retrieval_pairs(
        [document("a.md", f"# Long one\n\n{words(1, 600)}\n\n{words(2, 600)}")]
    ):
        assert all(passages.num_words(one) == retrieval_pairs.PASSAGE_WORDS for one in pairs.passages)
        assert pairs.kind != "half" or passages.num_words(pairs.queries[0]) == retrieval_pairs.PASSAGE_WORDS


def test_equal_passages_are_one() -> None:
    same = words(3)
    pages = [document(f"{i}.md", f"# Name of {'abc'[i]}\n\n{same}") for i in range(3)]
    titles = of_kind(retrieval_pairs.retrieval_pairs(pages), "title")
    assert (titles.passages, titles.documents, titles.relevant) == ([same], ["0.md"], [(0,), (0,), (0,)])


def test_queries_are_limited_by_a_hash() -> None:
    titles = of_kind(retrieval_pairs.retrieval_pairs(documents()), "title")
    some = titles.limited(2)
    assert len(some.queries) == 2 and set(some.queries) < set(titles.queries)
    assert titles.limited(3).queries != some.queries and set(some.queries) < set(titles.limited(3).queries)
    smallest = sorted(titles.queries, key=lambda query: hashlib.blake2b(query.encode()).digest())[:2]
    assert set(some.queries) == set(smallest) != set(titles.queries[:2])
    assert some.passages == titles.passages
    answers = dict(zip(titles.queries, titles.relevant, strict=True))
    assert [answers[query] for query in some.queries] == some.relevant
    assert titles.limited(100) == titles


def test_without_documents_there_are_no_pairs() -> None:
    assert [pairs.queries for pairs in retrieval_pairs.retrieval_pairs([])] == [[], [], [], []]
