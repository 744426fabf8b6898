"""Which asterisks, underscores and tildes of a paragraph are markup, by the rules of CommonMark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlm_dist.corpus.markdown import scripts


@dataclass(slots=True)
class Run:
    """A run of one of these characters.

    Args:
        index: Where it is among the pieces of the paragraph.
        character: `*`, `_` or `~`.
        length: Its length.
        left: Characters that are not markup so far.
        opens: Whether it may begin emphasis.
        closes: Whether it may end emphasis.
    """

    index: int
    character: str
    length: int
    left: int
    opens: bool
    closes: bool


def run(index: int, text: str, before: str, after: str) -> Run | None:
    """A run between two characters, or None if it is text.

    Han, kana, Hangul and similar letters and their punctuation never prevent emphasis: they have no spaces around them.
    """
    character = text[0]
    if character == "~" and len(text) != 2:
        return None
    left, right = scripts.kind(before), scripts.kind(after)
    opens = right != "space" and (right != "punctuation" or left != "other")
    closes = left != "space" and (left != "punctuation" or right != "other")
    if character == "_" and opens and closes:
        opens = scripts.is_punctuation(before) or (right == "punctuation" and left == "east asian")
        closes = scripts.is_punctuation(after) or (scripts.is_punctuation(before) and right == "east asian")
    return Run(index, character, len(text), len(text), opens, closes) if opens or closes else None


def match(runs: Iterable[Run]) -> None:
    """Decide which characters of these runs are markup; `left` of each is what is not."""
    openers: list[Run] = []
    lowest: dict[tuple[str, bool, int], int] = {}  # no opener below this height for such a closer
    for closer in runs:
        while closer.closes and closer.left:
            key = (closer.character, closer.opens, closer.length % 3)
            low = lowest.get(key, 0)
            height = len(openers)
            while height > low and not _matches(openers[height - 1], closer):
                height -= 1
            if height <= low:
                lowest[key] = len(openers)
                break
            opener = openers[height - 1]
            markers = 2 if opener.left > 1 and closer.left > 1 else 1
            opener.left -= markers
            closer.left -= markers
            del openers[height if opener.left else height - 1 :]
            for other, value in lowest.items():
                if value > len(openers):
                    lowest[other] = len(openers)
        if closer.opens and closer.left:
            openers.append(closer)


def _matches(opener: Run, closer: Run) -> bool:
    if opener.character != closer.character:
        return False
    if not (opener.closes or closer.opens) or opener.character == "~":
        return True
    total = opener.length + closer.length
    return total % 3 != 0 or (opener.length % 3 == 0 and closer.length % 3 == 0)
