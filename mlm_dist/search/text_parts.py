"""Parts of a text of a bounded number of words, which end between blocks or sentences where they can."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlm_dist.corpus.passages import CHARS_PER_WORD, RUN

_SENTENCE_END = re.compile(r"[.!?:;][\"')\]]*$|[\u3002\uff01\uff1f]$")


class _Piece(NamedTuple):
    """A run of characters without spaces, or a part of a very long one.

    Args:
        start: Offset of its first character.
        stop: Offset after its last one.
        size: The words it counts.
        begins_block: Whether a blank line is before it.
        ends_sentence: Whether it ends like a sentence.
    """

    start: int
    stop: int
    size: int
    begins_block: bool
    ends_sentence: bool


def text_parts(text: str, max_words: int) -> Iterator[str]:
    """Consecutive parts of a text of at most `max_words` words, as `passages.num_words` counts them; no word is lost.

    A part ends between two blocks if there is such a place in its second half, else after a sentence, else anywhere
    between two words.
    """
    held: list[_Piece] = []
    size = 0
    for piece in _pieces(text, max_words):
        while held and size + piece.size > max_words:
            cut = _best_cut([*held, piece])
            yield text[held[0].start : held[cut - 1].stop]
            held = held[cut:]
            size = sum(one.size for one in held)
        held.append(piece)
        size += piece.size
    if held:
        yield text[held[0].start : held[-1].stop]


def _pieces(text: str, max_words: int) -> Iterator[_Piece]:
    before, longest = 0, max_words * CHARS_PER_WORD
    for run in RUN.finditer(text):
        begins_block = text.count("\n", before, run.start()) > 1
        before = run.end()
        for start in range(run.start(), run.end(), longest):
            stop = min(run.end(), start + longest)
            ends = _SENTENCE_END.search(text, max(start, stop - 4), stop) is not None
            yield _Piece(start, stop, -(-(stop - start) // CHARS_PER_WORD), begins_block and start == run.start(), ends)


def _best_cut(pieces: Sequence[_Piece]) -> int:
    """Before which piece of the second half, the last one included, a part ends best; the latest of the best."""

    def rank(cut: int) -> int:
        return 2 if pieces[cut].begins_block else int(pieces[cut - 1].ends_sentence)

    last = len(pieces) - 1
    return max(range(last, last // 2, -1), key=rank)
