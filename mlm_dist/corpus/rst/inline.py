"""The inside of reStructuredText paragraphs."""

from __future__ import annotations

import functools
import re
from typing import Any

from docutils import nodes, utils
from docutils.frontend import get_default_settings
from docutils.parsers import rst
from docutils.parsers.rst import states

from mlm_dist.corpus.html.cleaner import clean as clean_html
from mlm_dist.corpus.rst import roles

MAX_MARKUP = 1_000_000_000  # characters of a paragraph times its markup characters: about a second
MAX_WORD = 5_000  # characters of a word with markup; the time to parse one grows with its square
TOO_DENSE = "rst too dense, kept in part as is"

_LONG_WORD = re.compile(rf"[\w\-._+:]{{{MAX_WORD}}}")
_MARKUP = re.compile(r"[*`|_\[]")
_NO_MARKUP = re.compile(r"[^*`|_\\\[]*")


@functools.cache
def settings() -> Any:
    """The settings of docutils, which no file or environment variable changes."""
    values = get_default_settings(rst.Parser)
    values.warning_stream, values.report_level, values.halt_level = False, 5, 6
    values.file_insertion_enabled = values.raw_enabled = False
    return values


class Inliner(states.Inliner):  # type: ignore[misc, unused-ignore]
    """Parses the inside of a paragraph, and holds what the directives of the document declare.

    Args:
        raw_lines: The document.
    """

    def __init__(self, raw_lines: list[str]) -> None:
        super().__init__()
        self.raw_lines = raw_lines
        self.depth = 0
        self.title: str | None = None
        self.notes: set[str] = set()
        self.custom_roles: dict[str, str] = {}  # {name: the role it is based on}
        self.default_role = ""
        self.levels: dict[Any, int] = {}  # {underline of a heading: its level}
        self._absent: set[Any] = set()  # end-strings that do not occur in the rest of the paragraph

    def init_customizations(self, _: Any) -> None:
        """See docutils; the patterns are made once."""
        self.__dict__.update(_patterns())

    def parse(self, text: str, lineno: int, memo: Any, parent: Any) -> tuple[list[nodes.Node], list[nodes.Node]]:
        """See docutils; a paragraph that would take too long is kept as it is."""
        if _NO_MARKUP.fullmatch(text):
            return ([nodes.Text(text)] if text else []), []
        if (len(text) > MAX_WORD and _LONG_WORD.search(text)) or (
            len(text) > MAX_MARKUP // len(text) and len(text) * len(_MARKUP.findall(text)) > MAX_MARKUP
        ):
            self.notes.add(TOO_DENSE)
            return [nodes.Text(text)], []
        self._absent.clear()
        found: tuple[list[nodes.Node], list[nodes.Node]] = super().parse(text, lineno, memo, parent)
        return found

    def implicit_inline(self, text: str, lineno: int) -> list[nodes.Node]:
        """See docutils; addresses are ordinary text."""
        return [nodes.Text(text)] if text else []

    def inline_obj(self, match: Any, lineno: int, end_pattern: Any, *args: Any, **options: Any) -> Any:
        """See docutils; an end-string is not searched again after it was not found, so that the time is linear."""
        if end_pattern in self._absent:
            end_pattern = _NEVER
        found = super().inline_obj(match, lineno, end_pattern, *args, **options)
        if found[1] and isinstance(found[1][0], nodes.problematic):
            self._note_absent(end_pattern, match.string, match.end("start"))
        return found

    def interpreted_or_phrase_ref(self, match: Any, lineno: int) -> Any:
        """See docutils and `inline_obj`."""
        pattern, end = self.patterns.interpreted_or_phrase_ref, match.end("backquote")
        if pattern in self._absent:
            return match.string[:end], [], match.string[end:], []
        found = states.Inliner.interpreted_or_phrase_ref(self, match, lineno)
        if found[1] and isinstance(found[1][0], nodes.problematic):
            self._note_absent(pattern, match.string, end)
        return found

    def _note_absent(self, pattern: Any, text: str, start: int) -> None:
        if pattern is not _NEVER and not pattern.search(text[start:]):
            self._absent.add(pattern)

    def problematic(self, text: str, rawsource: str, message: Any) -> nodes.Node:
        """See docutils; the message is not kept."""
        return nodes.problematic(rawsource, text)

    def interpreted(self, rawsource: str, text: str, role: str, lineno: int) -> tuple[list[nodes.Node], list[Any]]:
        """What a reader sees of any role, known or not."""
        role = (role or self.default_role).lower()
        for _ in range(10):  # custom roles may be based on others
            role = self.custom_roles.get(role, role)
        name = role.rpartition(":")[2]
        if role == roles.HTML:
            return [nodes.Text(clean_html(utils.unescape(text, restore_backslashes=True)).text)], []
        if name == "raw":
            return [], []
        if name in roles.LITERAL:
            return [nodes.literal(rawsource, utils.unescape(text, restore_backslashes=True))], []
        shown = utils.unescape(roles.visible(role, text))
        if name in ("sup", "superscript"):
            return [nodes.superscript(rawsource, shown)], []
        if name == "ref" and shown == utils.unescape(text):
            return [nodes.inline(rawsource, shown, refname=nodes.fully_normalize_name(shown))], []
        node = nodes.inline(rawsource, shown)
        if name == "doc":
            node["refuri"] = roles.target(text)
        return [node], []

    # The table of docutils names its own functions.
    dispatch = states.Inliner.dispatch | {"`": interpreted_or_phrase_ref}


_NEVER = re.compile(r"(?!)")


@functools.cache
def _patterns() -> dict[str, Any]:
    inliner = states.Inliner()
    inliner.init_customizations(settings())
    names = ("start_string_prefix", "end_string_suffix", "parts", "patterns", "implicit_dispatch")
    return {name: getattr(inliner, name) for name in names}
