"""Tables that directives hold: lists of lists, and comma-separated values."""

from __future__ import annotations

import csv
from collections.abc import Sequence

from docutils import nodes


def table(rows: Sequence[Sequence[Sequence[nodes.Node]]]) -> nodes.table:
    """A table of cells, each the nodes of its blocks."""
    body = nodes.tbody()
    for cells in rows:
        body += nodes.row("", *(nodes.entry("", *cell) for cell in cells))
    return nodes.table("", nodes.tgroup("", body))


def of_list(content: list[nodes.Node]) -> list[nodes.Node]:
    """The table that a list of lists means; other content stays as it is."""
    found: list[nodes.Node] = []
    for node in content:
        if isinstance(node, nodes.bullet_list):
            found.append(table([_cells(item) for item in node]))
        else:
            found.append(node)
    return found


def _cells(item: nodes.Element) -> list[list[nodes.Node]]:
    cells: list[list[nodes.Node]] = []
    for node in item:
        if isinstance(node, nodes.bullet_list):
            cells += [list(cell.children) for cell in node]
        else:
            cells.append([node])
    return cells


def csv_rows(lines: list[str], options: dict[str, str]) -> list[list[str]] | None:
    """The rows of comma-separated values, with the header of the options; None if they cannot be read."""
    delimiter = options.get("delim", ",").strip()
    delimiter = {"tab": "\t", "space": " "}.get(delimiter, delimiter)
    escape = options.get("escape") or None
    try:
        reader = csv.reader(
            [f"{line}\n" for line in lines],
            delimiter=delimiter,
            quotechar=options.get("quote", '"').strip() or '"',
            escapechar=escape,
            doublequote=escape is None,
            skipinitialspace="keepspace" not in options,
        )
        rows = [[cell.strip("\n") for cell in row] for row in reader if row]
        header = options.get("header")
        return [*(csv_rows([header], {**options, "header": ""}) or []), *rows] if header else rows
    except (csv.Error, TypeError):
        return None
