"""Retrieval tasks from documents without labels: find a text by its title, and one half of a text by the other.

A prepared corpus keeps texts without titles. After cleaning, a document begins with the title of its front matter or
with its first heading, on a line of its own. That line is the title. The body begins at the first paragraph that is no
heading, because many documents repeat the title before it.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

MAX_DOCUMENTS = 500  # the documents whose ids have the smallest hashes
CHARS_READ = 64_000_000  # of all documents, from the first on
DOCUMENT_CHARS = 50_000  # of one document, from its beginning
MAX_TITLE_CHARS = 150
MIN_BODY_CHARS = 200  # of a body, or of each half of one

_BLANK_LINE = re.compile(r"\n\s*\n")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}")  # below a heading in reStructuredText
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, and the targets to find with them.

    Args:
        name: title_to_body or half_to_half.
        queries: Query i belongs to target i and to no other.
        targets: The texts to search.
    """

    name: str
    queries: list[str]
    targets: list[str]


def retrieval_tasks(documents: Iterable[tuple[str, str]]) -> list[RetrievalTask]:
    """The tasks for which at least two documents have a query and a target.

    Args:
        documents: (id, text), in any order; the same documents give the same tasks.
    """
    chosen = heapq.nsmallest(MAX_DOCUMENTS, _shortened(documents), key=lambda document: _hash(document[0]))
    titled = [pair for _, text in chosen if (pair := title_and_body(text)) is not None]
    occurrences = Counter(_key(title) for title, _ in titled)
    titled = [(title, body) for title, body in titled if occurrences[_key(title)] == 1]
    halved = [pair for _, text in chosen if (pair := halves((title_and_body(text) or ("", text))[1])) is not None]
    tasks = {"title_to_body": titled, "half_to_half": halved}
    return [
        RetrievalTask(name, *map(list, zip(*pairs, strict=True))) for name, pairs in tasks.items() if len(pairs) > 1
    ]


def title_and_body(text: str) -> tuple[str, str] | None:
    """The title and the body of a document; None if it has no title, or too short a body."""
    blocks = _BLANK_LINE.split(text.strip())
    titles = [_title(block) for block in blocks]
    if titles[0] is None:
        return None
    first = next((i for i, title in enumerate(titles) if title is None), len(blocks))
    body = "\n\n".join(blocks[first:])
    return (titles[0], body) if len(body) >= MIN_BODY_CHARS else None


def halves(body: str) -> tuple[str, str] | None:
    """A text cut between two paragraphs, close to its middle; None if one half is too short."""
    blocks = _BLANK_LINE.split(body.strip())
    cuts = [("\n\n".join(blocks[:i]), "\n\n".join(blocks[i:])) for i in _middle(blocks)]
    best = max(cuts, key=lambda parts: min(map(len, parts)), default=("", ""))
    return best if min(map(len, best)) >= MIN_BODY_CHARS else None


def _middle(blocks: list[str]) -> list[int]:
    """Indices of the blocks just before and just after the middle of the text, without the first block."""
    length, before = sum(map(len, blocks)), 0
    for i, block in enumerate(blocks):
        before += len(block)
        if 2 * before >= length:
            return [index for index in (i, i + 1) if 0 < index < len(blocks)]
    return []


def _title(block: str) -> str | None:
    """The text of a block that looks like a heading: one line of at least two words that is no sentence."""
    lines = [line.strip() for line in block.splitlines() if not _UNDERLINE.fullmatch(line.strip())]
    if len(lines) != 1 or len(lines[0]) > MAX_TITLE_CHARS or lines[0][-1:] in (".", ",", ";", ":"):
        return None
    return lines[0] if len(_WORD.findall(lines[0])) > 1 else None


def _shortened(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    read = 0
    for id_, text in documents:
        yield id_, text[:DOCUMENT_CHARS]
        read += len(text)
        if read > CHARS_READ:
            return


def _hash(id_: str) -> bytes:
    return hashlib.blake2b(id_.encode("utf-8", "backslashreplace")).digest()


def _key(title: str) -> str:
    return " ".join(_WORD.findall(title.casefold()))
