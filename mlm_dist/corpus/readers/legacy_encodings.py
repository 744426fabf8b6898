"""The encoding of text that is not Unicode: by what the text declares, else by its letters.

chardet compares the bytes with the letter pairs of many languages. Text with few letters outside ASCII fits several
encodings alike; then plausible letters (`letters.implausible`) and common encodings are preferred, Windows-1252 above
all.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable

from mlm_dist.config.value_types import is_text_encoding
from mlm_dist.corpus.readers import letters

SAMPLE = 100_000  # bytes of the lines with letters outside ASCII
JUDGED = 20_000  # characters of them whose plausibility is judged
HEAD = 4096  # bytes in which an encoding is declared
FLOOR = 0.02  # similarity at which languages are alike
FEW = 5  # letters in a text, up to which what it declares needs no other evidence
MANY, NONSENSE = 20, 0.35  # from so many letters on, text of which such a fraction is implausible is not text
CLOSE = 0.5  # a ranked encoding must have a score this near to the best to take its place if that one does not decode

MULTIBYTE = ("cp932", "euc_jis_2004", "cp949", "euc_kr", "gb18030", "big5hkscs")
# Each encoding, and how much less common than Windows-1252 it is: a penalty in nats, for a text with one letter.
RARITY = {
    "cp1252": 0.0,
    "iso8859-1": 0.2,
    "iso8859-15": 0.5,
    **dict.fromkeys(("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp874"), 1.0),
    **dict.fromkeys(MULTIBYTE, 1.0),
    **dict.fromkeys(("iso8859-2", "iso8859-7", "iso8859-8", "iso8859-9", "koi8-r", "tis-620"), 1.2),
    **dict.fromkeys(("mac-roman",), 1.2),
    **dict.fromkeys(("cp850",), 1.4),
    **dict.fromkeys(("iso8859-5", "iso8859-6", "iso8859-13", "koi8-u", "cp866", "cp1258", "cp1257"), 1.5),
    **dict.fromkeys(("cp437",), 1.6),
    **dict.fromkeys(("cp852",), 1.8),
    **dict.fromkeys(("iso8859-4",), 2.0),
    **dict.fromkeys(("mac-cyrillic", "mac-latin2", "cp737"), 2.5),
}
# Larger encodings that agree with a smaller one wherever both have a letter; browsers read the smaller one so, too.
LARGER = {
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "euc_kr": "cp949",
    "ascii": "cp1252",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
}

_SAYS = re.compile(rb"charset|coding", re.IGNORECASE)
_ASCII = bytes(range(0x80))
_PIECE = re.compile(rb"[^\n]{1,400}[^\x00-\x2f]*")  # no encoding has bytes up to 0x2F inside a character
_DECLARED = (
    re.compile(rb"\A\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([\w.:-]{2,40})"),
    re.compile(rb"<meta\b[^>]{0,200}?\bcharset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE),
    re.compile(rb"\A(?:[^\n]*\n)?[^\n]{0,200}?\bcoding[:=][ \t]*([\w.-]{2,40})"),  # PEP 263 and Emacs
    re.compile(rb"\bContent-Type:[^\n]{0,80}?\bcharset=([\w.-]{2,40})", re.IGNORECASE),
    re.compile(rb"\A@charset \"([\w.:-]{2,40})\""),
)


def pieces(blocks: Iterable[bytes]) -> bytes:
    """The lines, or parts of long lines, with bytes above 0x7F, up to `SAMPLE` bytes of them.

    Args:
        blocks: The text, in blocks that end at the end of a line where they can.
    """
    found: list[bytes] = []
    size = 0
    for block in blocks:
        if block.isascii():
            continue
        for match in _PIECE.finditer(block):
            piece = match[0]
            if not piece.isascii():
                found.append(piece[:SAMPLE])
                size += len(found[-1])
                if size >= SAMPLE:
                    return b"\n".join(found)
    return b"\n".join(found)


def declared(head: bytes, sample: bytes) -> str | None:
    """The encoding that a text declares in its first `HEAD` bytes, as HTML, XML, Python and Emacs do, if it holds.

    Args:
        head: The beginning of the text.
        sample: What `pieces` returned.
    """
    for pattern in _DECLARED:
        match = pattern.search(head[:HEAD])
        if match is None:
            continue
        name = re.sub(r"-(unix|dos|mac)$", "", match[1].decode("ascii").lower())  # Emacs names the ends of lines, too
        if is_text_encoding(name) and b"<?xml".decode(name, "replace") == "<?xml":
            found = codecs.lookup(name).name
            found = LARGER.get(found, found)
            text = _decoded(sample, found)
            if text is None or "\N{REPLACEMENT CHARACTER}" in text:
                continue
            if _num_not_ascii(text) < FEW or 2 * letters.implausible(text, None) < _num_not_ascii(text):
                return found
    return None


def ranked(sample: bytes) -> list[str]:
    """The encodings that may be meant, the likeliest first; none if the bytes are not text in any of them.

    Args:
        sample: What `pieces` returned.
    """
    from chardet import detect_all

    found = detect_all(
        _SAYS.sub(b"", sample),  # otherwise chardet uses what the text declares
        ignore_threshold=True,
        compat_names=False,
        include_encodings=list(RARITY),
        max_bytes=len(sample),
    )
    similar = {one["encoding"]: (one["confidence"], one["language"]) for one in found if one["encoding"] in RARITY}
    for name in ("cp1252", "cp850", "mac-roman", "cp932"):
        similar.setdefault(name, (0.0, None))
    num_high = max(len(sample.translate(None, _ASCII)), 1)
    candidates = sorted(
        (-math.log(similarity + FLOOR) + 0.4 * RARITY[name] / num_high, name, language)
        for name, (similarity, language) in similar.items()
    )
    scores: list[tuple[float, str]] = []
    damaged: set[str] = set()
    for penalty, name, language in candidates:
        if scores and penalty > min(scores)[0] + CLOSE:
            break
        text = _decoded(sample, name)
        if text is None:
            continue
        num_letters = max(_num_not_ascii(text), 1)
        implausible = letters.implausible(text, language)
        if num_letters < MANY or implausible < NONSENSE * num_letters:
            damaged.update([name] if "\N{REPLACEMENT CHARACTER}" in text else [])
            scores.append((penalty + 3 * implausible / num_letters**0.8, name))
    names = [name for score, name in sorted(scores) if score <= min(scores)[0] + CLOSE]
    if names and names[0] in damaged:
        return names[:1]
    return list(dict.fromkeys(one for name in names for one in (LARGER.get(name, name), name)))


def _decoded(sample: bytes, name: str) -> str | None:
    """The first `JUDGED` characters of a sample, which may end inside a character; None if it is in another encoding.

    A byte to which an encoding of single bytes gives no character is replaced: a few of them may be damage.
    """
    if name not in MULTIBYTE:
        return sample.decode(name, errors="replace")[:JUDGED]
    try:
        return sample.decode(name)[:JUDGED]
    except UnicodeDecodeError as error:
        is_cut = len(sample) >= SAMPLE and error.start >= len(sample) - 4
        return sample[: error.start].decode(name)[:JUDGED] if is_cut else None


def _num_not_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))
