"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from making import made_up_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 30 made-up documents of different lengths, in two subfolders and three formats."""
    root = tmp_path / "documents"
    for i in range(30):
        path = root / ("guide" if i % 2 else "reference") / f"{i:02d}{('.md', '.rst', '.txt')[i % 3]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made_up_text(i, 60 + 40 * (i % 7)), "utf-8")
    return root
