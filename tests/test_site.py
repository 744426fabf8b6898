"""The documentation site: it builds without warnings or other hosts, and what its pages quote is in the code."""

from __future__ import annotations

import ast
import functools
import json
import re
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path

import launching
import pytest
import yaml
from launching import ROOT

DOCS = ROOT / "docs"


class _Fetched(HTMLParser):
    """Addresses that a browser fetches by itself; links are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.addresses.append(values.get("src") or "")
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(values.get("href") or "")


def test_site_builds_strictly_and_fetches_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    ended = launching.run(command, NO_MKDOCS_2_WARNING="1", DISABLE_MKDOCS_2_WARNING="true")
    assert ended.returncode == 0, ended.output
    pages = sorted((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        parser = _Fetched()
        parser.feed(page.read_text("utf-8"))
        other = [address for address in parser.addresses if re.match(r"(https?:)?//", address)]
        assert not other, f"{page.name} fetches {other}"
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text("utf-8")), sheet.name
    api = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    for name in ("mlm_dist.train.run", "mlm_dist.training.callbacks.Callback.on_step", "mlm_dist.errors.ConfigError"):
        assert f'id="{name}"' in api, name


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    named = re.findall(r"[\w/]+\.md", json.dumps(nav))
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


@functools.cache
def texts_of_code() -> tuple[str, ...]:
    """All texts of the package; what is formatted in is an ellipsis."""
    found = []
    for path in (ROOT / "mlm_dist").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%[-\w.,]*[sdrfg]", "…", node.value))
    return tuple(found)


def quoted() -> list[str]:
    """The messages of the page: the first column of its tables, and the warning of its introduction."""
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    return [*re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE), "…; attempt … of … in … s"]


@pytest.mark.parametrize("message", quoted())
def test_message_of_troubleshooting_is_in_the_code(message: str) -> None:
    pattern = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    assert any(pattern.search(text) for text in texts_of_code()), message


def test_speeds_of_the_sizes_page_are_those_of_the_benchmark() -> None:
    cases = json.loads((ROOT / "benchmarks/results/throughput.json").read_text("utf-8"))["cases"]
    page = (DOCS / "sizes.md").read_text("utf-8")
    for row in re.findall(r"^\| (?:2 layers|6 layers|BERT-base).*\|$", page, re.MULTILINE):
        name, speed, *times = (cell.strip() for cell in row.strip("|").split("|"))
        model = {"2": "2x128", "6": "6x384", "B": "bert-base"}[name[0]]
        (case,) = (case for case in cases if (case["model"], case["length"]) == (model, 128))
        measured = case["systems"]["mlm-dist"]["tokens_per_second"]["median"]
        assert float(speed.replace(",", "")) == pytest.approx(measured, rel=0.001), model
        for tokens, time in zip((1e6, 1e7, 1e8), times, strict=True):
            value, unit = time.split()
            assert float(value) == pytest.approx(tokens / measured / {"min": 60, "h": 3600}[unit], rel=0.05), time


def test_screen_of_a_terminal_keeps_what_was_drawn_last() -> None:
    make_pictures = runpy.run_path(str(DOCS / "make_pictures.py"))
    written = "one\r\nbar 10%\r\x1b[2Kbar 50%\r\n\x1b[1A\x1b[2K\x1b[32mbar 100%\x1b[0m\r\nlast\r\n\x1b[?25h\r\n"
    assert make_pictures["screen"](written) == ["one", "\x1b[32mbar 100%\x1b[0m", "last"]


def test_picture_of_a_terminal_names_no_other_host(tmp_path: Path) -> None:
    make_pictures = runpy.run_path(str(DOCS / "make_pictures.py"))
    make_pictures["picture"]("mlm-dist plan", ["\x1b[1mrows\x1b[0m 3,910"], tmp_path / "terminal.svg")
    svg = (tmp_path / "terminal.svg").read_text("utf-8")
    assert "3,910" in svg.replace("&#160;", " ")
    assert not re.findall(r"(?:src|href|url\()[=\"']*https?:", svg)
