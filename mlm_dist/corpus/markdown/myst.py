"""Directives of MyST and chunks of Quarto and R Markdown: their headings, options and content."""

from __future__ import annotations

import re

from mlm_dist.corpus.markdown import attributes, directives

_FENCE = re.compile(r"\{([A-Za-z][\w:.+-]*)\}[ \t]*(.*)")
_CHUNK = re.compile(r"\{=?([A-Za-z][\w.+-]*)(?:[ \t,]+([^\n]*))?\}[ \t]*\Z")
OPTION = re.compile(r":([\w.-]+):(?:[ \t]+(.*))?\Z")
_BRACES = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}")
_OPTIONS = re.compile(r"\A(?:[ \t]*:[\w.-]+:(?:[ \t].*)?(?:\n|\Z))+")
_YAML = re.compile(r"\A---[ \t]*\n((?:[ \t]*[\w.-]+:.*\n|[ \t]+.*\n|-[ \t].*\n)*)---[ \t]*(?:\n|\Z)")
_CHUNK_OPTIONS = re.compile(r"\A(?:[ \t]*(?:#|//|--|%%|;;)\|(?:[ \t].*)?(?:\n|\Z))+")
_PREFIX = re.compile(r"^[ \t]*(?:#|//|--|%%|;;)\|[ \t]?", re.MULTILINE)
_KEYS = re.compile(r"^:?([\w.-]+):[ \t]+(.*(?:\n[ \t]+(?![\w.-]+:).*)*)", re.MULTILINE)
_SEEN_NAMES = "alt caption cap title header fig-alt fig-cap fig.alt fig.cap tbl-cap lst-cap subtitle"
_SEEN = frozenset(_SEEN_NAMES.split())

# The content of these is Markdown; the content of others is kept as is.
_PROSE_NAMES = (
    "admonition aside attention blockquote card caution danger deprecated details div dropdown epigraph error "
    "example exercise figure figure-md footer glossary grid grid-item grid-item-card header highlights hint "
    "important list-table margin note only panels proof pull-quote seealso sidebar solution tab-item tab-set "
    "tabbed table theorem tip todo topic versionadded versionchanged versionremoved warning"
)
_PROSE = frozenset(_PROSE_NAMES.split())
_PROSE_DOMAINS = ("prf:", "py:", "js:", "c:", "cpp:", "rst:")
_WITHOUT_HEADING_NAMES = (
    "admonition aside blockquote card details div dropdown epigraph figure figure-md footer glossary grid grid- "
    "item grid-item-card header highlights image list-table margin only panels pull-quote rubric sidebar tab-item "
    "tab-set tabbed table topic csv-table toctree tableofcontents contents math"
)
_WITHOUT_HEADING = frozenset(_WITHOUT_HEADING_NAMES.split())
_CODE_NAMES = (
    "code code-block code-cell eval-rst graphviz jupyter-execute literalinclude math mermaid parsed-literal "
    "plantuml raw sourcecode csv-table bibliography"
)
_CODE = frozenset(_CODE_NAMES.split())
_NOT_TEXT_NAMES = (  # arguments that are paths, languages, numbers and the like
    "aside blockquote bibliography code code-block code-cell csv-file div download embed eval-rst figure figure- "
    "md grid grid-item iframe image include index ipython jupyter-execute list-files literalinclude mermaid only "
    "parsed-literal plantuml raw sourcecode tab-set toctree video graphviz math tableofcontents contents"
)
_NOT_TEXT = frozenset(_NOT_TEXT_NAMES.split())


def fence(info: str) -> tuple[str, str] | None:
    """The name and the argument of a directive that is a fence, or None."""
    found = _FENCE.match(info)
    return (found[1].lower(), found[2].strip()) if found else None


def is_prose(name: str) -> bool:
    """Whether the content of a directive is Markdown."""
    return name in _PROSE or name.startswith(_PROSE_DOMAINS)


def is_code(name: str) -> bool:
    """Whether the content of a directive is code or data, and its argument is not text."""
    return name in _CODE


def is_known(name: str) -> bool:
    """Whether it is a directive of MyST."""
    return is_prose(name) or name in _NOT_TEXT or name in _WITHOUT_HEADING or ":" in name


def heading(name: str, argument: str) -> str:
    """What a reader sees of the first line of a directive."""
    if ":" in name and not name.startswith("prf:"):
        return argument
    if name in _NOT_TEXT:
        return ""
    name = name.rpartition(":")[2]
    if name in _WITHOUT_HEADING or not is_prose(name):
        return directives.container("", argument)
    return directives.container(name, argument)


def options(content: str) -> tuple[str, str]:
    """The visible options at the beginning of a directive, such as its caption, and the rest."""
    found = _OPTIONS.match(content) or _YAML.match(content)
    return (_seen(found[0]), content[found.end() :]) if found else ("", content)


def chunk(info: str, content: str) -> tuple[str, str]:
    """The same for a chunk of Quarto or R Markdown."""
    header = _CHUNK.match(info)
    seen = attributes.visible(header[2]) if header and header[2] else ""
    found = _CHUNK_OPTIONS.match(content) if header else None
    if not found:
        return seen, content
    return " ".join(filter(None, (seen, _seen(found[0])))), content[found.end() :]


def title(info: str) -> str:
    """The visible part of what follows the opening of a fence: a title, or the name of a tab in brackets."""
    if not ("=" in info or "[" in info):
        return ""
    tab = re.search(r"(?<=\s)\[([^\[\]]{1,200})\]", _BRACES.sub(" ", info))
    return attributes.visible(info.replace("{", " ").replace("}", " ")) or (tab[1] if tab else "")


def _seen(text: str) -> str:
    keys = _KEYS.findall(_PREFIX.sub("", text))
    values = [" ".join(value.lstrip("|>-").split()).strip("\"'") for key, value in keys if key.lower() in _SEEN]
    return " ".join(value for value in values if value not in ("", "true", "false"))
