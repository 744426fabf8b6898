"""Passages of a document with an outline: its body, its sections, its halves; and words, by which they are bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from mlm_dist.corpus.outline import Outline

CHARS_PER_WORD = 16  # of a run without spaces, such as a Chinese sentence, that count as one word
RUN = re.compile(r"\S+")
_BLANK_LINES = re.compile(r"\n\s*\n")


class OutlinedDocument(NamedTuple):
    """A document.

    Args:
        id: Its id.
        text: Its text.
        outline: Its outline.
    """

    id: str
    text: str
    outline: Outline


def num_words(text: str) -> int:
    """The number of words; a run without spaces counts one for every 16 characters."""
    return sum(-(-len(run) // CHARS_PER_WORD) for run in text.split())


def shortened(text: str, max_words: int) -> str:
    """The first words of a text, as `num_words` counts them."""
    left = max_words
    for run in RUN.finditer(text):
        size = -(-(run.end() - run.start()) // CHARS_PER_WORD)
        if size >= left:
            return text[: min(run.end(), run.start() + left * CHARS_PER_WORD)]
        left -= size
    return text


def title(document: OutlinedDocument) -> str | None:
    """The title on one line; None without one."""
    span = document.outline.title
    return None if span is None else " ".join(document.text[slice(*span)].split())


def body(document: OutlinedDocument) -> str:
    """The text after the title and after the headings that follow it directly, which often repeat it."""
    return document.text[_body_start(document) :].strip()


def sections(document: OutlinedDocument) -> Iterator[tuple[str, str]]:
    """(heading, text up to the next heading) of the headings in the body.

    A section is not a part of another one, so that each text belongs to one heading.
    """
    text, first = document.text, _body_start(document)
    headings = [heading for heading in document.outline.headings if heading.start >= first]
    ends = [*(heading.start for heading in headings[1:]), len(text)]
    for heading, end in zip(headings, ends, strict=False):
        yield " ".join(text[heading.start : heading.stop].split()), text[heading.stop : end].strip()


def halves(text: str) -> tuple[str, str] | None:
    """A text divided between the two blocks closest to its middle; None if it is one block."""
    cuts = [(found.start(), found.end()) for found in _BLANK_LINES.finditer(text)]
    if not cuts:
        return None
    start, stop = min(cuts, key=lambda cut: abs(cut[0] - len(text) // 2))
    return text[:start], text[stop:]


def _body_start(document: OutlinedDocument) -> int:
    text, outline = document.text, document.outline
    start = 0 if outline.title is None else outline.title.stop
    for heading in outline.headings:
        if heading.start >= start and not text[start : heading.start].strip():
            start = heading.stop
    return start
