"""Roles of docutils, Sphinx and its extensions: the text that a reader sees."""

from __future__ import annotations

import re

from docutils import utils

LITERAL = frozenset(("code", "literal", "math", "raw"))
"""Roles in which a backslash is a character like any other."""

HTML = "raw-html"
"""The role that stands for custom roles whose text is HTML."""

_TITLED = re.compile(r"(.+?)\s*(?<!\x00)<[^<>]*>", re.DOTALL)
_TITLED_APART = re.compile(r"(.+?)\s+(?<!\x00)<[^<>]+>", re.DOTALL)
_TARGET = re.compile(r"(?<!\x00)<([^<>]+)>\Z")
_AS_WRITTEN = LITERAL | {"samp", "file", "kbd", "command", "program", "abbr", "sub", "sup", "menuselection"}
_AS_WRITTEN |= {"subscript", "superscript", "emphasis", "strong", "strike", "title-reference", "title", "t", "regexp"}
# Their text ends in <target> even if no space is before it.
_REFERENCES_NAMES = "any doc download eq keyword mod numref pep ref rfc std:doc std:ref term std:term"
_REFERENCES = frozenset(_REFERENCES_NAMES.split())
_SHORT = re.compile(r"~(?:[\w.]+\.)?([\w ]+(?:\(.*\))?)", re.DOTALL)
_SHORT_CPP = re.compile(r"~(?:[^\s(<]+?(?:::|\.))?(\w+(?:[(<].*)?)", re.DOTALL)
_CALLED = frozenset(("func", "meth"))
_NUMBERED = {"pep": "PEP ", "rfc": "RFC ", "cve": "CVE ", "cwe": "CWE "}
_ICONS = re.compile(r"octicon|fa[sbrl]?|icon|material-[a-z]+")
_ACCELERATOR = re.compile(r"&(.)")
_BRACES = re.compile(r"(?<!\x00)\{([^{}]*)\}")


def visible(role: str, text: str) -> str:
    """What a reader sees of interpreted text.

    Args:
        role: The role in lower case, with its domain if it was given.
        text: The text, with a zero character before each escaped character.
    """
    domain, _, name = role.rpartition(":")
    if name in _AS_WRITTEN:
        return _as_written(name, text)
    if _ICONS.fullmatch(role):
        return ""
    titled = (_TITLED if role in _REFERENCES or name in _REFERENCES else _TITLED_APART).fullmatch(text)
    if titled:
        return titled[1].removeprefix("!")
    if name == "guilabel":
        return _ACCELERATOR.sub(r"\1", text)
    if role in _NUMBERED:
        number, _, section = text.removeprefix("!").partition("#")
        return _NUMBERED[role] + number + (f" Section {section.removeprefix('section-')}" if section else "")
    text = text.removeprefix("!")
    if domain in ("", "py", "js") and name not in _REFERENCES:
        text = "~" + text[1:].lstrip(".") if text.startswith("~") else text.lstrip(".")
    short = (_SHORT_CPP if domain in ("c", "cpp") else _SHORT).fullmatch(text)
    text = short[1] if short else text
    return f"{text}()" if name in _CALLED and text and not text.endswith(")") else text


def target(text: str) -> str:
    """Where interpreted text leads: what is in angle brackets at its end, else all of it."""
    found = _TARGET.search(text)
    return str(utils.unescape(found[1] if found else text)).strip().removeprefix("!")


def _as_written(name: str, text: str) -> str:
    if name in ("samp", "file"):
        return _BRACES.sub(r"\1", text)
    if name == "menuselection":
        return _ACCELERATOR.sub(r"\1", text).replace("-->", "\N{TRIANGULAR BULLET}")
    return text
