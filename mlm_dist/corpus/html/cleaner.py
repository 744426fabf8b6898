"""HTML to plain text: tags and what is clearly not the document are removed; text, tables and code are kept."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import ClassVar

from mlm_dist.corpus.cleaners.protocol import Cleaned
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.plain_text import one_line, unmarked, with_title

MAX_DEPTH = 500  # of elements; the time of the parser grows with its square
MAX_OPEN = 8  # elements such as <b> that are open at once; the parser may repeat them in every paragraph
TOO_DEEP = "html nested too deeply, only its tags are removed"

_FORMATS_NAMES = "b big code em font i nobr s small strike strong tt u"
FORMATS = frozenset(_FORMATS_NAMES.split())
_NO_END_NAMES = (
    "area base basefont bgsound body br col colgroup dd dt embed frame head hr html image img input keygen li "
    "link meta p param rb rp rt rtc source tbody td tfoot th thead tr track wbr"
)
_NO_END = frozenset(_NO_END_NAMES.split())
_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)")
_ANY_TAG = re.compile(r"<(?:!--.*?(?:-->|\Z)|[/!?]?[A-Za-z][^<>]*>?)", re.DOTALL)
_FORMAT = re.compile(rf"</?(?:{'|'.join(sorted(FORMATS))})(?=[\s/>])[^<>]*>", re.IGNORECASE)
_HIDDEN = re.compile(r"<(script|style|template)\b|</(script|style|template)\s*>", re.IGNORECASE)

# In XHTML, any element may be empty, and text may be marked as such.
_XHTML = re.compile(r"\s*(?:<\?xml\b|<!DOCTYPE\s+html\s+PUBLIC\s+\"-//W3C//DTD XHTML)", re.IGNORECASE)
_EMPTY = re.compile(r"<(script|style|title|textarea|iframe|noscript|template|xmp|noembed|noframes)(\s[^<>]*)?/>", re.I)


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
    text = unmarked(text)
    if _XHTML.match(text):
        text = _EMPTY.sub(lambda tag: f"<{tag[1]}{tag[2] or ''}></{tag[1]}>", text)
        text = _without_cdata(text)
    depth, formats = _most_open(text)
    if depth > MAX_DEPTH:
        return _stripped(text)
    if formats > MAX_OPEN:
        text = _FORMAT.sub("", text)
    from mlm_dist.corpus.html.writer import TooDeepError, Writer

    try:
        writer = Writer(text)
    except TooDeepError:
        return _stripped(text)
    body = writer.marked()
    cleaned = with_title(writer.title, body.text)
    return Cleaned(cleaned, writer.title, outline=Outline.of(body, cleaned, writer.title))


def _stripped(text: str) -> Cleaned:
    """A document without its tags."""
    text = unescape(_ANY_TAG.sub(" ", _without_scripts(text)))
    lines = map(one_line, text.split("\n"))
    return Cleaned("\n".join(line for line in lines if line), notes=(TOO_DEEP,))


def _without_scripts(text: str) -> str:
    """The text without elements whose content is not shown."""
    parts, at, name = [], 0, ""
    for tag in _HIDDEN.finditer(text):
        if not name and tag[1]:
            parts.append(text[at : tag.start()])
            at, name = tag.start(), tag[1].lower()
        elif name and tag[2] and tag[2].lower() == name:
            at, name = tag.end(), ""
    return " ".join([*parts, text[at:]])


def _without_cdata(text: str) -> str:
    """The text with marked text as ordinary text."""
    first, *others = text.split("<![CDATA[")
    parts = [first]
    for other in others:
        data, end, after = other.partition("]]>")
        parts.append(data.replace("&", "&amp;").replace("<", "&lt;") + after if end else other)
    return "".join(parts)


def _most_open(text: str) -> tuple[int, int]:
    """The largest numbers of elements, and of formats among them, that are open at once."""
    if text.count("<") <= MAX_OPEN:
        return 0, 0
    depth = formats = most = most_formats = 0
    is_open: Counter[str] = Counter()
    for tag in _TAG.finditer(text):
        name = tag[2].lower()
        if name in _NO_END or (tag[1] and not is_open[name]):
            continue
        step = -1 if tag[1] else 1
        is_open[name] += step
        depth += step
        formats += step * (name in FORMATS)
        most, most_formats = max(most, depth), max(most_formats, formats)
    return most, most_formats
