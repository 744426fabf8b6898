"""How plausible decoded text is: wrongly decoded letters stand next to letters, digits and cases where none belong."""

# ruff: noqa: RUF001  # letters of many languages look alike

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

# Letters outside ASCII of languages in Latin script, in lower case.
ALPHABETS = {
    "ca": "àçèéíïòóúü",
    "cs": "áčďéěíňóřšťúůýž",
    "cy": "âêîôûŵŷáéïö",
    "da": "æøåéü",
    "de": "äöüß",
    "eo": "ĉĝĥĵŝŭ",
    "es": "áéíñóúü",
    "et": "äöõüšž",
    "eu": "ñç",
    "fi": "äöåšž",
    "fr": "àâçèéêëîïôœùûü",
    "ga": "áéíóú",
    "hr": "čćđšž",
    "hu": "áéíóöőúüű",
    "is": "áðéíóúýþæö",
    "it": "àèéìòù",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "mt": "ċġħż",
    "nl": "áéëïóöü",
    "pl": "ąćęłńóśźż",
    "pt": "áâãàçéêíóôõú",
    "ro": "ăâîşţșț",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "sl": "čšž",
    "sq": "çë",
    "sv": "åäöé",
    "tr": "çğıöşüâî",
    "vi": "àáâãèéêìíòóôõùúýăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ\u0300\u0301\u0303\u0309\u0323",
}
FEW = 2  # letters in a text, from which on its language can be guessed
MANY = 15  # letters in a text, from which on more than a fifth of an alphabet occurs

# Classes of characters: upper case and lower case letters in Latin script, in ASCII (A, e) and outside it (U, l);
# digits (0); white space; other ASCII (.); control characters (x); box drawing (b); other symbols (s); marks (M);
# letters of other scripts.
LATIN = "AeUl"
SCRIPTS = {
    "CYRILLIC": "c",
    "GREEK": "g",
    "HEBREW": "h",
    "ARABIC": "a",
    "THAI": "t",
    **dict.fromkeys(("CJK", "HANGUL", "HIRAGANA", "KATAKANA", "HALFWIDTH", "FULLWIDTH", "IDEOGRAPHIC"), "j"),
}
LETTERS = LATIN + "cghatj"
RARE = frozenset("¤¦¨¸´¯¬¶ˇ˘˙˛˝ˆ˜ƒ‰ŸÐÞþ¢¥‚„‡†‹›")
COMMON = frozenset("’‘“”–—…«»•·¡¿§©®°€£\u00a0\u00ad™±½×²³µ¼¾ªº")
BESIDE = frozenset("µ’‘“”–—…«»‹›‚„•·¡¿§©®™²³¹ªº\u00a0\u00ad\u2010\u2011/")  # symbols directly before or after letters
JOINING = frozenset("’·\u00ad\u2010\u2011—…/")  # symbols that stand between two letters
RUN = re.compile("[Ul]{4,}")


def implausible(text: str, language: str | None) -> float:
    """How many of the characters outside ASCII are implausible where they stand, weighted from 0 to about 1 each.

    Args:
        text: Decoded text.
        language: Its likely language as a code of two letters, if known.
    """
    kinds = "".join(map(_kind, text))
    padded = f" {text} "
    total = sum(
        count * _weight(before, letter, after)
        for (before, letter, after), count in Counter(zip(padded, text, padded[2:], strict=False)).items()
        if not letter.isascii()
    )
    total += sum(0.7 * len(run) for run in RUN.findall(kinds))
    for script in set(SCRIPTS.values()):
        if script in kinds and 2 * script not in kinds:  # never two of its letters in a row
            total += kinds.count(script)
    latin = Counter(letter.lower() for letter in text if not letter.isascii() and _kind(letter) in "Ul")
    known = language if latin.total() >= FEW else None
    return total + 0.25 * _foreign(latin, None) + 0.25 * _foreign(latin, known)


def _foreign(latin: Counter[str], language: str | None) -> float:
    """How many of the letters are not of the language; if it is not known, of the language that has most of them."""
    alphabets = [ALPHABETS[language]] if language in ALPHABETS else list(ALPHABETS.values())
    count = latin.total()
    least = float(count)
    for alphabet in alphabets:
        distinct = sum(letter in latin for letter in alphabet)
        is_hardly_used = count >= MANY and 5 * distinct < len(alphabet)
        foreign = count - sum(latin[letter] for letter in alphabet)
        least = min(least, foreign + 0.5 * count * is_hardly_used)
    return least


def _weight(letter_before: str, letter: str, letter_after: str) -> float:
    """How implausible a character is between two others."""
    before, kind, after = map(_kind, (letter_before, letter, letter_after))
    is_beside_latin = before in LATIN or after in LATIN
    if kind in ("x", "b"):
        in_table = kind == "b" and not is_beside_latin
        weight = (0.1 if "b" in (before, after) else 0.5) if in_table else 1.0
    elif kind in ("U", "l"):
        is_case_odd = before in "el" if kind == "U" else before in "AU" and after in "AU"
        weight = is_case_odd + 0.5 * ("0" in (before, after)) + 0.2 * (letter in RARE)
    elif kind == "j":
        is_narrow = "\uff61" <= letter <= "\uff9f"
        weight = 1.0 if before in LATIN and after in LATIN else 0.3 * is_narrow
    elif kind == "s":
        weight = _symbol_weight(letter, before, after)
    elif kind in ("M", "o"):
        weight = 0.0 if kind == "M" else 0.7
    else:
        is_case_odd = kind in "cg" and before == kind and letter.isupper() and letter_before.islower()
        weight = float(is_beside_latin or is_case_odd)
    return weight


def _symbol_weight(letter: str, before: str, after: str) -> float:
    """How implausible a symbol is between characters of two classes."""
    rare = 0.2 * (letter in RARE) or 0.1 * (letter not in COMMON and letter < "\u2e80")
    is_inside = before in LETTERS and after in LETTERS
    if letter in "¡¿":
        weight = 0.0 if before in " .s" and after in LATIN else 0.7
    elif letter in "‚„•" and before in LETTERS:
        weight = 0.7
    elif letter == "\u00a0":
        weight = 0.5 * (after == " " and before in LETTERS)
    elif letter in "–—" and before in "el" and after in "el":
        weight = 0.3 if letter == "—" else 0.8
    elif is_inside:
        weight = rare + 0.8 * (letter not in JOINING)
    else:
        weight = rare + 0.3 * (letter not in BESIDE and letter < "\u2e80" and (before in LATIN or after in LATIN))
    return weight


@lru_cache(maxsize=1 << 16)
def _kind(letter: str) -> str:
    """The class of a character."""
    if letter.isascii():
        classes = ((letter.isupper(), "A"), (letter.islower(), "e"), (letter.isdigit(), "0"), (letter.isspace(), " "))
        return next((name for holds, name in classes if holds), ".")
    category = unicodedata.category(letter)
    script = re.split("[ -]", unicodedata.name(letter, ""))[0]
    is_letter = category[0] == "L" and script not in ("MICRO", "FEMININE", "MASCULINE", "MODIFIER")
    if category in ("Cc", "Co", "Cn", "Cs") or letter == "\N{REPLACEMENT CHARACTER}":
        kind = "x"
    elif "\u2500" <= letter < "\u2600":
        kind = "b"
    elif is_letter and script == "LATIN":
        kind = "U" if category == "Lu" else "l"
    elif is_letter:
        kind = SCRIPTS.get(script, "o")
    else:
        kind = "M" if category[0] == "M" else "s"
    return kind
