"""The passages that a search finds: parts of the sections of documents, with the headings above them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mlm_dist.corpus import passages
from mlm_dist.corpus.passages import OutlinedDocument
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import CorpusError, reason
from mlm_dist.search.text_parts import text_parts

BETWEEN_HEADINGS = " \u203a "


class Passage(NamedTuple):
    """A passage.

    Args:
        document: Id of its document.
        heading: The title and the headings above it; empty without any.
        text: Its text.
    """

    document: str
    heading: str
    text: str

    @property
    def content(self) -> str:
        """What is searched: a line for each heading, then the text."""
        return "\n".join(filter(None, (*self.heading.split(BETWEEN_HEADINGS), self.text)))


def passages_of(document: OutlinedDocument, max_words: int) -> Iterator[Passage]:
    """The passages of a document; none of its text is lost but title and headings, which are above passages.

    Args:
        document: The document.
        max_words: The most words of a text, see `text_parts`.
    """
    text, outline, title = document.text, document.outline, passages.title(document)
    before, start = (0, 0) if outline.title is None else outline.title
    names = [] if title is None else [title]
    headings = [heading for heading in outline.headings if heading.start >= start]
    above: list[tuple[int, str]] = []  # (level, heading) of those above the section
    sections = [text[:before]]
    for i, stop in enumerate([*(heading.start for heading in headings), len(text)]):
        path = BETWEEN_HEADINGS.join(dict.fromkeys(filter(None, [*names, *(name for _, name in above)])))
        for section in [*sections, text[start:stop]]:
            for part in text_parts(section, max_words):
                yield Passage(document.id, path, part)
        sections = []
        if i < len(headings):
            level, start = headings[i].level, headings[i].stop
            above = [one for one in above if one[0] < level]
            above.append((level, " ".join(text[stop:start].split())))


def passages_of_corpus(corpus: PreparedCorpus, splits: Iterable[str], max_words: int) -> Iterator[Passage]:
    """The passages of the kept documents of some splits of a corpus, document by document; see `passages_of`.

    Raises:
        CorpusError: A file of the corpus is damaged.
    """
    try:
        for split in splits:
            for document in corpus.outlines(split, decoded=True):
                yield from passages_of(OutlinedDocument(*document), max_words)
    except (ValueError, LookupError, TypeError) as error:
        raise CorpusError(
            f"corpus.cache_dir: {corpus.folder} is damaged ({reason(error)}); delete that folder, and prepare it again"
        ) from None
