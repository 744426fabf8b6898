"""Every architecture of transformers' masked-LM mapping does what docs/architectures.md says."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from launching import ROOT
from tiny import NAMES, QUICK
from walk import documents, walk

ROWS = {
    line.split("`")[1]: line
    for line in (ROOT / "docs" / "architectures.md").read_text("utf-8").splitlines()
    if line.startswith("| `")
}


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents of all walks; the corpus and the tokenizer made of them are cached beside them."""
    folder = tmp_path_factory.getbasetemp() / "architectures"
    folder.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        return documents(folder)


def test_the_page_has_every_architecture() -> None:
    assert sorted(ROWS) == NAMES


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
)
def test_architectures_do_what_the_page_says(name: str, source: Path, tmp_path: Path) -> None:
    """Plan, three steps, resume, export, reload; a row that differs is written by docs/make_architectures.py."""
    assert walk(name, source, tmp_path).row() == ROWS.get(name)
