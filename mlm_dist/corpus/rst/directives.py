"""Directives of docutils, Sphinx and its extensions as nodes of the document tree."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from docutils import nodes, utils
from docutils.statemachine import StringList

from mlm_dist.corpus.html.cleaner import clean as clean_html
from mlm_dist.corpus.rst import roles, tables
from mlm_dist.corpus.rst.code import code
from mlm_dist.corpus.rst.directive import Directive, divided
from mlm_dist.corpus.rst.directive_names import ADMONITIONS, CHANGES, CODE, HIDDEN, OBJECTS, UNTITLED

MAX_PATH = 300  # characters
INCLUDED = "rst includes another file, which is not read"

_WORDS_OF_CODE = re.compile(r"(?:.*[-_:])?(?:code|literal|doctest|console|prompt|shell|graph|diagram)(?:[-_:].*)?")
_SIGNATURE = re.compile(r"[\w.:@-]+|[^`]*\w\(.*", re.DOTALL)
_PATH = re.compile(r"\S+[/.]\S*\.\w+|\S+/\S*|\w+://\S+")
_NAME_OF_RULE = re.compile(r"`(?:[^`:\n]*:)?([^`\n]+)`")
_CODE_POINT = re.compile(r"(?:0x|x|\\x|U\+?|\\u)([0-9a-f]+)|&#x([0-9a-f]+);|(\d+)", re.IGNORECASE)


def nodes_of(name: str, block: StringList, offset: int, state: Any) -> list[nodes.Node]:
    """What a reader sees of a directive.

    Args:
        name: Its name, with its domain if it was given.
        block: Its lines, of which the first is what follows its name.
        offset: Where the block begins.
        state: The state of the parser.
    """
    domain, _, short = name.lower().rpartition(":")
    directive = divided(short, block, offset, state)
    return _handler(domain, short)(directive)


def _handler(domain: str, name: str) -> Callable[[Directive], list[nodes.Node]]:
    """What reads a directive of a name."""
    kinds = (
        (domain in ("c", "cpp", "js", "py", "rst") and name not in UNTITLED, _object),
        (name in _HANDLERS, _HANDLERS.get(name, _other)),
        (name in HIDDEN, lambda directive: directive.title(directive.options.get("caption"))),
        (name in ADMONITIONS, lambda one: [*one.title(ADMONITIONS[name]), *one.blocks(one.whole())]),
        (name in CHANGES, _change),
        (name in CODE or _WORDS_OF_CODE.fullmatch(name), _code),
        (name in UNTITLED, lambda directive: directive.blocks(directive.body)),
        (name in OBJECTS or name.startswith("auto"), _object),
    )
    return next((handler for is_kind, handler in kinds if is_kind), _other)


def _other(directive: Directive) -> list[nodes.Node]:
    """An unknown directive: its argument is a title, unless it is a path."""
    argument = directive.argument
    titles = [argument, *(directive.options.get(name) for name in ("title", "subtitle", "caption", "header", "alt"))]
    if len(argument) <= MAX_PATH and _PATH.fullmatch(argument):
        del titles[0]
    elif _SIGNATURE.fullmatch(argument):
        return [*_object(directive)]
    return [node for title in titles for node in directive.title(title)] + directive.blocks(directive.body)


def _object(directive: Directive) -> list[nodes.Node]:
    """The description of a function, class, option and the like, with its signatures to the letter."""
    lines = "\n".join(directive.head).replace("\\\n", " ").split("\n")
    options = directive.options
    end = (f": {options['type']}" if options.get("type") else "") + (
        f" = {options['value']}" if options.get("value") else ""
    )
    signatures = [" ".join(line.split()).replace("\\", "") + end for line in lines if line.strip()]
    block = nodes.line_block()
    block.extend(nodes.line("", "", nodes.Text(signature)) for signature in signatures)
    default = f"Default: {options['default']}" if options.get("default") else ""
    return [block, *directive.title(default), *directive.blocks(directive.body)]


def _change(directive: Directive) -> list[nodes.Node]:
    """A version in which something changed."""
    label, arguments = CHANGES[directive.name]
    words = directive.argument.split(None, arguments)
    versions, text = words[:arguments], " ".join(words[arguments:])
    label = label.format(*versions, *[""] * (arguments - len(versions)))
    if not text and not directive.body:
        return directive.title(f"{label}.")
    return [
        nodes.paragraph("", "", nodes.Text(f"{label}: "), *directive.inline(text)),
        *directive.blocks(directive.body),
    ]


def _code(directive: Directive) -> list[nodes.Node]:
    """Code to the letter; its language is not shown. Lines directly below the language are code, too."""
    lines = directive.head[1:] + directive.body if len(directive.head) > 1 else directive.body
    content = [code(lines, directive.state.inliner.raw_lines)] if len(lines) else []
    return [*directive.title(directive.options.get("caption")), *content]


def _math(directive: Directive) -> list[nodes.Node]:
    lines = directive.whole()
    return [code(lines, directive.state.inliner.raw_lines)] if len(lines) else []


def _parsed_literal(directive: Directive) -> list[nodes.Node]:
    text = "\n".join(directive.whole())
    return [nodes.literal_block(text, "", *directive.inline(text))]


def _raw(directive: Directive) -> list[nodes.Node]:
    """The text of HTML; what is only for other writers is not shown."""
    if "html" not in directive.argument.lower().split():
        return []
    return [nodes.literal_block("", clean_html("\n".join(directive.body)).text)]


def _production_list(directive: Directive) -> list[nodes.Node]:
    """Rules of a grammar, with the names of others between backquotes."""
    lines = directive.head[1:] + directive.body if len(directive.head) > 1 else directive.body
    text = _NAME_OF_RULE.sub(r"\1", "\n".join(lines))
    return [nodes.literal_block(text, text)]


def _audit_event(directive: Directive) -> list[nodes.Node]:
    """An event, as Python's documentation shows it."""
    name, names, *_ = [*directive.argument.split(), "", ""]
    arguments = [one for one in names.split(",") if one]
    end = f" with argument{'s' * (len(arguments) > 1)} {', '.join(arguments)}" if arguments else ""
    return directive.blocks(directive.body) or directive.title(f"Raises an auditing event {name}{end}.")


def _include(directive: Directive) -> list[nodes.Node]:
    directive.state.inliner.notes.add(INCLUDED)
    return directive.title(directive.options.get("caption"))


def _image(directive: Directive) -> list[nodes.Node]:
    alt = directive.options.get("alt", "")
    return [nodes.image("", alt=alt), *directive.blocks(directive.body)]


def _admonition(directive: Directive) -> list[nodes.Node]:
    return directive.title(directive.argument) + directive.blocks(directive.body)


def _availability(directive: Directive) -> list[nodes.Node]:
    return directive.title(f"Availability: {directive.argument}") + directive.blocks(directive.body)


def _glossary(directive: Directive) -> list[nodes.Node]:
    """Terms, of which several may share a definition."""
    found: list[nodes.Node] = []
    lines = directive.body
    i = 0
    while i < len(lines):
        start = i
        is_term = not lines[i][:1].isspace()
        while i < len(lines) and (not lines[i].strip() or lines[i][:1].isspace() != is_term):
            i += 1
            if is_term:
                break
        if is_term and lines[start].strip() and not lines[start].startswith(".."):
            found.append(nodes.rubric("", "", *directive.inline(lines[start].partition(" : ")[0])))
        elif not is_term:
            block = lines[start:i]
            block.trim_left(min(len(line) - len(line.lstrip()) for line in block if line.strip()))
            item = nodes.definition()
            item.extend(directive.blocks(block))
            found.append(item)
    return found


def _replace(directive: Directive) -> list[nodes.Node]:
    return directive.inline(" ".join(directive.whole()).strip())


def _unicode(directive: Directive) -> list[nodes.Node]:
    """Characters by their code points, and text."""
    texts = []
    for word in re.split(r"(?:^|\s+)\.\.(?:\s|$)", directive.argument)[0].split():
        number = _CODE_POINT.fullmatch(word)
        value = int(number[1] or number[2], 16) if number and not number[3] else int(number[3]) if number else 0
        texts.append(chr(value) if number and value < 0x110000 and not 0xD800 <= value < 0xE000 else word)
    return [nodes.Text("".join(texts))]


def _role(directive: Directive) -> list[nodes.Node]:
    found = re.fullmatch(r"([\w.+:-]+)(?:\s*\(\s*([\w.+:-]+)\s*\))?\s*", directive.argument)
    if found:
        base = (found[2] or "").lower()
        if base == "raw" and "html" in directive.options.get("format", "").lower().split():
            base = roles.HTML
        if base != found[1].lower():
            directive.state.inliner.custom_roles[found[1].lower()] = base or "inline"
    return []


def _default_role(directive: Directive) -> list[nodes.Node]:
    directive.state.inliner.default_role = directive.argument
    return []


def _title(directive: Directive) -> list[nodes.Node]:
    directive.state.inliner.title = utils.unescape(directive.argument) or None
    return []


def _list_table(directive: Directive) -> list[nodes.Node]:
    return directive.title(directive.argument) + tables.of_list(directive.blocks(directive.body))


def _csv_table(directive: Directive) -> list[nodes.Node]:
    if "file" in directive.options or "url" in directive.options:
        directive.state.inliner.notes.add(INCLUDED)
    rows = tables.csv_rows(list(directive.body), directive.options)
    if rows is None:
        return directive.title(directive.argument) + _math(directive)
    cells = [[directive.blocks(StringList(cell.split("\n"), "")) for cell in row] for row in rows]
    return [*directive.title(directive.argument), tables.table(cells)]


_HANDLERS: dict[str, Callable[[Directive], list[nodes.Node]]] = {
    "admonition": _admonition,
    "audit-event": _audit_event,
    "availability": _availability,
    "csv-table": _csv_table,
    "date": lambda directive: [],
    "default-role": _default_role,
    "figure": _image,
    "glossary": _glossary,
    "image": _image,
    "include": _include,
    "list-table": _list_table,
    "literalinclude": _include,
    "math": _math,
    "parsed-literal": _parsed_literal,
    "productionlist": _production_list,
    "raw": _raw,
    "replace": _replace,
    "role": _role,
    "title": _title,
    "unicode": _unicode,
}
