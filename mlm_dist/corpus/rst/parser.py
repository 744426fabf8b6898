"""The parser of docutils with lenient directives and roles, and without state outside the document."""

from __future__ import annotations

import functools
from typing import Any

from docutils import nodes, utils
from docutils.parsers.rst import states
from docutils.transforms.references import Footnotes

from mlm_dist.corpus.rst import directives
from mlm_dist.corpus.rst.code import code
from mlm_dist.corpus.rst.inline import Inliner, settings

MAX_DEPTH = 40  # of nested blocks; each takes some nine frames of Python's stack
MAX_LINES = 300_000  # some 3 KB of memory each
MAX_COLUMNS = 500


class TooDeepError(Exception):
    """The document is nested too deeply."""


class TooLongError(Exception):
    """The document has too many lines."""


def parse(text: str) -> tuple[nodes.document, Inliner]:
    """The document tree, with footnotes numbered, and the inliner, which holds what else was found.

    Raises:
        TooDeepError: It is nested too deeply.
        TooLongError: It has too many lines.
    """
    raw = text.split("\n")
    if len(raw) > MAX_LINES:
        raise TooLongError
    lines = [line.replace("\f", " ").replace("\v", " ").expandtabs(8).rstrip() for line in raw]
    document = nodes.document(settings().copy(), utils.Reporter("", 5, 5, stream=False), source="")
    document.note_source("", -1)
    inliner = Inliner(raw)
    _Mixin.nested_sm_cache.clear()
    _Main((), "Body").run(lines, document, inliner=inliner)
    Footnotes(document).apply()
    return document, inliner


class _States(dict[str, Any]):
    """The states of a parser by name, each made when it is first entered: most blocks enter one or two of twenty."""

    def __init__(self, machine: Any) -> None:
        super().__init__()
        self._machine = machine

    def __missing__(self, name: str) -> Any:
        state = self[name] = _state_classes()[name](self._machine)
        if getattr(self._machine, "memo", None) is not None:  # the parser is running
            state.runtime_init()
        return state


class _Main(states.RSTStateMachine):  # type: ignore[misc, unused-ignore]
    """Parses a document."""

    def add_states(self, state_classes: Any) -> None:
        self.states = _States(self)


class _Nested(states.NestedStateMachine):  # type: ignore[misc, unused-ignore]
    """Parses the inside of a block, which may have headings, to a depth that does not depend on Python's stack."""

    def add_states(self, state_classes: Any) -> None:
        self.states = _States(self)

    def run(self, input_lines: Any, input_offset: int, memo: Any, node: Any, match_titles: bool = True) -> Any:
        if memo.inliner.depth >= MAX_DEPTH:
            raise TooDeepError
        memo.inliner.depth += 1
        try:
            return super().run(input_lines, input_offset, memo, node, True)
        finally:
            memo.inliner.depth -= 1


def _explicit() -> Any:
    """The constructs after `..`: docutils names its own function for directives."""
    names = states.Body.explicit
    constructs = [(_directive if method.__name__ == "directive" else method, pat) for method, pat in names.constructs]
    return states.Struct(patterns=names.patterns, constructs=constructs)


def _directive(state: Any, match: Any) -> Any:
    return state.directive(match)


class _Mixin:
    """What all states of the parser do differently."""

    explicit = _explicit()
    nested_sm = _Nested
    nested_sm_cache: list[Any] = []  # noqa: RUF012

    def __init__(self, state_machine: Any, debug: bool = False) -> None:
        super().__init__(state_machine, debug)  # type: ignore[call-arg]
        self.nested_sm_kwargs = {"state_classes": (), "initial_state": "Body"}

    def section(self: Any, title: str, source: str, style: Any, lineno: int, messages: Any) -> None:
        """No order of levels is wrong: each kind of underline is a level, in the order in which they occur."""
        heading = nodes.rubric(title, "", *self.inline_text(title, lineno)[0])
        heading["title"] = True
        levels = self.inliner.levels
        heading["level"] = levels.setdefault(style, len(levels) + 1)
        self.parent += heading

    def directive(self: Any, match: Any, **presets: Any) -> tuple[list[nodes.Node], bool]:
        """Any directive, known or not."""
        block, _, offset, blank_finish = self.state_machine.get_first_known_indented(match.end(), strip_top=False)
        while block and not block[-1].strip():
            block.trim_end()
        return directives.nodes_of(match.group(1), block, offset, self), blank_finish

    def doctest(self: Any, match: Any, context: Any, next_state: Any) -> Any:
        """A session of the interpreter, to the letter."""
        self.parent += code(self.state_machine.get_text_block(), self.inliner.raw_lines)
        return [], next_state, []

    def nest_line_block_lines(self, block: Any) -> None:
        """The lines of a block are written alike, however they are indented."""

    def isolate_grid_table(self: Any) -> Any:
        """See docutils; a table with many columns would take too long."""
        if self.state_machine.line.count("+") <= MAX_COLUMNS:
            return super().isolate_grid_table()  # type: ignore[misc]
        block = self.state_machine.get_text_block()
        return [], self.malformed_table(block), True

    def literal_block(self: Any) -> list[nodes.Node]:
        """The block after `::`, to the letter."""
        block, _, _, _ = self.state_machine.get_indented()
        while block and not block[-1].strip():
            block.trim_end()
        return [code(block, self.inliner.raw_lines)] if block else self.quoted_literal_block()

    def quoted_literal_block(self: Any) -> list[nodes.Node]:
        """The block after `::` whose lines all begin with the same punctuation character."""
        machine = self.state_machine
        after = machine.line_offset + 1
        lines = machine.input_lines
        start = after
        while start < len(lines) and not lines[start].strip():
            start += 1
        mark = lines[start][:1] if start < len(lines) else ""
        if not mark or mark.isalnum() or mark.isspace() or not mark.isascii():
            return []
        stop = start
        while stop < len(lines) and lines[stop].startswith(mark):
            stop += 1
        machine.next_line(stop - after)
        return [code(lines[start:stop], self.inliner.raw_lines)]


@functools.cache
def _state_classes() -> dict[str, type[Any]]:
    return {cls.__name__: type(cls.__name__, (_Mixin, cls), {}) for cls in states.state_classes}
