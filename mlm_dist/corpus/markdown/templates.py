"""Tags of template languages in Markdown: Liquid, Jinja, Nunjucks, Hugo, Go templates, Handlebars and mdBook.

`{{ value }}` is a placeholder, which stays. Code between tags such as `{% highlight %}` and `{% endhighlight %}` stays
to the letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlm_dist.corpus.markdown import attributes

MAX_CHARS = 2000  # of a tag
PROTECTED = "{\0n"  # a brace that begins no tag; a cleaned text has no such character

_CODE = (
    r"raw|verbatim|highlight|code|codeblock|code-block|code-toggle|code_block|codetabs?|prism|prettify|chroma|pre|katex|math|"
    r"latex|mathjax|mermaid|plantuml|diagram|command|terminal|shell|console|output"
)
_HIDDEN = "comment|schema|style|stylesheet|javascript"
_NAMED = re.compile(r"[<%#/^>~!-]*\s*([\w./:-]+)")
_OPENING = re.compile(
    rf"\{{%-?\s*(?P<liquid>{_CODE}|{_HIDDEN})\b(?![^%]*=\s*[\"']?[^%]*/\s*%\}})"
    rf"|\{{\{{(?P<mark>[<%])\s*(?P<hugo>{_CODE})(?![\w.-])"
    r"|\{\{\{\{\s*(?P<bars>[\w-]+)[^{}\n]{0,200}\}\}\}\}"
)
_ESCAPED = re.compile(r"\{\{([<%])/\*(.{0,500}?)\*/([>%])\}\}", re.DOTALL)
_VALUE = re.compile(r"\{\{\{[^{}\n]{0,500}\}\}\}|\{\{[^{}\n]{0,500}\}\}")
_CONTROL = re.compile(
    r"\{\{[{~-]?\s*(?:[#/^>!]|/\*|(?:else|end)\b|(?:if|range|with|define|block|template|partial|unless|each)\s+[^}\s])"
)
_BETWEEN = re.compile(r"[{%~<\s-]*(?:else|elif|elsif|elseif|when|case)\b")
_SHORTCODE = re.compile(r"\{\{[<%](?!/\*)((?:[^>%]|[>%](?!\}\})){0,2000})[>%]\}\}")
_RAW = re.compile(r"\{%-?\s*(end)?(?:raw|verbatim)\s*-?%\}")
_BRACES = re.compile(r"\{(?=[{%#<])")
_COMMENT = re.compile(r"\{#[\s-].{0,2000}?#\}", re.DOTALL)
_TITLE = re.compile(r"\{\{#title\s+([^{}\n]*)\}\}")
_TAGS = (  # no part of one may be a part of the next, or the search would take forever
    r"\{%(?:[^%\n]|%(?!\})){0,2000}%\}|\{\{[<%](?!/\*)(?:[^>%\n]|[>%](?!\}\})){0,2000}[>%]\}\}"
    r"|\{\{[~{]?[#/^>!][^{}\n]{0,500}\}\}\}?|\{#\s(?:[^#\n]|#(?!\})){0,2000}#\}"
)
LINE = re.compile(rf"(?:(?:{_TAGS})[ \t]{{0,20}}){{1,20}}\Z")
INCLUDE = re.compile(
    r"^[ \t]*(?:\{\{#(?:include|rustdoc_include|playground|playpen)[ \t][^{}\n]*\}\}"
    r"|-+8<-+[ \t]+(?:\"[^\"\n]*\"|'[^'\n]*'))[ \t]*$\n?",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Code:
    """A tag whose content is code.

    Args:
        text: The visible text of its attributes.
        start: Where the content begins.
        closing: What ends it.
        hidden: Whether it is a comment.
        markdown: Whether code in it may be marked as in Markdown.
    """

    text: str
    start: int
    closing: re.Pattern[str]
    hidden: bool = False
    markdown: bool = False


def code(source: str, position: int) -> Code | None:
    """The tag at a position, if its content is code."""
    found = _OPENING.match(source, position)
    if not found:
        return None
    name = found["liquid"] or found["hugo"] or found["bars"]
    if found["bars"]:
        return Code("", found.end(), re.compile(r"\{\{\{\{/\s*" + re.escape(name) + r"\s*\}\}\}\}"))
    end = "%}" if found["liquid"] else ">}}" if found["mark"] == "<" else "%}}"
    start = source.find(end, found.end(), position + MAX_CHARS)
    if start < 0 or source[found.end() : start].rstrip().endswith("/"):
        return None
    text = attributes.shortcode(name, source[found.end() : start])
    if found["liquid"]:
        if re.fullmatch(_HIDDEN, name):
            text = ""
        closing = re.compile(r"\{%-?\s*end" + re.escape(name) + r"\s*-?%\}")
    else:
        closing = re.compile(r"\{\{[<%]\s*/\s*" + re.escape(name) + r"\s*[>%]\}\}")
    return Code(text, start + len(end), closing, bool(re.fullmatch(_HIDDEN, name)), name in ("raw", "verbatim"))


def tag(source: str, position: int) -> tuple[str, int, bool] | None:
    """The text of the tag or value that begins with `{` at a position, its end, and whether it stays to the letter."""
    following = source[position + 1 : position + 2]
    if following == "%":
        end = source.find("%}", position + 2, position + MAX_CHARS)
        return (_text(source[position + 2 : end]), end + 2, False) if end >= 0 else None
    if following == "#":
        comment = _COMMENT.match(source, position)
        return ("", comment.end(), False) if comment else None
    return _double(source, position) if following == "{" else None


def _double(source: str, position: int) -> tuple[str, int, bool]:
    if escaped := _ESCAPED.match(source, position):
        return f"{{{{{escaped[1]}{escaped[2]}{escaped[3]}}}}}", escaped.end(), True
    if found := _SHORTCODE.match(source, position):
        return _text(found[1]), found.end(), False
    if title := _TITLE.match(source, position):
        return title[1].strip(), title.end(), False
    end = source.find("}}", position + 2, position + MAX_CHARS) if _CONTROL.match(source, position) else -1
    if end >= 0:
        return _text(source[position + 2 : end]), end + 2 + source.startswith("}", end + 2), False
    value = _VALUE.match(source, position)
    return (value[0], value.end(), True) if value else ("{{", position + 2, True)


def protected(source: str) -> str:
    """The document with marks in what `{% raw %}` surrounds, so that nothing there is a tag."""
    parts: list[str] = []
    position = 0
    start: int | None = None
    for found in _RAW.finditer(source):
        if start is None and not found[1]:
            start = found.end()
        elif start is not None and found[1]:
            parts += source[position:start], _BRACES.sub(PROTECTED, source[start : found.start()])
            position, start = found.start(), None
    return "".join([*parts, source[position:]]) if parts else source


def _text(inside: str) -> str:
    """What a reader sees of a tag: titles and similar, and a space in place of `else`."""
    if _BETWEEN.match(inside):
        return " "
    if inside.lstrip("~-{ ").startswith(("!", "/", "end")):
        return ""
    name = _NAMED.match(inside)
    return attributes.shortcode(name[1].rpartition("/")[2], inside[name.end() :]) if name else ""
