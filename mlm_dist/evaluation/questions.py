"""Questions that held-out documents answer about themselves: which is the text to a title, which the other half of one.

A prepared corpus keeps texts and no titles, but what cleaning leaves of a document begins with the title of its front
matter or its first heading, a line of its own. Where a document begins so, that line is its title, and what follows
from the first paragraph that is no heading (many repeat the title there) is its body.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

NUM_DOCUMENTS = 500  # asked about at most: those whose names have the smallest hashes
CHARS_READ = 64_000_000  # of held-out documents, from the first on
DOCUMENT_CHARS = 50_000  # of a document, from its beginning
TITLE_CHARS = 150
BODY_CHARS = 200  # a body or a half of one has at least

_BLANK = re.compile(r"\n\s*\n")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}")  # of reStructuredText's headings
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Questions:
    """Texts to look for others with.

    Args:
        name: What is asked.
        queries: Each belongs to the target of the same place, and to no other.
        targets: Among which it is looked for.
    """

    name: str
    queries: list[str]
    targets: list[str]


def ask(documents: Iterable[tuple[str, str]]) -> list[Questions]:
    """Title to body and half to half, as far as two documents or more have them; always the same ones.

    Args:
        documents: (id, text), in any order.
    """
    chosen = heapq.nsmallest(NUM_DOCUMENTS, _some(documents), key=lambda document: _hash(document[0]))
    titled = [found for _, text in chosen if (found := title_and_body(text)) is not None]
    times = Counter(_key(title) for title, _ in titled)
    titled = [(title, body) for title, body in titled if times[_key(title)] == 1]
    halved = [found for _, text in chosen if (found := halves((title_and_body(text) or ("", text))[1])) is not None]
    pairs = {"title_to_body": titled, "half_to_half": halved}
    return [Questions(name, *map(list, zip(*found, strict=True))) for name, found in pairs.items() if len(found) > 1]


def title_and_body(text: str) -> tuple[str, str] | None:
    """A document's title and the rest without further headings before the first paragraph; None where it has none."""
    blocks = _BLANK.split(text.strip())
    titles = [_title(block) for block in blocks]
    if titles[0] is None:
        return None
    first = next((i for i, title in enumerate(titles) if title is None), len(blocks))
    body = "\n\n".join(blocks[first:])
    return (titles[0], body) if len(body) >= BODY_CHARS else None


def halves(body: str) -> tuple[str, str] | None:
    """A text cut between two paragraphs, where the smaller part is largest; None where that is too little text."""
    blocks = _BLANK.split(body.strip())
    cuts = [("\n\n".join(blocks[:i]), "\n\n".join(blocks[i:])) for i in _near_middle(blocks)]
    found = max(cuts, key=lambda parts: min(map(len, parts)), default=("", ""))
    return found if min(map(len, found)) >= BODY_CHARS else None


def _near_middle(blocks: list[str]) -> list[int]:
    """The places between blocks just before and just after the middle of all."""
    length, before = sum(map(len, blocks)), 0
    for i, block in enumerate(blocks):
        before += len(block)
        if 2 * before >= length:
            return [place for place in (i, i + 1) if 0 < place < len(blocks)]
    return []


def _title(block: str) -> str | None:
    """What a block says if it looks like a heading: one line of some words that is no sentence."""
    lines = [line.strip() for line in block.splitlines() if not _UNDERLINE.fullmatch(line.strip())]
    if len(lines) != 1 or len(lines[0]) > TITLE_CHARS or lines[0][-1:] in (".", ",", ";", ":"):
        return None
    return lines[0] if len(_WORDS.findall(lines[0])) > 1 else None


def _some(documents: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    read = 0
    for id_, text in documents:
        yield id_, text[:DOCUMENT_CHARS]
        read += len(text)
        if read > CHARS_READ:
            return


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "backslashreplace")).digest()


def _key(title: str) -> str:
    return " ".join(_WORDS.findall(title.casefold()))
