"""The passages that a search index holds: windows of the sections of documents, with the headings above them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mlm_dist.corpus import passages
from mlm_dist.corpus.passages import OutlinedDocument
from mlm_dist.corpus.store import PreparedCorpus

MAX_WORDS = 160  # of a passage: with its headings, most have at most 256 tokens
SPLITS = ("train", "validation")


class Passage(NamedTuple):
    """A passage.

    Args:
        document: Id of its document.
        heading: The title and the headings above it, with > between them; empty without any.
        text: Its text.
    """

    document: str
    heading: str
    text: str

    @property
    def content(self) -> str:
        """What is searched: the headings, then the text."""
        return f"{self.heading}\n{self.text}" if self.heading else self.text


def passages_of(document: OutlinedDocument) -> Iterator[Passage]:
    """The passages of a document; none of its text is lost, but for title and headings, which each passage has."""
    text, outline, title = document.text, document.outline, passages.title(document)
    start = 0 if outline.title is None else outline.title.stop
    headings = [heading for heading in outline.headings if heading.start >= start]
    stops = [*(heading.start for heading in headings), len(text)]
    above: list[tuple[int, str]] = []  # (level, heading) of those above the section
    for i, stop in enumerate(stops):
        names = [] if title is None else [title]
        heading = " > ".join(dict.fromkeys([*names, *(name for _, name in above)]))
        for window in windows(text[start:stop], MAX_WORDS):
            yield Passage(document.id, heading, window)
        if i < len(headings):
            level, start = headings[i].level, headings[i].stop
            above = [one for one in above if one[0] < level]
            above.append((level, " ".join(text[stop:start].split())))


def windows(text: str, max_words: int) -> Iterator[str]:
    """A text in parts of at most so many words, as `passages.num_words` counts them, without the spaces between."""
    start, stop, left = 0, 0, max_words
    for first, last in _pieces(text, max_words):
        size = -(-(last - first) // passages.CHARS_PER_WORD)
        if size > left:
            yield text[start:stop]
            start, left = first, max_words
        elif left == max_words:
            start = first
        stop, left = last, left - size
    if left < max_words:
        yield text[start:stop]


def _pieces(text: str, max_words: int) -> Iterator[tuple[int, int]]:
    """Where the runs without spaces are, in pieces of at most so many words."""
    longest = max_words * passages.CHARS_PER_WORD
    for run in passages.RUN.finditer(text):
        for first in range(run.start(), run.end(), longest):
            yield first, min(first + longest, run.end())


def passages_of_corpus(corpus: PreparedCorpus, splits: Iterable[str] = SPLITS) -> Iterator[Passage]:
    """The passages of the kept documents of a corpus, without those that were tokenized already."""
    for split in splits:
        for id_, text, outline in corpus.outlines(split):
            yield from passages_of(OutlinedDocument(id_, text, outline))
