"""Front matter: the settings at the beginning of a Markdown document, of which only the title is text.

YAML, TOML and JSON, and lines such as `Title: ...` of MultiMarkdown and Pelican.
"""

from __future__ import annotations

import json
import re
from itertools import islice

import yaml

TITLE_CHARS = 2000  # a longer title is ignored, which also bounds the input of the YAML scanner

_YAML = re.compile(r"---[ \t]*\n(?:[ \t]*(?:#.*)?\n)*(?=(?:\"[^\"\n]+\"|'[^'\n]+'|[\w$@./<-]+)[ \t]*:(?:[ \t]|\n))")
_YAML_END = re.compile(r"^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.MULTILINE)
# In settings, a line without indentation is a key, an item, a comment or a closing bracket.
_PROSE = re.compile(
    r"^(?!(?:\"[^\"\n]+\"|'[^'\n]+'|[\w$@./<-]+)[ \t]*:(?:[ \t]|$)|-(?:[ \t]|$)|[ \t#\]}]|$)", re.MULTILINE
)
_YAML_TITLE = re.compile(r"^(?P<quote>[\"']?)title(?P=quote)[ \t]*:", re.MULTILINE | re.IGNORECASE)
_NEXT_KEY = re.compile(r"\n(?=[^\s])")

_TOML = re.compile(r"\+\+\+[ \t]*\n(?:[ \t]*(?:#.*)?\n)*(?=[\w\"'.-]+[ \t]*=|\[)")
_TOML_END = re.compile(r"^\+\+\+[ \t]*(?:\n|\Z)", re.MULTILINE)
_TOML_TEXT = re.compile(r"(\"{3}|'{3})(?s:.*?)(?:\1|(?P<open>\Z))|\"(?:\\.|[^\"\\\n])*\"|'[^'\n]*'|#.*")
_TOML_KEY = r"(?:[\w-]+|'')(?:[ \t]*\.[ \t]*(?:[\w-]+|''))*[ \t]*"
_TOML_VALUE = r"(?:''|true|false|[+-]?(?:inf|nan|\d[\w.:+-]*(?: \d[\w.:+-]*)?)|[\[{].*)[ \t]*"
_TOML_LINE = re.compile(rf"[ \t]*(?:{_TOML_KEY}=[ \t]*{_TOML_VALUE}|\[\[?[ \t]*{_TOML_KEY}\]\]?[ \t]*)?")
_TOML_TITLE = re.compile(r"^title[ \t]*=[ \t]*([\"'])(.*)\1[ \t]*(?:#.*)?$", re.MULTILINE | re.IGNORECASE)


_BEFORE = re.compile(r"(?:[ \t]*\n|[ \t]*(?:<!--|\{/\*))")  # blank lines, comments
_COMMENT_ENDS = {"<": "-->", "{": "*/}"}
_JSON = re.compile(r"\{\s*\"")
_LINES = re.compile(
    r"(?:(?:title|authors?|date|modified|tags|categor(?:y|ies)|keywords|slug|status|lang|summary|description|template"
    r"|layout|permalink|copyright|license|version|save_as|url|order|toc|subtitle)[ \t]*:[ \t]+\S[^\n]*\n"
    r"(?:[ \t]{4,}\S[^\n]*\n)*){2,}(?:[ \t]*\n|\Z)",
    re.IGNORECASE,
)


def split(text: str) -> tuple[str | None, str]:
    """The title in the front matter, if any, and what follows the front matter.

    YAML between lines of `---` (or up to `...`) and TOML between lines of `+++` are front matter if they begin with a
    key, and so are a JSON object and at least two lines of well-known keys. A block that is never closed, or that holds
    prose, is part of the body. Blank lines and comments may come first; comments are a part of what follows.

    Nothing is constructed, included or expanded: only the few lines of the title are scanned, as YAML events. An alias
    is not a title, and a tag has no effect.
    """
    start = _start(text)
    if opening := _YAML.match(text, start):
        closing = _YAML_END.search(text, opening.end())
        if closing and not _PROSE.search(text, opening.end(), closing.start()):
            return _yaml_title(text[opening.end() : closing.start()]), text[:start] + text[closing.end() :]
    elif opening := _TOML.match(text, start):
        closing = _TOML_END.search(text, opening.end())
        if closing and _is_toml(text[opening.end() : closing.start()]):
            title = _TOML_TITLE.search(text, opening.end(), closing.start())
            return _plain(title[2]) if title else None, text[:start] + text[closing.end() :]
    elif _JSON.match(text, start):
        return _json(text, start)
    elif lines := _LINES.match(text, start):
        found = re.search(r"^title[ \t]*:[ \t]*(.*)$", lines[0], re.MULTILINE | re.IGNORECASE)
        return _plain(found[1]) if found else None, text[:start] + text[lines.end() :]
    return None, text


def _start(text: str) -> int:
    """Where blank lines and comments at the beginning end."""
    start = 0
    while found := _BEFORE.match(text, start):
        end = found.end()
        if text[end - 1] != "\n":
            marker = text[found.start() : end].strip()[0]
            closing = text.find(_COMMENT_ENDS[marker], end)
            end = text.find("\n", closing) + 1 if closing >= 0 else 0
            if not end or text[closing + 3 : end].strip():
                break
        start = end
    return start


def _json(text: str, start: int) -> tuple[str | None, str]:
    try:
        settings, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, text
    after = re.compile(r"[ \t]*(?:\n|\Z)").match(text, end)
    if not after:
        return None, text
    title = next((value for key, value in settings.items() if key.lower() == "title"), None)
    return _plain(title) if isinstance(title, str) else None, text[:start] + text[after.end() :]


def _is_toml(settings: str) -> bool:
    """Whether each line is blank, a comment, a table, or a key with a value, which may span several lines."""

    def shortened(text: re.Match[str]) -> str:
        if text["open"] is not None:
            return "a text that is never closed"  # which is not TOML
        return "" if text[0][0] == "#" else "''"

    depth = 0
    for line in _TOML_TEXT.sub(shortened, settings).split("\n"):
        if depth == 0 and not _TOML_LINE.fullmatch(line):
            return False
        depth += line.count("[") + line.count("{") - line.count("]") - line.count("}")
    return depth == 0


def _yaml_title(settings: str) -> str | None:
    key = _YAML_TITLE.search(settings)
    if not key:
        return None
    after = _NEXT_KEY.search(settings, key.end())
    lines = settings[key.start() : after.start() if after else len(settings)]
    if len(lines) > TITLE_CHARS:
        return None
    try:
        nodes = [event for event in islice(yaml.parse(lines, Loader=yaml.SafeLoader), 6) if hasattr(event, "anchor")]
    except yaml.YAMLError:  # often a colon in a title without quotes
        return _plain(lines.partition(":")[2].strip().strip("\"'"))
    value = nodes[2] if len(nodes) > 2 else None  # after the mapping and the key
    if not isinstance(value, yaml.ScalarEvent) or (value.implicit[0] and value.value in {"~", "null"}):
        return None
    return _plain(value.value)


def _plain(title: str) -> str | None:
    return " ".join(title.split())[:TITLE_CHARS] or None
