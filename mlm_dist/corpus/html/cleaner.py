"""HTML to plain text: tags and what is clearly not the document are removed; text, tables and code are kept."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.plain_text import one_line, with_title

MAX_DEPTH = 500  # of elements; the time of the parser grows with its square
MAX_OPEN = 50  # elements such as <b> that are open at once; the parser may repeat them in every paragraph
MAX_ATTRIBUTES = 1_000_000  # characters of a tag
TOO_DEEP = "html nested too deeply, only its tags are removed"

FORMATS = frozenset("a b big code em font i nobr s small strike strong tt u".split())
_NO_END = frozenset(
    """
    area base basefont bgsound body br col colgroup dd dt embed frame head hr html image img input keygen li link meta
    optgroup option p param rb rp rt rtc source tbody td tfoot th thead tr track wbr
    """.split()
)
_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)")
_ANY_TAG = re.compile(r"<(?:!--.*?(?:-->|\Z)|[/!?]?[A-Za-z][^<>]*>?)", re.DOTALL)
_HIDDEN = re.compile(r"<(script|style|template)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)

# In XHTML, any element may be empty, and text may be marked as such.
_XHTML = re.compile(r"\s*(?:<\?xml\b|<!DOCTYPE\s+html\s+PUBLIC\s+\"-//W3C//DTD XHTML)", re.IGNORECASE)
_EMPTY = re.compile(r"<(script|style|title|textarea|iframe|noscript|template|xmp|noembed|noframes)(\s[^<>]*)?/>", re.I)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)


class HtmlCleaner:
    """HTML and XHTML as browsers read it."""

    suffixes: ClassVar[tuple[str, ...]] = (".html", ".htm", ".xhtml")
    requires: ClassVar[tuple[str, ...]] = ("selectolax",)

    def clean(self, text: str) -> Cleaned:
        """See `Cleaner`."""
        return clean(text)


def clean(text: str) -> Cleaned:
    """Convert an HTML document, or a part of one, to plain text.

    A document that would take the parser too long loses its tags only, which is noted.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
    if _XHTML.match(text):
        text = _EMPTY.sub(lambda tag: f"<{tag[1]}{tag[2] or ''}></{tag[1]}>", text)
        text = _CDATA.sub(lambda data: data[1].replace("&", "&amp;").replace("<", "&lt;"), text)
    if _takes_long(text):
        stripped = unescape(_ANY_TAG.sub(" ", _HIDDEN.sub(" ", text)))
        lines = [one_line(line) for line in stripped.split("\n")]
        return Cleaned("\n".join(line for line in lines if line), notes=(TOO_DEEP,))
    from mlm_dist.corpus.html.writer import Writer

    writer = Writer(text)
    body = writer.text()
    return Cleaned(with_title(writer.title, body), writer.title)


def _takes_long(text: str) -> bool:
    """Whether the elements are nested far deeper than people write, or far more formats are open at once."""
    if text.count("<") <= MAX_OPEN:
        return False
    depth = formats = 0
    is_open: Counter[str] = Counter()
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if name in _NO_END:
            continue
        if not tag[1]:
            is_open[name] += 1
        elif is_open[name]:
            is_open[name] -= 1
        else:
            continue
        step = -1 if tag[1] else 1
        depth += step
        formats += step * (name in FORMATS)
        if depth > MAX_DEPTH or formats > MAX_OPEN:
            return True
    return False
