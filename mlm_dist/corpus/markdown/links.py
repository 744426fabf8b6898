"""Links and images of Markdown, of which only the text stays; where a link leads is a part of the outline."""

from __future__ import annotations

import re

_TEMPLATE = r"\{\{(?:[^{}\n]){0,1000}\}\}|\{%[^\n]{0,1000}?%\}|\{(?![{%])"
_WITHIN = rf"[^\s()\\{{]|\\.|\\(?=\s)|{_TEMPLATE}"
_TITLE = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\)"
_TARGET = re.compile(
    rf"\(\s*(?!\s)(<(?:[^<>\n\\]|\\.)*>|(?!<)(?:{_WITHIN}|\((?:{_WITHIN}|\((?:{_WITHIN})*\))*\))*)"
    rf"(?:\s+(?:{_TITLE}|=[\d%]*x[\d%]*))?\s*\)",
    re.DOTALL,
)
_LABEL = re.compile(r"\[((?:[^\[\]\\]|\\.){0,999})\]", re.DOTALL)
_DEFINITION = re.compile(
    rf"\[((?:[^\[\]\\]|\\.){{1,999}})\]:[ \t]*(?:\n[ \t]*)?(?![ \t\n])"
    rf"(<(?:[^<>\n\\]|\\.)*>|(?:[^\s\\{{<]|\\.|\\(?=\s)|{_TEMPLATE})(?:[^\s\\{{]|\\.|\\(?=\s)|{_TEMPLATE})*)"
    rf"(?:[ \t]*(?:\n[ \t]*)?(?<=[ \t\n])(?:{_TITLE})[ \t]*(?=\n|\Z)|[ \t]*(?=\n|\Z))",
    re.DOTALL,
)


def target(source: str, position: int) -> tuple[int, str] | None:
    """Where the parentheses after a link end, and the target in them, if there are some at a position."""
    found = _TARGET.match(source, position)
    return (found.end(), _bare(found[1])) if found else None


def label(source: str, position: int) -> tuple[str, int] | None:
    """The label in brackets at a position, and its end."""
    found = _LABEL.match(source, position)
    return (found[1], found.end()) if found else None


def definitions(text: str) -> tuple[dict[str, str], str]:
    """{label: target} as defined at the beginning of a paragraph, and what follows the definitions."""
    targets: dict[str, str] = {}
    while text.startswith("[") and (found := _DEFINITION.match(text)) and found[1].strip():
        targets.setdefault(normal(found[1]), _bare(found[2]))
        text = text[found.end() :].lstrip("\n")
        text = text.lstrip(" ") if text.lstrip(" ").startswith("[") else text
    return targets, text


def _bare(target: str) -> str:
    """A target without the angle brackets that may be around it."""
    return target[1:-1] if target.startswith("<") else target


def normal(text: str) -> str:
    """A label as it is compared."""
    return " ".join(text.split()).casefold()
