"""The documents that retrieval tasks search: held-out ones, and those that queries name."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Collection, Iterable

from mlm_dist.corpus.passages import OutlinedDocument
from mlm_dist.corpus.store import PreparedCorpus

MAX_DOCUMENTS = 500  # held-out documents: those whose ids have the smallest hashes
DOCUMENT_CHARS = 50_000  # of one document, from its beginning


def held_out(corpus: PreparedCorpus, named: Collection[str] = ()) -> list[OutlinedDocument]:
    """At most `MAX_DOCUMENTS` held-out documents, always the same ones, and the held-out documents that are named."""
    chosen: list[tuple[int, int, OutlinedDocument]] = []
    kept: dict[str, OutlinedDocument] = {}
    for i, document in enumerate(_read(corpus, "validation")):
        if document.id in named:
            kept[document.id] = document
        item = (-_hash(document.id), i, document)  # the largest hash is the first to go
        if len(chosen) < MAX_DOCUMENTS:
            heapq.heappush(chosen, item)
        elif item > chosen[0]:
            heapq.heapreplace(chosen, item)
    kept |= {document.id: document for _, _, document in chosen}
    return [kept[id_] for id_ in sorted(kept)]


def trained_on(corpus: PreparedCorpus, named: Collection[str]) -> list[OutlinedDocument]:
    """The documents among the named ones that the corpus trains on; without names, none is read."""
    return [one for one in _read(corpus, "train") if one.id in named] if named else []


def _read(corpus: PreparedCorpus, split: str) -> Iterable[OutlinedDocument]:
    for id_, text, outline in corpus.outlines(split):
        stop = min(len(text), DOCUMENT_CHARS)
        yield OutlinedDocument(id_, text[:stop], outline.part(0, stop) if stop < len(text) else outline)


def _hash(id_: str) -> int:
    return int.from_bytes(hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
