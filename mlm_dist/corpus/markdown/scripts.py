"""Scripts that are written without spaces, and characters that surround emphasis."""

from __future__ import annotations

import functools
import re
import unicodedata

# Han, kana, bopomofo, their punctuation and fullwidth forms; Thai, Lao, Burmese and Khmer. Korean has spaces.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\ufe10-\ufe1f\ufe30-\ufe6f"
    "\uff01-\uff9f\uffe0-\uffe6\U0001b000-\U0001b2ff\U0001f200-\U0001f2ff\U00020000-\U0003ffff"
)
_HANGUL = "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"
_SHARED = "\u2018\u2019\u201c\u201d\u2026\u2025\u2014\xb7"  # punctuation that Chinese and Latin text have in common
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_IS_EITHER = re.compile(f"[{_UNSPACED}{_SHARED}]")
_IS_EAST_ASIAN = re.compile(f"[{_UNSPACED}{_HANGUL}]")


def joins(before: str, after: str) -> bool:
    """Whether a line break between two characters is not a space."""
    return (
        before >= "\xb7"
        and after >= "\xb7"
        and bool(_IS_EITHER.match(before) and _IS_EITHER.match(after))
        and bool(_IS_UNSPACED.match(before) or _IS_UNSPACED.match(after))
    )


@functools.lru_cache(maxsize=4096)
def kind(character: str) -> str:
    """What a character is beside emphasis: space, punctuation, east asian or other."""
    if character.isspace():
        return "space"
    if _IS_EAST_ASIAN.match(character):
        return "east asian"
    return "punctuation" if unicodedata.category(character)[0] in "PS" else "other"


def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation or a symbol of any script."""
    return unicodedata.category(character)[0] in "PS"
