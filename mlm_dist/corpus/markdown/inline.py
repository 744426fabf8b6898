"""The inside of a Markdown paragraph, heading or cell as plain text.

Links, emphasis, code and escapes follow CommonMark; `extensions` has what other tools add.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from html.entities import html5
from itertools import islice
from typing import ClassVar

from mlm_dist.corpus.markdown import attributes, directives, emphasis, extensions, links, math, tags
from mlm_dist.corpus.markdown.pieces import APART, Document, Pieces
from mlm_dist.corpus.marks import Marked

# It begins with a set of characters, which makes the search fast.
_SPECIAL = re.compile(
    r"[*`\[\]<&\\{$\n~_!:](?:(?<![~_!:])|(?<=~)~|(?<=_)(?:(?<!\w_)|(?<!__)_*(?!\w))|(?<=!)\["
    r"|(?<=:)(?:::|:?[a-z][\w-]{0,30}\[|[a-z]{6,11}-))"
)
_MARKUP = re.compile(r"[*_`\[<&\\~{$]|:::|  \n")
_RUNS = {character: re.compile(rf"{re.escape(character)}+") for character in "*_~`:$"}
_ENTITY = re.compile(r"&(?:#[xX][0-9a-fA-F]{1,6}|#[0-9]{1,7}|([A-Za-z][A-Za-z0-9]{1,31}));")
_ESCAPABLE = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def is_dense(source: str, limit: int) -> bool:
    """Whether more than `limit` characters may be markup."""
    return len(source) > limit and next(islice(_MARKUP.finditer(source), limit, None), None) is not None


def plain(source: str, document: Document) -> Marked:
    """The text of a paragraph: on one line except for hard breaks, HTML that begins a line, and code.

    Args:
        source: Markdown without the markers of its block.
        document: What the paragraphs of the document share.
    """
    first = _SPECIAL.search(source)
    if not first:
        return Marked(source.strip())
    paragraph = _Paragraph(source, document)
    paragraph.read(first)
    return paragraph.marked()


class _Paragraph(Pieces):
    """Reads a paragraph by the rules of CommonMark."""

    def __init__(self, source: str, document: Document) -> None:
        super().__init__(source, document)
        self._runs: list[emphasis.Run] = []
        self._brackets: list[tuple[int, int, int]] = []  # piece, position after it, number of runs before it
        self._inactive = 0  # brackets that are around a link
        self._code: dict[int, list[int]] | None = None  # positions of runs of backticks by length, the last first

    def read(self, found: re.Match[str] | None) -> None:
        """Read the paragraph.

        Args:
            found: Its first character that may be markup.
        """
        source, pieces, position = self.source, self.pieces, 0
        search, handlers = _SPECIAL.search, self._READ
        while found:
            at = found.start()
            if at > position:
                pieces.append(source[position:at])
            position = handlers[source[at]](self, at)
            found = search(source, position)
        pieces.append(source[position:])
        self._match(0)

    def nested(self, text: str) -> str:
        """The text of a value in a tag, which may be Markdown."""
        return plain(text, self.document).text

    def _newline(self, at: int) -> int:
        pieces = self.pieces
        hard = False
        if pieces:
            last = pieces[-1]
            pieces[-1] = last.rstrip(" \t")
            hard = last.endswith("  ")
        pieces.append("\n" if hard else self.line_break)
        return self.blanks(at + 1)

    def _run(self, at: int) -> int:
        source = self.source
        found = _RUNS[source[at]].match(source, at)
        end = found.end() if found else at + 1
        text = source[at:end]
        after = source[end] if end < len(source) else " "
        if run := emphasis.run(len(self.pieces), text, source[at - 1] if at else " ", after):
            self._runs.append(run)
        self.pieces.append(text)
        return end

    def _match(self, first: int) -> None:
        runs = self._runs[first:]
        if not runs:
            return
        del self._runs[first:]
        emphasis.match(runs)
        for run in runs:
            self.pieces[run.index] = run.character * run.left

    def _backticks(self, at: int) -> int:
        source = self.source
        end = source.find("`", at + 1)
        if end > at + 1 and not source.startswith("`", end + 1):  # the usual case
            return self._code_span(at + 1, end, 1)
        if self._code is None:
            self._code = {}
            for run in reversed(list(_RUNS["`"].finditer(source))):
                self._code.setdefault(run.end() - run.start(), []).append(run.start())
        length = 1
        while source.startswith("`", at + length):
            length += 1
        ends = self._code.get(length, [])
        while ends and ends[-1] < at + length:
            ends.pop()
        if not ends:
            self.pieces.append(source[at : at + length])
            return at + length
        return self._code_span(at + length, ends[-1], length)

    def _code_span(self, start: int, end: int, length: int) -> int:
        text = self.source[start:end]
        if "\n" in text:
            text = text.replace("\n", " ")
        if text[:1] == text[-1:] == " " and text.strip(" "):
            text = text[1:-1]
        self.pieces.append(text)
        return end + length

    def _escape(self, at: int) -> int:
        source = self.source
        following = source[at + 1 : at + 2]
        if following in ("(", "[", "b", "\\") and (end := math.formula(source, at)):
            self.add_code(source[at:end])
            return end
        if following == "\n":
            self.pieces.append("\n")
            return self.blanks(at + 2)
        if following in _ESCAPABLE:
            self.pieces.append(following)
            return self._run(at + 2) if source.startswith("__", at + 1) else at + 2
        self.pieces.append("\\")
        return at + 1

    def _entity(self, at: int) -> int:
        found = _ENTITY.match(self.source, at)
        if not found or (found[1] and f"{found[1]};" not in html5):
            self.pieces.append("&")
            return at + 1
        text = unescape(found[0])
        self.pieces.append(" " if text == "\xa0" else text.replace("\0", "\ufffd"))
        return found.end()

    def _opening(self, at: int) -> int:
        source = self.source
        if source.startswith("!", at + 1) and (found := directives.bracket(source, at)):
            return self.add(found[0], at, found[1])
        return self._open(at, "[")

    def _image(self, at: int) -> int:
        return self._open(at, "![")

    def _open(self, at: int, text: str) -> int:
        self._brackets.append((len(self.pieces), at + len(text), len(self._runs)))
        self.pieces.append(text)
        return at + len(text)

    def _closing(self, at: int) -> int:
        if not self._brackets:
            self.pieces.append("]")
            return at + 1
        piece, start, first = self._brackets.pop()
        is_image = self.pieces[piece] == "!["
        is_inactive = len(self._brackets) < self._inactive
        self._inactive = min(self._inactive, len(self._brackets))
        found = None if is_inactive and not is_image else self._link_end(start, at)
        if found is None:
            self.pieces.append("]")
            return at + 1
        end, target = found
        self._match(first)
        self.pieces[piece] = APART if is_image else ""
        if is_image:
            self.pieces.append(APART)
        else:
            self._inactive = len(self._brackets)
            if target:
                self.mark(piece, target)
        return end

    def _link_end(self, start: int, at: int) -> tuple[int, str] | None:
        """Where a link ends, and its target, which is empty if it has none."""
        source = self.source
        following, references = source[at + 1 : at + 2], self.document.references
        if following == "(" and (found := links.target(source, at + 1)):
            return found
        shortcut = at + 1
        if following == "[" and references and (label := links.label(source, at + 1)):
            if label[0].strip():
                target = references.get(links.normal(label[0]))
                return None if target is None else (label[1], target)
            shortcut = label[1]
        if references and at - start < 1000 and (target := references.get(links.normal(source[start:at]))) is not None:
            return shortcut, target
        if following == "{" and source[at + 2 : at + 3] in ".#" and (block := attributes.block(source, at + 1)):
            return block[1], ""
        return None

    def _extension(self, at: int) -> int:
        source = self.source
        end = extensions.read(self, at)
        if end is None:
            run = _RUNS[source[at]].match(source, at) if source[at] in ":$" else None
            end = run.end() if run else at + 1
            self.pieces.append(source[at:end])
        return end

    def _tag(self, at: int) -> int:
        end = tags.read(self, at)
        if end is None:
            self.pieces.append("<")
            return at + 1
        return end

    _READ: ClassVar[dict[str, Callable[[_Paragraph, int], int]]] = {
        "\n": _newline,
        "*": _run,
        "_": _run,
        "~": _run,
        "`": _backticks,
        "\\": _escape,
        "&": _entity,
        "[": _opening,
        "!": _image,
        "]": _closing,
        "<": _tag,
        ":": _extension,
        "{": _extension,
        "$": _extension,
    }
