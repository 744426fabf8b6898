"""Attributes of tags, directives and blocks, of which a reader sees a few: titles, captions, labels, names of tabs."""

from __future__ import annotations

import re
from itertools import zip_longest

MAX_CHARS = 20_000  # of a tag

_SEEN_NAMES = (
    "alt alt-text caption content cap description fig-alt fig-cap fig.alt fig.cap header heading label loc-text "
    "lst-cap message subtitle summary tab tab-title tbl-cap text title tooltip"
)
_SEEN = frozenset(_SEEN_NAMES.split())
_NAME = re.compile(r"(?:^|(?<=[\s,{(]))([A-Za-z][\w.-]*)[ \t]*=[ \t]*(?:\{[ \t]*)?(?=[\"'`])")
_BARE = re.compile(r"(?<=\s)([A-Za-z][\w.-]*)=([^\s\"'`{}<>]+)")
_IN_OBJECT = re.compile(
    r"\b(?:label|title|text|explain|content|description|question|answer|caption)[ \t]*:[ \t]*"
    r"(?:\"((?:[^\"\\\n]|\\.)*)\"|'((?:[^'\\\n]|\\.)*)'|`([^`$\\]*)`)"
)
_ITEMS = re.compile(r"(?:^|(?<=\s))(?:items|names|labels)[ \t]*=[ \t]*(?:\"([^\"\n]*)\"|\{[ \t]*\[([^\[\]{}]*)\])")
_ESCAPED = re.compile(r"\\([\"'`])")
_POSITIONAL = re.compile(r"(?:^|(?<=[\s,]))(?:\"((?:[^\"\\]|\\.)*)\"|`([^`]*)`)")
_TITLED = re.compile(
    r"accordion|admonition|alert|button|callout|card|collapse|danger|detail|dropdown|expand|hint|important|info|note|"
    r"notice|panel|section|spoiler|step|summary|tab|tip|tooltip|warn",
    re.IGNORECASE,
)
_TAB = re.compile(r"tabs?|tab-?item|tab-?panel|code-?(?:group-?)?item", re.IGNORECASE)
_NEXT = re.compile(r"[\"'`}](?=\s+[@:#\w.\[\]-]{1,100}=)")
_PATH = re.compile(r"(?:https?:|[./#~])\S*|\S*/\S*|\S+\.(?:md|html?|png|svg|jpe?g|gif|json|ya?ml|js|py)")
_LIST = r"""(?:[.#][^\s{}"'.#]{1,100}|[\w:.-]{1,100}=(?:"[^"\n]{0,300}"|'[^'\n]{0,300}'|[^\s"'{}]{1,300})|-)"""
_BLOCK = re.compile(
    rf"\{{(?::\s{{0,9}}|\s{{0,9}}(?=[.#]\w)){_LIST}(?:\s{{0,9}}(?<=[\s\w\"'%]){_LIST}){{0,20}}\s{{0,9}}\}}"
    r"|\{::?/?[A-Za-z.#][^{}\n]{0,500}\}|\{:/\}"
)
_VALUES = re.compile(rf"\{{\s{{0,9}}{_LIST}(?:\s{{1,9}}{_LIST}){{0,20}}\s{{0,9}}\}}")


def visible(text: str, name: str = "") -> str:
    """The text of the attributes that a reader sees.

    Args:
        text: The inside of a tag or directive: `name="value"` and others, in any order. A value may hold quotes.
        name: The name of the tag. Tags for tabs, notes and the like may also have a title without the name of an
            attribute.
    """
    if len(text) > MAX_CHARS or not ("=" in text or '"' in text or "`" in text or ":" in text):
        return ""
    found: list[tuple[int, str]] = []
    names = list(_NAME.finditer(text))
    titled = False
    others: list[str] = []
    position = 0
    for attribute, following in zip_longest(names, names[1:]):
        others.append(text[position : attribute.start()])
        end = following.start() if following else len(text)
        value = _quoted(text[attribute.end() : end])
        position = end
        key = attribute[1].lower()
        if key in _SEEN:
            found.append((attribute.start(), value))
            titled = titled or key in ("label", "title", "header", "tab", "text")
    if names:
        others.append(text[position:])
    if not titled and _TAB.fullmatch(name):
        found += [
            (attribute.start(), _quoted(text[attribute.end() :]).partition(attribute.string[attribute.end()])[0])
            for attribute in names
            if attribute[1].lower() in ("name", "value")
        ][:1]
        found += [(m.start(), _names(m[1] or m[2])) for m in _ITEMS.finditer(text)]
    if "{" in text:
        objects = _IN_OBJECT.finditer(text)
        found += [(m.start(), _ESCAPED.sub(r"\1", m[1] or m[2] or m[3] or "")) for m in objects]
    return " ".join(" ".join(value.split()) for _, value in sorted(found) if value.strip())


def shortcode(name: str, text: str) -> str:
    """The same for a tag of a template language, whose values may have neither quotes nor names."""
    seen = visible(text, name)
    if not seen and _TITLED.search(name):
        titles = [m[1] or m[2] or "" for m in _POSITIONAL.finditer(text)]
        seen = " ".join(title for title in titles if title and not _PATH.fullmatch(title))
    if not seen:
        bare = [
            m[2]
            for m in _BARE.finditer(f" {text}")
            if m[1].lower() in _SEEN or (_TAB.fullmatch(name) and m[1] == "name")
        ]
        seen = " ".join(value for value in bare if "." not in value and "|" not in value)
    return seen


def block(text: str, position: int) -> tuple[str, int] | None:
    """An attribute list such as `{#id .class}` or `{: .class}` at a position: its visible text and its end."""
    found = _BLOCK.match(text, position)
    if not found and position and text[position - 1] in ")]`*_>:":
        found = _VALUES.match(text, position)
    return (_captions(found[0]), found.end()) if found else None


def _captions(text: str) -> str:
    seen = re.findall(r"""\b(?:caption|fig-cap|tbl-cap|lst-cap)\s*=\s*(?:"([^"]*)"|'([^']*)')""", text)
    return " ".join(a or b for a, b in seen)


def _names(text: str) -> str:
    """The names in a list of tabs."""
    return " ".join(name.strip("\"'` \n") for name in text.split(","))


def _quoted(text: str) -> str:
    """The value that begins with a quote, ends before the next attribute and may hold quotes itself."""
    following = _NEXT.search(text, 1)
    end = text.rfind(text[0], 1, following.start() + 1 if following else len(text))
    return text[1 : end if end > 0 else len(text)]
