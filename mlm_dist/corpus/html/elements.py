"""Elements of HTML: which are blocks, and which are not a part of the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HANDLED_NAMES = "a br dd dir img li listing math menu ol pre q script sup table td textarea th tr ul xmp"
HANDLED = frozenset(_HANDLED_NAMES.split())
"""Those that the writer has a method for."""

_BLOCKS_NAMES = (
    "address article aside blockquote body caption center details dialog div dl dt fieldset figcaption figure "
    "footer form frameset h1 h2 h3 h4 h5 h6 header hgroup hr legend main noframes noscript optgroup p search "
    "section summary tbody tfoot thead"
)
BLOCKS = frozenset(_BLOCKS_NAMES.split())

_INLINE_NAMES = (
    "a abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd mark nobr rb rp rt rtc ruby s samp "
    "small span strike strong sub time tt u var wbr"
)
INLINE = frozenset(_INLINE_NAMES.split())
"""Those whose text is joined to its neighbors; the text of all others is apart."""

_HIDDEN_NAMES = (
    "audio canvas datalist desc embed head iframe metadata nav noembed param script style symbol template title video"
)
HIDDEN = frozenset(_HIDDEN_NAMES.split())
LEVELS = {f"h{level}": level for level in range(1, 7)}
"""{heading: its level}."""
NOT_IN_ROW = "table, pre, h1, h2, h3, h4, h5, h6"
"""What makes a row of a table more than one line."""

_ROLES = frozenset(("banner", "contentinfo", "navigation", "search"))
_CLASSES = frozenset(("katex-html", "linenodiv", "lineno", "linenos", "line-numbers-rows", "MathJax_Preview"))
_PERMALINKS = frozenset(
    ("anchor", "anchorjs-link", "anchor-link", "hash-link", "header-anchor", "headeranchor-link", "headerlink")
)
_MARKS = frozenset(("\N{PILCROW SIGN}", "#", "\N{SECTION SIGN}", "\N{LINK SYMBOL}", "\u200b", "\uf0c1", ""))
_PARTS = frozenset(("article", "aside", "main", "nav", "section"))


def is_hidden(attributes: Mapping[str, str | None]) -> bool:
    """Whether an element is not shown, or is for moving around in the site."""
    if not attributes:
        return False
    if "hidden" in attributes and attributes["hidden"] != "until-found":
        return True
    if attributes.get("role") in _ROLES:
        return True
    classes = attributes.get("class") or ""
    return not _CLASSES.isdisjoint(classes.split())


def is_permalink(node: Any) -> bool:
    """Whether a link is the mark beside a heading that leads to it."""
    attributes = node.attributes
    is_marked = not _PERMALINKS.isdisjoint((attributes.get("class") or "").split())
    if is_marked or (attributes.get("href") or "").startswith("#"):
        text = node.text().strip().strip("\ufe0e\ufe0f")
        return text in _MARKS and node.css_first("img") is None
    return False


def is_of_page(node: Any) -> bool:
    """Whether a header or footer belongs to the page rather than to an article or a section."""
    parent = node.parent
    while parent is not None:
        if parent.tag in _PARTS or (parent.attributes or {}).get("role") == "main":
            return False
        parent = parent.parent
    return node.css_first("main, article, [role=main]") is None


def integer(text: str | None, default: int) -> int:
    """The number of an attribute."""
    try:
        return int(text) if text and len(text) < 10 else default
    except ValueError:
        return default
