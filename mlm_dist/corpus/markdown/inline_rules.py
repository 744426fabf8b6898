"""Parser rules for inline extensions of documentation tools, which keep their text and remove their syntax.

DocFX and GitHub: `[!INCLUDE [title](path)]`, `[!NOTE]`, `[!div ...]`, `[!VIDEO url]`, `[!code-csharp[title](path)]`,
`:::image ...:::`, `::: zone ...`, `::: moniker ...`. MyST, Pandoc and Docusaurus: `:::{note} Title`, `:::tip Title`,
roles, `{.class #id}`. Hugo, Jekyll and GitBook: `{{< shortcode >}}`, `{% tag %}`.
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

# Every repetition below is bounded, so that each attempt of a rule takes constant time.
_INCLUDE = re.compile(r"\[![\w-]{1,40}\s{0,9}\[([^\]]{0,500})\]\(([^)\n]{0,1000})\)[^\]\n\[]{0,100}\]")
_WITHOUT_TEXT = re.compile(r"\[!(?:div|video|action)\b[^\]\n]{0,1000}\]", re.IGNORECASE)
_ALERT = re.compile(r"\[!([\w-]{1,40})\][+-]?")
_DOCFX = re.compile(
    r":::[ \t]{0,9}(?:(?:image|code|video)\b(.{0,2000}?)(?::::+|\Z)"
    r"|(?:image-end|zone|zone-end|moniker|moniker-end|row|row-end|column|column-end|no-loc|form)\b([^\n]{0,2000}?)"
    r"(?::::+|(?=\n)|\Z))",
    re.DOTALL | re.IGNORECASE,
)
_FENCE = re.compile(
    r":{3,100}[ \t]{0,9}(?:\{([\w:-]{1,40})\}|([A-Za-z][\w-]{0,40}))?(?:\[([^\]\n]{0,500})\])?[ \t]{0,9}"
)
_TAG = re.compile(r"\{\{([<%])(.{0,1000}?)[%>]\}\}|\{%(.{0,1000}?)%\}|\{#\s.{0,1000}?#\}", re.DOTALL)
_ROLE = re.compile(r"\{[\w:.+-]{1,60}\}(?=`)")
_ITEM = r"""(?:[.#][\w:-]{1,100}|[\w:-]{1,100}=(?:"[^"\n]{0,300}"|'[^'\n]{0,300}'|[^\s"'}]{1,300}))"""
_ATTRIBUTES = re.compile(
    rf"\{{(?::\s{{0,9}}{_ITEM}|\s{{0,9}}[.#][\w:-]{{1,100}})(?:\s{{1,9}}{_ITEM}){{0,20}}\s{{0,9}}\}}"
)
_VISIBLE = re.compile(
    r"""\b(?:alt-text|alt|caption|description|label|loc-text|summary|text|title)\s*=\s*"""
    r"""(?:"(.*?)"(?=\s+[\w-]+\s*=|[\s:/]*$)|'(.*?)'(?=\s+[\w-]+\s*=|[\s:/]*$))""",
    re.DOTALL | re.IGNORECASE,
)


def use(md: MarkdownIt) -> None:
    """Add these rules to a parser."""
    md.inline.ruler.before("link", "extensions", _within)


def heading(name: str, title: str) -> str:
    """The heading of an admonition: `Note:`, or `Note: Title`."""
    name = name.replace("-", " ").strip()
    return f"{name[:1].upper()}{name[1:].lower() if name.isupper() else name[1:]}: {title}".strip()


def _within(state: StateInline, silent: bool) -> bool:
    """`[!...]`, `:::...:::` and `{...}` within a paragraph."""
    pos, src = state.pos, state.src
    read = _READ.get(src[pos])
    found = read(src, pos) if read else None
    if not found:
        return False
    text, end = found
    fills_line = (pos == 0 or src[pos - 1] == "\n") and src[end : end + 1] in ("", "\n") and not text.endswith(":")
    if not silent:
        if fills_line and state.tokens and state.tokens[-1].type == "softbreak":
            state.tokens[-1].type = "hardbreak"
        if text:
            # Markup separated the text from its neighbors.
            before = " " if src[pos - 1 : pos].isalnum() else ""
            after = " " if src[end : end + 1].isalnum() and not text.endswith(" ") else ""
            state.push("text", "", 0).content = before + text + after
        if fills_line:
            state.push("hardbreak", "", 0)
    state.pos = min(end + fills_line, state.posMax)
    return True


def _bracket(src: str, pos: int) -> tuple[str, int] | None:
    if not src.startswith("!", pos + 1):
        return None
    if found := _INCLUDE.match(src, pos):
        return "" if _names_the_file(found[1], found[2]) else found[1], found.end()
    if found := _WITHOUT_TEXT.match(src, pos):
        return "", found.end()
    if found := _ALERT.match(src, pos):
        return heading(found[1], ""), found.end()
    return None


def _colon(src: str, pos: int) -> tuple[str, int] | None:
    if not src.startswith("::", pos + 1):
        return None
    if found := _DOCFX.match(src, pos):
        return _visible(found[1] or found[2] or ""), found.end()
    if (pos == 0 or src[pos - 1] == "\n") and (found := _FENCE.match(src, pos)):
        name, title = found[1] or found[2], found[3] or ""
        return heading(name, title) + " " if name else title, found.end()
    return None


def _brace(src: str, pos: int) -> tuple[str, int] | None:
    if found := _TAG.match(src, pos):
        return _visible(found[2] or found[3] or ""), found.end()
    if src.startswith("{{", pos):  # a placeholder for a value
        return "{{", pos + 2
    if found := _ROLE.match(src, pos) or _ATTRIBUTES.match(src, pos):
        return "", found.end()
    return None


_READ = {"[": _bracket, ":": _colon, "{": _brace}


def _names_the_file(title: str, path: str) -> bool:
    """Whether the title of an include is only the name of its file."""
    title = title.strip()
    return title.endswith(".md") or title == path.strip().rpartition("/")[2].removesuffix(".md")


def _visible(attributes: str) -> str:
    """The visible text of a directive: its alternative text, title and similar attributes."""
    return " ".join(found[1] or found[2] or "" for found in _VISIBLE.finditer(attributes))
