"""Retrieval pairs without labels: queries and the passages that answer them, from the structure of documents.

The four kinds are title → body, heading → section, first half → second half, and text of a link → the document that it
leads to. A passage never holds the title or the heading that is its query.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mlm_dist.corpus import passages, trivial_queries
from mlm_dist.corpus.link_targets import LinkTargets
from mlm_dist.corpus.passages import OutlinedDocument

KINDS = ("title", "heading", "half", "link")
PASSAGE_WORDS, MIN_PASSAGE_WORDS = 256, 20
MAX_TARGETS = 3  # documents that links with one text may lead to
SHORT, SEVERAL = f"passage under {MIN_PASSAGE_WORDS} words", "query of several documents"


@dataclass(frozen=True)
class RetrievalPairs:
    """Queries of one kind, and the passages to find with them.

    Args:
        kind: One of `KINDS`.
        queries: The queries, each different.
        passages: The passages to search, each different, with at most `PASSAGE_WORDS` words.
        documents: Id of the document of each passage, the first one if several documents have it.
        relevant: Of each query, the indices of the passages that answer it, at least one.
        dropped: {why there is no pair: number of titles, headings, halves or links}.
    """

    kind: str
    queries: list[str]
    passages: list[str]
    documents: list[str]
    relevant: list[tuple[int, ...]]
    dropped: dict[str, int]

    def limited(self, max_queries: int) -> RetrievalPairs:
        """At most so many of the queries, those with the smallest hashes, and all passages."""
        kept = sorted(sorted(range(len(self.queries)), key=lambda i: _hash(self.queries[i]))[:max_queries])
        queries, relevant = [self.queries[i] for i in kept], [self.relevant[i] for i in kept]
        return RetrievalPairs(self.kind, queries, self.passages, self.documents, relevant, self.dropped)


def retrieval_pairs(documents: Iterable[OutlinedDocument]) -> list[RetrievalPairs]:
    """The pairs of each kind, in the order of `KINDS`; the same documents in any order give the same pairs.

    Args:
        documents: The documents. Links lead to documents of this set only.
    """
    ordered = sorted(documents, key=lambda document: document.id)
    bodies = {document.id: passages.body(document) for document in ordered}
    return [
        _titles(ordered, bodies),
        _headings(ordered),
        _halves(bodies),
        _links(ordered, bodies),
    ]


class _Pairs:
    """Collects the pairs of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._passages: dict[str, int] = {}  # {passage: its index}
        self._documents: list[str] = []
        self._queries: dict[str, tuple[str, set[int]]] = {}  # {key: the query as it is written first, its passages}
        self._counts: Counter[str] = Counter()  # of keys
        self.dropped: Counter[str] = Counter()

    def passage(self, id_: str, text: str) -> int | None:
        """The index of a passage; None if it is too short."""
        if passages.num_words(text) < MIN_PASSAGE_WORDS:
            return None
        index = self._passages.setdefault(passages.shortened(text, PASSAGE_WORDS), len(self._passages))
        if index == len(self._documents):
            self._documents.append(id_)
        return index

    def add(self, query: str, indices: Iterable[int | None], *, is_text: bool = False) -> None:
        """Add a pair, or count why it is none.

        Args:
            query: The query.
            indices: The passages that answer it; None for one that is too short.
            is_text: Whether the query is itself a passage, which may say anything.
        """
        found = {index for index in indices if index is not None}
        reason = SHORT if not found else None if is_text else trivial_queries.fault(query)
        if reason is not None:
            self.dropped[reason] += 1
            return
        key = trivial_queries.key(query)
        self._counts[key] += 1
        self._queries.setdefault(key, (query, set()))[1].update(found)

    def pairs(self, max_passages: int) -> RetrievalPairs:
        """All pairs, without queries that more passages answer."""
        kept = {key: value for key, value in self._queries.items() if len(value[1]) <= max_passages}
        several = sum(count for key, count in self._counts.items() if key not in kept)
        return RetrievalPairs(
            self._kind,
            [query for query, _ in kept.values()],
            list(self._passages),
            self._documents,
            [tuple(sorted(indices)) for _, indices in kept.values()],
            dict(sorted((self.dropped + Counter({SEVERAL: several})).items())),
        )


def _titles(documents: Sequence[OutlinedDocument], bodies: dict[str, str]) -> RetrievalPairs:
    found = _Pairs("title")
    for document in documents:
        index, title = found.passage(document.id, bodies[document.id]), passages.title(document)
        if title is not None:
            found.add(title, [index])
    return found.pairs(1)


def _headings(documents: Sequence[OutlinedDocument]) -> RetrievalPairs:
    found = _Pairs("heading")
    for document in documents:
        for heading, section in passages.sections(document):
            found.add(heading, [found.passage(document.id, section)])
    return found.pairs(1)


def _halves(bodies: dict[str, str]) -> RetrievalPairs:
    found = _Pairs("half")
    for id_, body in bodies.items():
        first, second = passages.halves(body) or ("", "")
        if passages.num_words(first) < MIN_PASSAGE_WORDS:
            found.dropped[SHORT] += 1
        else:
            found.add(passages.shortened(first, PASSAGE_WORDS), [found.passage(id_, second)], is_text=True)
    return found.pairs(1)


def _links(documents: Sequence[OutlinedDocument], bodies: dict[str, str]) -> RetrievalPairs:
    found = _Pairs("link")
    indices = {id_: found.passage(id_, body) for id_, body in bodies.items()}
    targets = LinkTargets(bodies)
    for document in documents:
        for text, target in _link_texts(document):
            if ids := targets.resolve(document.id, target):
                found.add(text, [indices[id_] for id_ in ids])
    found.dropped += targets.dropped
    return found.pairs(MAX_TARGETS)


def _link_texts(document: OutlinedDocument) -> Iterator[tuple[str, str]]:
    for start, stop, target in document.outline.links:
        yield " ".join(document.text[start:stop].split()), target


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass")).digest()
