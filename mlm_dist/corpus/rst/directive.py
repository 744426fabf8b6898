"""A directive of a reStructuredText document: its argument, options and content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList

_OPTION = re.compile(r":(?![: ])((?:[^:\\]|\\.)+)(?<! ):(?: +(.*)|$)")


@dataclass(frozen=True)
class Directive:
    """A directive of a document.

    Args:
        name: Its name in lower case, without the domain.
        head: The lines of its argument.
        options: {name: value}.
        body: The lines after argument and options.
        offset: Where the body begins.
        state: The state of the parser.
    """

    name: str
    head: StringList
    options: dict[str, str]
    body: StringList
    offset: int
    state: Any

    @property
    def argument(self) -> str:
        """The argument on one line."""
        return " ".join(line.strip() for line in self.head).strip()

    def whole(self) -> StringList:
        """Argument and body, of directives without an argument."""
        return self.head + StringList([""], "") + self.body if self.head else self.body

    def inline(self, text: str) -> list[nodes.Node]:
        """The nodes of the inside of a paragraph."""
        found: list[nodes.Node] = self.state.inline_text(text, 0)[0]
        return found

    def title(self, text: str | None) -> list[nodes.Node]:
        """A title or caption; none if there is no text."""
        return [nodes.rubric(text, "", *self.inline(text))] if text else []

    def blocks(self, lines: StringList) -> list[nodes.Node]:
        """The nodes of some lines."""
        parent = nodes.container()
        parent.document = self.state.document
        self.state.nested_parse(lines, self.offset, parent)
        return list(parent.children)


def divided(name: str, block: StringList, offset: int, state: Any) -> Directive:
    """Argument, options and body: options may begin on any line before the first blank one."""
    end = next((i for i in range(1, len(block)) if not block[i].strip()), len(block))
    first = next((i for i in range(1, end) if _is_option(block[i])), end)
    if block and not block[0].strip():
        first = 1
    after, options = first, {}
    last = ""
    while after < end:
        found = _OPTION.fullmatch(block[after]) if _is_option(block[after]) else None
        if found:
            last = found[1].lower()
            options[last] = found[2] or ""
        elif last and block[after][:1].isspace():
            options[last] = f"{options[last]} {block[after].strip()}".strip()
        else:
            break
        after += 1
    while after < len(block) and not block[after].strip():
        after += 1
    head = block[:first] if block and block[0].strip() else block[:0]
    return Directive(name, head, options, block[after:], offset + after, state)


def _is_option(line: str) -> bool:
    found = _OPTION.fullmatch(line)
    return found is not None and " " not in found[1]
