"""What other tools add to the inside of a paragraph: directives, templates, roles, formulas and attribute lists."""

from __future__ import annotations

import re

from mlm_dist.corpus.markdown import attributes, components, directives, math, templates
from mlm_dist.corpus.markdown.pieces import APART, Pieces

_ROLE = re.compile(r"\{[\w:.+-]{1,60}\}(?=`)")
_TITLED_ROLE = re.compile(
    r"\{(?:any|doc|download|eq|keyword|numref|option|ref|term|[a-z]{1,10}:[a-z]{1,20})\}"
    r"`([^`\n<>]{0,500}[^`\s<>])\s{0,20}<([^`<>\n]{1,500})>`(?!`)"
)
_STRING = re.compile(r"\{\s{0,20}(?:\"([^\"\n{}]{0,2000})\"|'([^'\n{}]{0,2000})'|`([^`${}]{0,2000})`)\s{0,20}\}")
_COMMENT_END = re.compile(r"\*/\s*\}")
_PATH = re.compile(r"\{\s*[\w$.\[\]?]+\s*\}")
_WITHIN_TAGS = re.compile(r">([^<>{}]*)<")


def read(paragraph: Pieces, at: int) -> int | None:
    """Read what begins at a colon, a brace or a dollar; returns where to read on, or None if it is text."""
    source = paragraph.source
    if source[at] == "$":
        end = math.formula(source, at)
        if end is not None:
            paragraph.add_code(source[at:end], lines=False)
        return end
    if source[at] == ":":
        found = directives.colon(source, at)
        return paragraph.add(*found_at(found, at)) if found else None
    return _brace(paragraph, at)


def found_at(found: tuple[str, int], start: int) -> tuple[str, int, int]:
    """The text, the start and the end of what was found."""
    return found[0], start, found[1]


def _brace(paragraph: Pieces, at: int) -> int | None:
    source = paragraph.source
    following = source[at + 1 : at + 2]
    if following in ("{", "%", "#"):
        end = _code(paragraph, at) if following != "#" else None
        end = _template(paragraph, at) if end is None else end
        if end is not None:
            return end
    if source.startswith("{/*", at) and (closing := paragraph.search(_COMMENT_END, at + 3)):
        return paragraph.add("", at, closing.end())
    if string := _STRING.match(source, at):
        paragraph.pieces.append(string[1] or string[2] or string[3] or "")
        return string.end()
    if role := _ROLE.match(source, at):
        titled = _TITLED_ROLE.match(source, at)
        if titled:
            paragraph.pieces.append(titled[1])
            if source.startswith("{doc}", at):
                paragraph.mark(len(paragraph.pieces) - 1, titled[2])
        return (titled or role).end()
    if found := attributes.block(source, at):
        return paragraph.add(*found_at(found, at))
    return _expression(paragraph, at) if paragraph.document.mdx else None


def _code(paragraph: Pieces, at: int) -> int | None:
    code = templates.code(paragraph.source, at)
    closing = code and paragraph.search(code.closing, code.start)
    if not code or not closing:
        return None
    inside = paragraph.source[code.start : closing.start()]
    if code.markdown and "`" in inside:
        return None  # its tags are removed; nothing else in it is a tag
    if code.text:
        paragraph.pieces += APART, paragraph.nested(code.text), APART
    if code.hidden:
        return paragraph.add("", at, closing.end())
    paragraph.add_code(inside, lines="\n" in inside)
    return closing.end()


def _template(paragraph: Pieces, at: int) -> int | None:
    found = templates.tag(paragraph.source, at)
    if not found:
        return None
    text, end, is_text = found
    if not is_text:
        return paragraph.add(paragraph.nested(text) if text.strip() else text, at, end)
    if text == "{{":
        paragraph.pieces.append(text)
    else:
        paragraph.add_code(text)
    return end


def _expression(paragraph: Pieces, at: int) -> int | None:
    """An expression of MDX: text of the tags in it stays, and so does a name, which is a placeholder."""
    source, document = paragraph.source, paragraph.document
    if _PATH.match(source, at):
        return None
    limit = min(len(source), document.within(at, 20_000))
    end = components.expression_end(source, at, limit)
    if end is None:
        document.allowance -= limit - at
        return None
    inside = source[at:end]
    if not re.search(r"=>|&&|\|\||[?(]|</?[A-Za-z]", inside):
        return None
    text = " ".join(
        part for part in (" ".join(m[1].split()) for m in _WITHIN_TAGS.finditer(inside.replace("=>", ""))) if part
    )
    return paragraph.add(text, at, end)
