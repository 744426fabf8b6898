"""The form of a text in which duplicates are looked for: what a reader cannot see does not count."""

from __future__ import annotations

import re
import unicodedata

# Code points that are not displayed, such as soft hyphens, zero-width spaces and joiners, variation selectors, marks of
# direction and fillers: the property Default_Ignorable_Code_Point of the Unicode standard (DerivedCoreProperties.txt).
IGNORABLE = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0xFFF0, 0xFFF8),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
_IGNORABLE = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in IGNORABLE) + "]+")

# Punctuation, symbols and width forms, most of which NFKC changes. One such character would make it slow for the whole
# text; so they are changed on their own first.
_FORMS = re.compile("[\u00a0-\u00be\u2000-\u2bff\u3000\u3200-\u33ff\uff00-\uffef]+")


def normal_text(text: str) -> str:
    """The text without invisible characters, in compatibility composition (NFKC), in lower case (case folding).

    So composed and decomposed letters, full-width and half-width forms, ligatures, and capital and small letters are
    equal. It is the mapping toNFKC_Casefold of the Unicode standard; applied twice, it changes nothing more.
    """
    if text.isascii():
        return text.lower()
    visible = _FORMS.sub(_composed, _IGNORABLE.sub("", text))
    folded = unicodedata.normalize("NFKC", visible).casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFKC", folded)


def _composed(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match[0])
