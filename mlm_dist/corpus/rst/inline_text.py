"""The nodes within a reStructuredText paragraph as plain text."""

from __future__ import annotations

from typing import Any

from docutils import nodes

from mlm_dist.corpus.marks import Mark, Marked, located, num_solid
from mlm_dist.corpus.plain_text import APART, one_line, separated

MAX_SUBSTITUTION, MAX_SUBSTITUTIONS = 10_000, 1_000_000  # characters of one, and of all in a document
TOO_MUCH = "rst substitutions too long, kept in part as is"


class InlineText:
    """The text of nodes within paragraphs.

    Args:
        document: The document, which defines substitutions and labels.
        notes: Gets what was unusual.
    """

    def __init__(self, document: nodes.document, notes: set[str]) -> None:
        self._notes = notes
        self._substitutions: dict[str, Any] = dict(document.substitution_defs)
        self._substituted = 0  # characters
        self._names = document.substitution_names
        self._headings = _headings(document)
        self._targets = _targets(document)
        self._num_solid = 0  # characters of a paragraph so far, without white space
        self._links: list[Mark] = []  # of a paragraph; their offsets count such characters

    def line(self, node: Any) -> Marked:
        """The text of a node on one line, with its links."""
        self._num_solid, self._links = 0, []
        text = one_line(separated(self.text(node)))
        return located(self._links, text)

    def text(self, node: Any, names: tuple[str, ...] = ()) -> str:
        """The text of a node within a paragraph.

        Args:
            node: The node.
            names: The substitutions around it.
        """
        first = self._num_solid
        leaf = self._leaf(node, names)
        if leaf is not None:
            self._num_solid = first + num_solid(leaf.replace(APART, ""))
            text = leaf
        else:
            parts: list[str] = []
            for child in node.children:
                if isinstance(child, nodes.superscript) and parts and parts[-1][-1:].isalnum():
                    parts.append("^")  # 2^31 is not 231
                    self._num_solid += 1
                parts.append(self.text(child, names))
            text = "".join(parts)
        if isinstance(node, nodes.reference | nodes.inline) and (target := self._target(node)):
            self._links.append((first, self._num_solid, target))
        return text

    def _leaf(self, node: Any, names: tuple[str, ...]) -> str | None:
        """The text of a node that is not that of its children; None for other nodes."""
        if isinstance(node, nodes.Text):
            return str(node.astext())
        if isinstance(node, nodes.image):
            return f"{APART}{node['alt']}{APART}" if node.get("alt") else ""
        if isinstance(node, nodes.substitution_reference):
            return self._substitution(node.astext(), names)
        if isinstance(node, nodes.footnote_reference | nodes.citation_reference):
            return f"[{node.astext()}]"
        if isinstance(node, nodes.inline) and "refname" in node:
            return self._headings.get(node["refname"]) or str(node.astext())
        return None

    def _target(self, node: Any) -> str:
        """Where a link leads, as written; empty for other nodes."""
        return str(node.get("refuri") or self._targets.get(node.get("refname"), ""))

    def _substitution(self, name: str, names: tuple[str, ...]) -> str:
        """The text of a substitution; its name between bars if it is not defined, circular or too long."""
        key = name if name in self._substitutions else self._names.get(nodes.fully_normalize_name(name), name)
        found = self._substitutions.get(key)
        if found is None or key in names or len(names) > 20:
            return f"|{name}|"
        if not isinstance(found, str):
            found = self.text(found, (*names, key))
            self._substitutions[key] = found
        self._substituted += len(found)
        if len(found) > MAX_SUBSTITUTION or self._substituted > MAX_SUBSTITUTIONS:
            self._notes.add(TOO_MUCH)
            return f"|{name}|"
        return found


def _headings(document: nodes.document) -> dict[str, str]:
    """{label: the heading that follows it}."""
    found: dict[str, str] = {}
    labels: list[str] = []
    parent = None
    for node in document.findall(nodes.Element):
        if isinstance(node, nodes.target) and not node.children:
            if node.parent is not parent:
                labels, parent = [], node.parent
            labels += node["names"]
        elif labels and not isinstance(node, nodes.comment):
            if isinstance(node, nodes.rubric) and node.get("title") and node.parent is parent:
                found |= dict.fromkeys(labels, node.astext())
            labels, parent = [], None
    return found


def _targets(document: nodes.document) -> dict[str, str]:
    """{name of a link: its target}, of those that are defined apart from the links."""
    found: dict[str, str] = {}
    for node in document.findall(nodes.target):
        if node.get("refuri"):
            for name in node["names"]:
                found.setdefault(name, node["refuri"])
    return found
