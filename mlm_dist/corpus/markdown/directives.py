"""Directives of documentation tools: their headings and visible text.

DocFX and GitHub: `[!INCLUDE [title](path)]`, `[!NOTE]`, `[!div ...]`, `[!VIDEO url]`, `[!code-csharp[title](path)]`,
`:::image ...:::`, `::: zone ...`, `::: moniker ...`. MyST, Pandoc, VitePress and Docusaurus: `:::{note} Title`,
`::: tip Title`, `:::note[Title]`, `::: {.class}`, `:name[text]{attributes}`. MkDocs: `!!! note "Title"`,
`/// note | Title`.
"""

from __future__ import annotations

import re

from mlm_dist.corpus.markdown import attributes

# Every repetition below is bounded, so that each attempt of a rule takes constant time.
_INCLUDE = re.compile(r"\[![\w-]{1,40}\s{0,9}\[([^\]]{0,500})\]\(([^)\n]{0,1000})\)[^\]\n\[]{0,100}\]")
_WITHOUT_TEXT = re.compile(r"\[!(?:div|video|action)\b[^\]\n]{0,1000}\]", re.IGNORECASE)
_ALERT = re.compile(r"\[!([\w-]{1,40})\][+-]?")
_DOCFX = re.compile(
    r":::[ \t]{0,9}(?:(?:image|code|video)(?=\s{1,99}[\w-]{1,40}=|[ \t]{0,9}:)(.{0,2000}?)(?::::+|\Z)"
    r"|(?:image-end|zone|zone-end|moniker|moniker-end|row|row-end|column|column-end|no-loc|form)(?![\w-])([^\n]{0,2000}?)"
    r"(?::::+|(?=\n)|\Z))",
    re.DOTALL | re.IGNORECASE,
)
SEVERAL_LINES = re.compile(r":::[ \t]{0,9}(?:image|code|video)\s{1,99}[\w-]{1,40}=", re.IGNORECASE)
_CONTAINER = re.compile(
    r":{3,100}[ \t]{0,9}(?:\{([A-Za-z][\w:-]{0,40})\}|\{([.#][^{}\n]{0,500})\}|([A-Za-z][\w-]{0,40}))?"
    r"(?:\[((?:[^\[\]\n\\]|\\.|\[[^\[\]\n]*\]){0,500})\])?(?:[ \t]{0,9}\{([^{}\n]{0,500})\})?[ \t]{0,9}"
)
_TEXT = re.compile(r"::?[a-z][\w-]{0,30}\[((?:[^\[\]\n\\]|\\.){0,500})\]\{[^{}\n]{0,500}\}")
_ICON = re.compile(r":(?:material|octicons|fontawesome|simple)-[a-z0-9-]{1,80}:")
_ATTRIBUTES = re.compile(r"[ \t]*\{[\w.#][^{}]{0,300}\}\Z")
_CLASS = re.compile(r"\.(?:callout-)?([A-Za-z][\w-]*)")
_NO_HEADING_NAMES = (
    "article aside block blocks box card cards carousel center code code-group code-tabs col cols column columns "
    "container content div fence figure flex full grid grid-item grid-item-card group landscape layer left line- "
    "block list main margin no-autoshow panel panels panel-tabset portrait raw right row rows section slide "
    "slides span steps tab tab-item tab-set table tabs tabset thumb timeline v-pre video wrapper wide"
)
_NO_HEADING = frozenset(_NO_HEADING_NAMES.split())
_ADMONITIONS_NAMES = (
    "abstract attention bug caution check danger details error example exercise failure faq hint important info "
    "note question quote seealso solution success summary tip todo warning"
)
_ADMONITIONS = frozenset(_ADMONITIONS_NAMES.split())
_PLACEMENT = frozenset(["inline", "end", "left", "right", "annotate", "collapse"])


def heading(name: str, title: str) -> str:
    """The heading of an admonition: `Note:`, or `Note: Title`."""
    name = name.replace("-", " ").strip()
    return f"{name[:1].upper()}{name[1:].lower() if name.isupper() else name[1:]}: {title}".strip()


def container(name: str, title: str) -> str:
    """The heading of a container, of which a layout has only the title."""
    if name.lower() in _NO_HEADING:
        return title.strip()
    return heading(name, title) if name else title.strip()


def admonition(names: str, title: str | None) -> str:
    """The heading of an admonition of MkDocs, with an empty title without a heading.

    Args:
        names: Its type and classes.
        title: Its title; None gives the type.
    """
    kept = [name for name in names.split() if name not in _PLACEMENT]
    return "" if title == "" else heading(" ".join(kept or names.split()), title or "")


def bracket(source: str, position: int) -> tuple[str, int] | None:
    """The text and the end of `[!...]` at a position."""
    if found := _INCLUDE.match(source, position):
        return "" if _names_the_file(found[1], found[2]) else found[1], found.end()
    if found := _WITHOUT_TEXT.match(source, position):
        return "", found.end()
    if found := _ALERT.match(source, position):
        return heading(found[1], ""), found.end()
    return None


def colon(source: str, position: int) -> tuple[str, int] | None:
    """The text and the end of `:::...:::`, a line of `:::`, `:name[text]{...}` or an icon at a position."""
    if source.startswith(":::", position):
        if found := _DOCFX.match(source, position):
            return attributes.visible(found[1] or found[2] or ""), found.end()
        return None
    if position and (source[position - 1].isalnum() or source[position - 1] == ":"):
        return None
    if found := _TEXT.match(source, position):
        return found[1], found.end()
    if found := _ICON.match(source, position):
        return "", found.end()
    return None


def container_line(line: str) -> str | None:
    """What a reader sees of a line that begins with `:::`, as Markdown; None if it is one of DocFX."""
    if _DOCFX.match(line):
        return None
    found = _CONTAINER.match(line)
    if not found:
        return line.lstrip(":")
    braces, listed, name, title, more = found.groups()
    name = braces or name or ""
    seen = attributes.visible(listed or more or "")
    if listed:
        classes = [m[1] for m in _CLASS.finditer(listed)]
        name = next((each for each in classes if each in _ADMONITIONS), "")
    title = " ".join(filter(None, (title or seen, line[found.end() :].strip(" :"))))
    return container(name, _ATTRIBUTES.sub("", title))


def _names_the_file(title: str, path: str) -> bool:
    """Whether the title of an include is only the name of its file."""
    title = title.strip()
    return title.endswith(".md") or title == path.strip().rpartition("/")[2].removesuffix(".md")
