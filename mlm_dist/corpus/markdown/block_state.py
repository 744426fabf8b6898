"""The state of the parser of blocks, and the tokens that it makes."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, ClassVar, Literal

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from mlm_dist.corpus.markdown.pieces import Document


class Block(Token):
    """A token with the few attributes that blocks have, which is made quickly."""

    content = ""
    info = ""
    markup = ""
    hidden = False
    map: list[int] | None = None
    meta: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(self, type: str, nesting: Literal[-1, 0, 1], level: int) -> None:
        self.type = type
        self.nesting = nesting
        self.level = level


class State(StateBlock):
    """The state of the parser; in MDX, indented lines are not code."""

    def __init__(self, source: str, md: MarkdownIt, document: Document) -> None:
        super().__init__("", md, {"document": document, "references": document.references}, [])
        self.src = source
        self.tries = 0
        lines = source.split("\n")
        if not lines[-1].strip(" \t"):  # the library has no such line
            lines.pop()
        self.eMarks = list(accumulate([len(line) + 1 for line in lines], initial=-1))[1:]
        self.bMarks = [*[0, *(end + 1 for end in self.eMarks)][: len(lines)], len(source)]
        self.eMarks.append(len(source))
        self.tShift = [len(line) - len(line.lstrip(" \t")) if line[:1] in " \t" else 0 for line in lines]
        self.tShift.append(0)
        self.sCount = self.tShift.copy()
        if "\t" in source:
            for number, line in enumerate(lines):
                if "\t" in line[: self.tShift[number]]:
                    self.sCount[number] = len(line[: self.tShift[number]].expandtabs(4))
        self.lineMax = len(lines)
        self.bsCount = [0] * (self.lineMax + 1)
        self.has_code = not document.mdx

    def push(self, ttype: str, tag: str, nesting: Literal[-1, 0, 1]) -> Token:
        """Add a token."""
        if nesting < 0:
            self.level -= 1
        token = Block(ttype, nesting, self.level)
        if nesting > 0:
            self.level += 1
        self.tokens.append(token)
        return token

    def is_code_block(self, line: int) -> bool:
        """Whether a line is indented by four."""
        return self.has_code and self.sCount[line] - self.blkIndent >= 4
