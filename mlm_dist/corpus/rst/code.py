"""Code of a reStructuredText document."""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList


def code(block: StringList, raw_lines: list[str]) -> nodes.literal_block:
    """A block of code to the letter: with the tabs and spaces that docutils replaces.

    Args:
        block: Its lines, without the indentation of the block.
        raw_lines: The document.
    """
    text = "\n".join(_exact(line, block.offset(i), raw_lines) for i, line in enumerate(block))
    return nodes.literal_block(text, text)


def _exact(line: str, offset: int | None, raw_lines: list[str]) -> str:
    """A line as it is in the document, without the indentation of its block."""
    raw = raw_lines[offset] if offset is not None and offset < len(raw_lines) else ""
    expanded = raw.expandtabs(8).rstrip()
    if raw in (line, "") or not line or not expanded.endswith(line):
        return line
    column = len(expanded) - len(line)
    at = 0
    while at < len(raw) and len(raw[: at + 1].expandtabs(8)) <= column:
        at += 1
    if len(raw[:at].expandtabs(8)) == column:
        return raw[at:]
    return line + raw[len(raw.rstrip()) :]  # a tab is in part indentation
