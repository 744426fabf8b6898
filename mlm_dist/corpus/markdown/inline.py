"""The inside of a Markdown paragraph, heading or cell as plain text, and the HTML in it."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from html import unescape
from itertools import islice
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.html_blocks import block_names
from markdown_it.token import Token

from mlm_dist.corpus.markdown import inline_rules

# Names that have no meaning in the body of a document are excluded: `<title>` is a placeholder there.
_NO_TAGS = {"address", "base", "basefont", "dir", "head", "link", "option", "param", "search", "title", "track"}
_WITHIN_LINES = (
    "a abbr acronym audio b bdi bdo big br button cite code del dfn em embed font i img input ins kbd mark nobr object "
    "picture q s samp script small source span strike strong style sub sup svg tt u var video wbr pre textarea"
)
_TAGS = frozenset(block_names).difference(_NO_TAGS).union(_WITHIN_LINES.split())
_NEW_LINE = frozenset(block_names).difference({"td", "th"}).union(("br", "pre"))
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)(?:\s[^<>]*)?/?>")
_ALT = re.compile(r"""\salt\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)

_SPECIAL = re.compile(r"[*_`\[<&\\~{]|:::|  \n")
_WRAP = re.compile(r"[ \t]*\n[ \t]*")
_APART = "\0"  # around text that its markup separated from its neighbors; a cleaned text has no such character
_GLUED = re.compile(rf"(?<=\w){_APART}+(?=\w)")
_NEW_LINES = re.compile(r"[ \t]*\n\s*")


@functools.cache
def _parser() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"maxNesting": 20}).enable("strikethrough").disable("fragments_join")
    inline_rules.use(md)
    # Link targets are removed, so they need not be checked or encoded.
    md.validateLink = lambda url: True  # type: ignore[method-assign]
    md.normalizeLink = lambda url: url  # type: ignore[method-assign]
    md.normalizeLinkText = lambda link: link  # type: ignore[method-assign]
    return md


def is_dense(source: str, limit: int) -> bool:
    """Whether more than `limit` characters may be markup."""
    return len(source) > limit and next(islice(_SPECIAL.finditer(source), limit, None), None) is not None


def plain(source: str, references: dict[str, Any]) -> str:
    """The text of a paragraph: on one line except for hard breaks and HTML that begins a line.

    Args:
        source: Markdown without the markers of its block.
        references: The document's link reference definitions, as parsed.
    """
    if not _SPECIAL.search(source):
        return _WRAP.sub(" ", source).strip()
    md = _parser()
    text = _text(md.inline.parse(source, md, {"references": references}, []))
    return (_NEW_LINES.sub("\n", text) if "\n" in text else text).strip()


def preformatted(html: str) -> str:
    """The text of `<pre>` and similar tags."""
    return unescape(_TAG.sub(lambda tag: "" if tag[2].lower() in _TAGS else tag[0], html))


def _text(tokens: Sequence[Token]) -> str:
    parts: list[str] = []
    html = _Html(tokens)
    for token in tokens:
        kind = token.type
        if kind == "html_inline":
            parts.append(html.text(token.content, parts[-1][-1:] if parts else ""))
        elif html.hides:
            pass
        elif kind in ("text", "code_inline"):
            parts.append(token.content)
        elif kind == "text_special":  # an entity or an escaped character
            parts.append(" " if token.content == "\xa0" else token.content)
        elif kind == "softbreak":
            parts.append(" ")
        elif kind == "hardbreak":
            parts.append("\n")
        elif kind == "image":
            parts += _APART, _text(token.children or ()), _APART
    return _GLUED.sub(" ", "".join(parts)).replace(_APART, "") if _APART in parts else "".join(parts)


class _Html:
    """Converts the HTML tags within a paragraph to text."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.hides = ""  # the name of the open tag whose content is not text
        self._ends = Counter(token.content[2:-1].strip().lower() for token in tokens if token.content.startswith("</"))
        self._in_row = False

    def text(self, html: str, before: str) -> str:
        tag = _TAG.match(html)
        name = tag[2].lower() if tag else ""
        opens = tag is not None and not tag[1]
        if name in ("script", "style"):
            self._hide(name, opens)
        elif self.hides or html.startswith("<!--"):
            pass
        elif name not in _TAGS:
            return html  # a placeholder such as `<name>`
        elif name in _NEW_LINE:
            self._in_row = False
            return "\n- " if name == "li" and opens else "\n"
        elif name in ("td", "th") and opens:
            separator = " | " if self._in_row else " "
            self._in_row = True
            return separator
        elif name == "sup" and opens and before.isalnum():
            return "^"  # 2<sup>31</sup> is not 231
        elif name == "img" and (alt := _ALT.search(html)):
            return unescape(alt[1] or alt[2] or "")
        return ""

    def _hide(self, name: str, opens: bool) -> None:
        """Hide the content of a tag, unless it is never closed."""
        if not opens:
            self._ends[name] -= 1
            self.hides = "" if self.hides == name else self.hides
        elif not self.hides and self._ends[name] > 0:
            self.hides = name
