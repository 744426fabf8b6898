"""Tags of HTML and of components (JSX, MDX, Vue, Docusaurus), and the JavaScript of MDX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import unescape

from markdown_it.common.html_blocks import block_names

# Names that have no meaning in the body of a document are excluded: `<title>` is a placeholder there.
_NO_TAGS = {"address", "base", "basefont", "dir", "head", "link", "option", "param", "search", "title", "track"}
_WITHIN_LINES = (
    "a abbr acronym audio b bdi bdo big br button cite code del dfn em embed font i img input ins kbd mark nobr "
    "object picture q s samp script small source span strike strong style sub sup svg tt u var video wbr pre "
    "textarea"
)
TAGS = frozenset(block_names).difference(_NO_TAGS).union(_WITHIN_LINES.split())
NEW_LINE = frozenset(block_names).difference({"td", "th"}).union(("br", "pre"))
CODE = frozenset(("pre", "textarea", "xmp", "listing", "code", "tt", "samp"))
HIDDEN = frozenset(("script", "style"))

TAG = re.compile(
    r"<(?P<close>/?)(?P<name>[A-Za-z][\w.:-]*)"
    r"(?P<attributes>(?:\s+[^\s\"'<>={}`/]+(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'=<>`{}]+))?)*)\s*(?P<empty>/?)>"
)
_SIMPLE = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9-]*)(?:\s[^<>]*)?/?>")
_OPEN = re.compile(r"</?([A-Za-z][\w.:-]*)(?=[\s/>{])")
_PART = re.compile(r"[^\"'`{}<>]+|\"[^\"]{0,20000}\"|'[^'\n]{0,5000}'|`[^`]{0,20000}`|[{}>]|<|[\"'`]")
_SCRIPT = re.compile(
    r"//[^\n]*|/\*.{0,2000}?\*/|\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'|`[^`]{0,20000}`|[{}()\[\]]|\n", re.DOTALL
)
_LINK = re.compile(r"\[([^\[\]\n]{1,500})\]\((?:https?:|[#/.]|[^\s()]{1,200}\.(?:md|html?)\b)[^\s()]{0,1000}\)")
_RAW = re.compile(r"\{%-?\s*raw\s*-?%\}((?:[^{]|\{(?!%-?\s*(?:end)?raw))*)\{%-?\s*endraw\s*-?%\}")
_OPENED = re.compile(r"<([A-Za-z][\w.:-]*)(?=[\s/>{])")
_CLOSED = re.compile(r"</([A-Za-z][\w.:-]*)\s*>")
_CODE_SPAN = re.compile(r"(?<!`)(`{1,3})(?!`)[^`]{1,1000}\1(?!`)")

_MODULE = re.compile(
    r"import\s+(?:[\w$*{},\s]{1,5000}?\s+from\s*)?(?:\"[^\"\n]+\"|'[^'\n]+')"
    r"|export\s+(?:(?:async\s+)?function\b|class\b|(?:const|let|var|type|interface)\s+[\w${\[]|\{|\*\s+from\b"
    r"|default\s+(?:function|class|async|[\w$.]+\s*[(;=]|[({\[]|\w+\s*$))",
    re.MULTILINE,
)
_MDX = re.compile(r"^(?:import\s|export\s|</[A-Z][\w.]*>|<[A-Z][\w.]*(?:\s[^<>\n]*)?/>[ \t]*$|\{/\*)", re.MULTILINE)
_FENCE = re.compile(r"[ \t>]*(`{3,}|~{3,})")
LINE = re.compile(
    r"(?:</?(?:[A-Z][\w.]*|[a-z][\w]*(?:-[\w]+)+)(?:\s[^<>\n]{0,5000})?>[ \t]{0,20}|</?>[ \t]{0,20}){1,20}\Z"
)
_PLACEHOLDERS = re.compile(r"(?:<[A-Za-z][\w-]*>[ \t]{0,20})+\Z")


def is_mdx(source: str) -> bool:
    """Whether the document has statements or components of MDX, outside code."""
    if not _MDX.search(source):
        return False
    fence = ""
    position = 0
    for line in source.split("\n"):
        if marker := _FENCE.match(line):
            if not fence:
                fence = marker[1]
            elif line.strip(" \t>").startswith(fence) and not line.strip(" \t>").strip(fence[0]):
                fence = ""
        elif not fence and _MDX.match(line) and (line[0] in "<{" or _MODULE.match(source, position)):
            return True
        position += len(line) + 1
    return False


def module_end(source: str, start: int, end: int) -> int | None:
    """Where the statements of JavaScript end that begin with the import or export at a position, if it is one."""
    if not _MODULE.match(source, start, end):
        return None
    depth = 0
    for token in _SCRIPT.finditer(source, start, min(end, start + 200_000)):
        if token[0] in "{([":
            depth += 1
        elif token[0] in "})]":
            depth -= 1
        elif token[0] == "\n" and depth <= 0 and not source[token.end() : token.end() + 1].strip(" \t\n"):
            return token.start()
    return end if depth <= 0 else None


def name(source: str, start: int) -> str:
    """The name of the tag that begins at a position."""
    found = _OPEN.match(source, start)
    return found[1] if found else ""


def components(texts: Iterable[str]) -> frozenset[str]:
    """Names of unknown tags that are opened and closed somewhere, which placeholders such as `<name>` are not."""
    closed: set[str] = set()
    opened: set[str] = set()
    for text in texts:
        prose = _CODE_SPAN.sub(" ", text) if "`" in text else text
        closed.update(_CLOSED.findall(prose))
        opened.update(_OPENED.findall(prose))
    return frozenset(closed & opened)


def is_component(name: str, attributes: str, empty: bool) -> bool:
    """Whether an unknown tag is a component by itself: `<Tab title="x">`, `<my-tab id=1>` or `<Tab />`."""
    if not (name[0].isupper() or "-" in name or "." in name or ":" in name):
        return False
    return empty or "=" in attributes or "{" in attributes or "." in name


def tag_end(source: str, start: int, end: int) -> int | None:
    """Where a tag ends whose attributes may hold expressions, tags and quotes, if it ends."""
    opening = _OPEN.match(source, start, end)
    if not opening:
        return None
    depth = 0
    for part in _PART.finditer(source, opening.end(), end):
        text = part[0]
        if text == "{":
            depth += 1
        elif text == "}":
            depth -= 1
            if depth < 0:
                return None
        elif text == ">" and depth == 0:
            return part.end()
        elif (text[0] == "<" and depth == 0) or (depth == 0 and text in "\"'`"):
            return None
    return None


def expression_end(source: str, start: int, end: int) -> int | None:
    """Where the expression ends whose `{` is at a position, if it ends."""
    depth = 0
    for token in _SCRIPT.finditer(source, start, end):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def placeholders_only(line: str) -> bool:
    """Whether a line has only tags such as `<name>`, without attributes."""
    return bool(_PLACEHOLDERS.match(line))


def code(html: str, links: bool) -> str:
    """The text of `<pre>`, `<code>` and similar tags.

    Args:
        html: What is between the tags.
        links: Whether it may hold links of Markdown to documents.
    """
    if "{%" in html:
        html = _RAW.sub(r"\1", html)
    if links and "](" in html:
        html = _LINK.sub(r"\1", html)
    return unescape(_SIMPLE.sub(lambda tag: "" if tag[2].lower() in TAGS else tag[0], html) if "<" in html else html)
