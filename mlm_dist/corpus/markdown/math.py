"""Formulas in TeX, which stay to the letter."""

from __future__ import annotations

import re

# A price is not a formula: "$5 and $10". Nor are variables of a shell: "$HOME/bin and $PATH".
_DOLLAR = re.compile(
    r"\$(?![\s,;:!?)$.])((?:[^$`\\\n]|\\[^\n]|\n(?![ \t]*\n)){1,5000}?)(?<![\s\\])\$(?![\d{$])"
    r"|\$(?![\s$])[^$\n\s`]\$(?!\w)"
)
_PRICE = re.compile(
    r"\d[\d.,]*(?:[kKmMbB]\b)?[*_]{0,3}(?:\s+[(*_]{0,3}[A-Za-z]{2}|\s*(?:/|[-\u2013\u2014]|to\b)\s*[*_]{0,3}\Z)"
)
_NAME = re.compile(r"[A-Z_][A-Z0-9_]+\W?|\w+[/:;,]|\{")
_DISPLAY = re.compile(r"\$\$(?!\$)(?:[^$\\]|\\.|\$(?!\$)){1,20000}?\$\$", re.DOTALL)
_PARENTHESES = re.compile(
    r"\\\((?!\s*\\\))(?:[^\\]|\\(?![()\]\[])[\s\S]){1,5000}?\\\)"
    r"|\\\\\((?:[^\\]|\\(?!\\[()])[\s\S]){1,5000}?\\\\\)"
)
_BRACKETS = re.compile(
    r"\\\[((?:[^\\]|\\(?![\[\]()])[\s\S]){1,20000}?)\\\](?!\()"
    r"|\\\\\[((?:[^\\]|\\(?!\\[\[\]])[\s\S]){1,20000}?)\\\\\]"
)
_TEX = re.compile(r"\\[A-Za-z]{2,}|[=^]|(?<![A-Za-z\\]{2})(?<!\\)_|_(?:\{|\w\b)|\A\s.*\S.*\s\Z", re.DOTALL)
_OPERATOR = re.compile(r"[+<>/*-]")
_WORD = re.compile(r"[^\W\d_]{3}")
_ESCAPES = re.compile(r"\\[*_`#!<>|~{}&]")
_BEGIN = re.compile(r"\\begin\{([A-Za-z]+\*?)\}")
_BLOCK = re.compile(r"\$\$(?!\$)|\\\\?\[[ \t]*(?=\n|\Z|[^\]\n]*(?:\n|\Z))|\\begin\{([A-Za-z]+\*?)\}")


def formula(source: str, position: int) -> int | None:
    """Where the formula ends that begins at a position, with `$` or a backslash; None if none does."""
    if source.startswith("$$", position):
        found = _DISPLAY.match(source, position)
        return found.end() if found else None
    return _dollar(source, position) if source[position] == "$" else _backslash(source, position)


def _dollar(source: str, position: int) -> int | None:
    if position and (source[position - 1].isalnum() or source[position - 1] in "$\\_"):
        return None
    found = _DOLLAR.match(source, position)
    inside = found[1] or "" if found else ""
    if not found or _PRICE.match(inside):
        return None
    in_word = source[found.end() : found.end() + 1].isalpha()
    return None if in_word and (" " in inside or _NAME.match(inside)) else found.end()


def _backslash(source: str, position: int) -> int | None:
    if found := _BEGIN.match(source, position):
        end = source.find(f"\\end{{{found[1]}}}", found.end(), position + 50_000)
        return end + len(found[1]) + 6 if end >= 0 else None
    if found := _PARENTHESES.match(source, position):
        return found.end()
    if found := _BRACKETS.match(source, position):
        return found.end() if is_tex(found[1] or found[2]) else None
    return None


def is_tex(text: str) -> bool:
    r"""Whether the text between `\[` and `\]`, which may be brackets that are escaped, looks like a formula."""
    text = _ESCAPES.sub("", text)
    return bool(_TEX.search(text) or (_OPERATOR.search(text) and not _WORD.search(text)))


def closing(source: str, position: int, end: int) -> str | None:
    """What ends the formula that begins a line at a position, if it may span several lines."""
    found = _BLOCK.match(source, position, end)
    if not found:
        return None
    if found[1]:
        return f"\\end{{{found[1]}}}"
    opening = found[0].rstrip()
    return "$$" if opening == "$$" else "\\\\]" if opening == "\\\\[" else "\\]"
