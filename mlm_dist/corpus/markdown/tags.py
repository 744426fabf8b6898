"""Tags within a paragraph: HTML, components, comments and addresses in angle brackets."""

from __future__ import annotations

import re
from html import unescape

from mlm_dist.corpus.markdown import attributes, components
from mlm_dist.corpus.markdown.pieces import APART, Pieces

_ADDRESS = re.compile(
    r"<([A-Za-z][A-Za-z0-9+.-]{1,31}:[^\s<>\0-\x1f]{0,10000}|[\w.!#$%&'*+/=?^`{|}~-]{1,100}@[\w.-]{1,200})>"
)
_COMMENT_END = re.compile("-->")
_ALT = re.compile(r"""\salt\s*=\s*(?:"([^"]*)"|'([^']*)'|\{\s*["'`]([^"'`]*)["'`]\s*\})""", re.IGNORECASE)
_HREF = re.compile(
    r"""\shref\s*=\s*(?:"([^"]*)"|'([^']*)'|\{\s*["'`]([^"'`]*)["'`]\s*\}|([^\s"'{}<>=`]+))""", re.IGNORECASE
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_MARKED = frozenset(("a", *_HEADINGS))
_ENDS = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in components.CODE | components.HIDDEN}
_INSTRUCTION = re.compile(r"<\?.{0,2000}?\?>|<!\[CDATA\[.{0,5000}?\]\]>", re.DOTALL)


def read(paragraph: Pieces, at: int) -> int | None:
    """Read the tag that begins at a position; returns where to read on, or None if it is text."""
    source = paragraph.source
    following = source[at + 1 : at + 2]
    if following in ("?", "!"):
        return _declaration(paragraph, at)
    if following == ">" or source.startswith("</>", at):  # a fragment
        return paragraph.add("", at, at + 2 + (following == "/")) if paragraph.document.mdx else None
    if not (following.isalnum() or following == "/"):
        return None
    if address := _ADDRESS.match(source, at):
        paragraph.pieces.append(address[1])
        paragraph.mark(len(paragraph.pieces) - 1, address[1])
        return address.end()
    return _element(paragraph, at)


def _declaration(paragraph: Pieces, at: int) -> int | None:
    if paragraph.source.startswith("<!--", at):
        closing = paragraph.search(_COMMENT_END, at + 4)
        return closing.end() if closing else None
    if found := _INSTRUCTION.match(paragraph.source, at):
        paragraph.add_code(found[0])
        return found.end()
    return None


def _element(paragraph: Pieces, at: int) -> int | None:
    source, document = paragraph.source, paragraph.document
    if tag := components.TAG.match(source, at):
        end, name = tag.end(), tag["name"]
        inside, empty = tag["attributes"], bool(tag["empty"])
    else:
        limit = min(len(source), document.within(at, 20_000))
        long = components.tag_end(source, at, limit)
        document.allowance -= 4 * ((long or limit) - at)
        if long is None:
            return None
        end, name = long, components.name(source, at)
        inside, empty = source[at + 1 + len(name) : end - 1], source.startswith("/", end - 2)
    is_known = name.lower() in components.TAGS
    if (not is_known or not (name.islower() or name.isupper())) and (
        name in document.components or components.is_component(name, inside, empty)
    ):
        return _component(paragraph, at, end, "" if source[at + 1] == "/" else attributes.visible(inside, name))
    if is_known:
        return _html(paragraph, at, end, source[at:end])
    paragraph.pieces.append(source[at:end])  # a placeholder such as `<name>`
    return end


def _component(paragraph: Pieces, at: int, end: int, text: str) -> int:
    return paragraph.add(
        paragraph.nested(text) if "<" in text or "{" in text or "`" in text else unescape(text), at, end
    )


def _html(paragraph: Pieces, at: int, end: int, tag: str) -> int:
    source, pieces = paragraph.source, paragraph.pieces
    closes = tag[1] == "/"
    name = components.name(source, at).lower()
    if name in _ENDS and not closes and not tag.endswith("/>"):
        closing = paragraph.search(_ENDS[name], end)
        if closing and name in components.HIDDEN:
            return closing.end()
        if closing:
            is_block = name not in ("code", "tt", "samp")
            text = components.code(source[end : closing.start()], links=not is_block)
            paragraph.add_code(text, lines=is_block or "\n" in text)
            return closing.end()
    if name in _MARKED:
        _mark(paragraph, name, tag, closes)
    if name in components.NEW_LINE:
        paragraph.in_row = False
        pieces.append("\n- " if name == "li" and not closes else "\n")
        return paragraph.blanks(end) if name == "li" else end
    if name in ("td", "th") and not closes:
        pieces.append(" | " if paragraph.in_row else " ")
        paragraph.in_row = True
    elif name == "sup" and not closes and pieces and pieces[-1][-1:].isalnum():
        pieces.append("^")  # 2<sup>31</sup> is not 231
    elif name == "img" and (alt := _ALT.search(tag)):
        pieces += APART, unescape(alt[1] or alt[2] or alt[3] or ""), APART
    return end


def _mark(paragraph: Pieces, name: str, tag: str, closes: bool) -> None:
    """Note where a heading or a link begins or ends."""
    if closes:
        paragraph.close_mark(name)
    elif name in _HEADINGS:
        paragraph.open_mark(name, _HEADINGS[name])
    elif target := _HREF.search(tag):
        paragraph.open_mark(name, unescape(target[1] or target[2] or target[3] or target[4] or ""))
