"""Links and images of Markdown, of which only the text stays."""

from __future__ import annotations

import re

_TEMPLATE = r"\{\{(?:[^{}\n]){0,1000}\}\}|\{%[^\n]{0,1000}?%\}|\{(?![{%])"
_WITHIN = rf"[^\s()\\{{]|\\.|\\(?=\s)|{_TEMPLATE}"
_TITLE = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\)"
_TARGET = re.compile(
    rf"\(\s*(?!\s)(?:<(?:[^<>\n\\]|\\.)*>|(?!<)(?:{_WITHIN}|\((?:{_WITHIN}|\((?:{_WITHIN})*\))*\))*)"
    rf"(?:\s+(?:{_TITLE}|=[\d%]*x[\d%]*))?\s*\)",
    re.DOTALL,
)
_LABEL = re.compile(r"\[((?:[^\[\]\\]|\\.){0,999})\]", re.DOTALL)
_DEFINITION = re.compile(
    rf"\[((?:[^\[\]\\]|\\.){{1,999}})\]:[ \t]*(?:\n[ \t]*)?(?![ \t\n])"
    rf"(?:<(?:[^<>\n\\]|\\.)*>|(?:[^\s\\{{<]|\\.|\\(?=\s)|{_TEMPLATE})(?:[^\s\\{{]|\\.|\\(?=\s)|{_TEMPLATE})*)"
    rf"(?:[ \t]*(?:\n[ \t]*)?(?<=[ \t\n])(?:{_TITLE})[ \t]*(?=\n|\Z)|[ \t]*(?=\n|\Z))",
    re.DOTALL,
)


def target(source: str, position: int) -> int | None:
    """Where the target of a link in parentheses ends, if there is one at a position."""
    found = _TARGET.match(source, position)
    return found.end() if found else None


def label(source: str, position: int) -> tuple[str, int] | None:
    """The label in brackets at a position, and its end."""
    found = _LABEL.match(source, position)
    return (found[1], found.end()) if found else None


def definitions(text: str) -> tuple[list[str], str]:
    """The labels that are defined at the beginning of a paragraph, and what follows the definitions."""
    labels = []
    while text.startswith("[") and (found := _DEFINITION.match(text)) and found[1].strip():
        labels.append(normal(found[1]))
        text = text[found.end() :].lstrip("\n")
        text = text.lstrip(" ") if text.lstrip(" ").startswith("[") else text
    return labels, text


def normal(text: str) -> str:
    """A label as it is compared."""
    return " ".join(text.split()).casefold()
