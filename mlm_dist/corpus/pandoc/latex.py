"""LaTeX with commands and environments that pandoc does not know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

MAX_PASSES = 4  # an unknown command may be within another
MAX_NAMES = 500

_COMMAND = re.compile(r"\\([A-Za-z@]+)(\*?)")
_BEGIN = re.compile(r"\\begin\{([A-Za-z@]+\*?)\}")
# Their arguments are names, lengths and colors.
_WITHOUT_TEXT_NAMES = (
    "addbibresource addcontentsline addtocounter addtolength appendix arraystretch balance bibliography "
    "bibliographystyle bibstyle Cref cref centering citep citet cite citeauthor citeyear color clearpage "
    "counterwithin crefname def definecolor DeclareMathOperator DeclareUnicodeCharacter documentclass everymath "
    "fancyhead fancyfoot fancyhf floatstyle fontsize foreignlanguage geometry graphicspath hbadness hspace "
    "hyphenation hypersetup include includegraphics includeonly index input label lhead lfoot cfoot chead rhead "
    "rfoot let linespread listoffigures listoftables lstinputlisting lstset lstdefinestyle maketitle makeindex "
    "markboth markright newcolumntype newcommand newcounter newenvironment newgeometry newlength newtheorem "
    "nocite noindent onecolumn pagecolor pagenumbering pagestyle pdfbookmark printbibliography printindex "
    "raggedright raisebox ref refstepcounter renewcommand renewenvironment RequirePackage resizebox rotatebox "
    "rule scalebox selectfont setcounter setlength setmainfont setstretch sisetup stepcounter tableofcontents "
    "theoremstyle thispagestyle tikzset tikzstyle titleformat titlespacing twocolumn usetheme usecolortheme "
    "usefonttheme usepackage usetikzlibrary vfill vskip vspace hskip hfill"
)
_WITHOUT_TEXT = frozenset(_WITHOUT_TEXT_NAMES.split())
_DRAWINGS_NAMES = "axis circuitikz filecontents filecontents* picture pgfpicture tikzcd tikzpicture"
_DRAWINGS = frozenset(_DRAWINGS_NAMES.split())


def read(text: str, parse: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """The document tree of LaTeX.

    Commands that are unknown are defined as their arguments, and environments as their content, and the text is parsed
    again.

    Args:
        text: LaTeX.
        parse: Parses LaTeX, and leaves unknown commands as raw nodes.
    """
    definitions: dict[str, str] = {}
    for _ in range(MAX_PASSES):
        tree = parse("".join(definitions.values()) + text)
        more = dict(_definitions(tree))
        if not more.keys() - definitions.keys() or len(definitions) > MAX_NAMES:
            break
        definitions |= more
    return tree


def _definitions(tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, definition) of unknown commands and environments."""
    for source in _raw(tree["blocks"]):
        begin = _BEGIN.match(source)
        command = _COMMAND.match(source)
        if begin and begin[1] not in _DRAWINGS:
            yield begin[1], f"\\newenvironment{{{begin[1]}}}{{}}{{}}\n"
        elif not begin and command and command[1] not in _WITHOUT_TEXT and "{" in source[command.end() :]:
            optional, count = _arguments(source, command.end())
            shown = " ".join(f"#{i}" for i in range(1 + optional, 1 + optional + count))
            if 0 < count < 9:
                default = "[]" if optional else ""
                yield command[0], f"\\newcommand{{\\{command[1]}}}[{count + optional}]{default}{{{shown}}}\n"


def _arguments(source: str, at: int) -> tuple[int, int]:
    """Whether a command has an optional argument first, and its number of others."""
    optional = 0
    if source.startswith("[", at):
        optional, at = 1, source.find("]", at) + 1
    count = depth = 0
    while at < len(source) and (depth or source[at] == "{"):
        depth += {"{": 1, "}": -1}.get(source[at], 0)
        count += source[at] == "}" and depth == 0
        at += 2 if source[at] == "\\" else 1
    return optional, count


def _raw(tree: Any) -> Iterator[str]:
    """The LaTeX of all raw nodes."""
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            if node.get("t") in ("RawInline", "RawBlock"):
                yield node["c"][1]
            else:
                nodes.extend(node.values())
        elif isinstance(node, list):
            nodes.extend(node)
