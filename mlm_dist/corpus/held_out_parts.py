"""Held-out parts: the end of a long document is held out instead of whole documents, see `corpus.validation_from`."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus.readers import DocumentReader, reader_of
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.corpus.sources.file import is_text

CHARS_PER_WORD = 16  # of a run without spaces, such as a Chinese sentence, that count as one word
LEAST_ROWS = 4  # a document of fewer rows is not divided
GAP = "gap between the parts of a document"
_WORD = re.compile(r"\S+")
# Where a document may be divided, from the best place to the worst.
_ENDS = (
    re.compile(r"\n[^\S\n]*\n\s*"),
    re.compile(r"\n\s*"),
    re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])\s*"),
    re.compile(r"\s+"),
)


@dataclass(frozen=True)
class PartsSpec:
    """How documents are divided.

    Args:
        fraction: Fraction of a document to hold out.
        row_length: Tokens per row: the least number of words in the gap and in a held-out part.
    """

    fraction: float
    row_length: int


def may_divide(config: CorpusConfig) -> bool:
    """Whether documents of a source may be divided."""
    return config.validation_from != "documents"


def parts_spec(config: CorpusConfig, row_length: int, source: SourceFiles) -> PartsSpec | None:
    """How the documents of a source are divided; None if they are not."""
    fraction = config.validation_fractions()[source.name]
    if fraction in (0, 1) or not may_divide(config):
        return None
    if config.validation_from is None and not _is_one_document(source):
        return None
    return PartsSpec(fraction, row_length)


def dependencies(config: CorpusConfig, row_length: int, source: SourceFiles) -> dict[str, Any]:
    """What the documents of a source depend on because they are divided; nothing if they are not."""
    spec = parts_spec(config, row_length, source)
    return {} if spec is None else {"parts": [spec.fraction, spec.row_length]}


@dataclass(frozen=True)
class Parts:
    """The parts of a document, in order; they are the whole document except for the space between them.

    Args:
        train: The beginning.
        gap: What is dropped, so that no row for training continues in one for validation.
        validation: The end.
    """

    train: str
    gap: str
    validation: str


def divide(text: str, spec: PartsSpec) -> Parts | None:
    """Divide a document at ends of paragraphs, or of lines or sentences where paragraphs are long.

    The last part has the fraction that is held out, and at least one row. The gap has at least as many words as a row
    has tokens; a run without spaces counts one for every 16 characters.

    Returns:
        The parts; None if the document has less than 4 rows of words, or no place to divide it.
    """
    starts = [match.start() for match in _WORD.finditer(text)]
    sizes = [-(-len(match[0]) // CHARS_PER_WORD) for match in _WORD.finditer(text)]
    before = list(accumulate(sizes, initial=0))  # words before each
    total = before[-1]
    held_out = max(int(spec.fraction * total), spec.row_length)
    if total < LEAST_ROWS * spec.row_length or held_out + 3 * spec.row_length > total:
        return None

    def words(at: int) -> int:
        """Words before an offset; a run in which it lies counts in part."""
        i = bisect_left(starts, at)
        inside = 0 if not i else (at - starts[i - 1]) // CHARS_PER_WORD
        return before[i - 1] + min(inside, sizes[i - 1]) if i else 0

    def offset(count: int) -> int:
        """The offset before which there are about that many words."""
        i = max(bisect_left(before, count + 1) - 1, 0)
        return min(starts[i] + (count - before[i]) * CHARS_PER_WORD, len(text)) if i < len(starts) else len(text)

    # Words in which the end of a paragraph is looked for; the first part and a wide gap keep their room.
    window = min(max(spec.row_length, held_out // 4), total - held_out - 3 * spec.row_length)
    second = _end_before(text, offset(total - held_out), offset(max(total - held_out - window, 0)))
    first = _end_before(
        text, offset(words(second) - spec.row_length), offset(max(words(second) - 2 * spec.row_length, 0))
    )
    if not 0 < first < second < len(text):
        return None
    parts = Parts(text[:first].strip(), text[first:second].strip(), text[second:].strip())
    return parts if parts.train and parts.gap and parts.validation else None


def _end_before(text: str, last: int, first: int) -> int:
    """The last place between two offsets where a document is best divided; the last offset if there is none."""
    first = max(first, 0)
    for end in _ENDS:
        places = [match.end() for match in _matches(end, text, first, last)]
        if places:
            return places[-1]
    return last


def _matches(pattern: re.Pattern[str], text: str, first: int, last: int) -> Iterator[re.Match[str]]:
    return (match for match in pattern.finditer(text, first, last) if match.end() < last or match.end() == len(text))


def _is_one_document(source: SourceFiles) -> bool:
    """Whether a source is a single file of one document."""
    if len(source.files) != 1:
        return False
    (name,) = source.files
    if source.records and is_text(name):
        return source.separator is None
    return isinstance(reader_of(name, records=source.records), DocumentReader)
