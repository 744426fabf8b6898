"""What a source gives, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.config import SourceConfig
from mlm_dist.corpus import rows, shards, sources
from mlm_dist.corpus.readers import Document, Dropped
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.sources import SourceFiles

LIMIT = 1_000_000  # bytes of a document


def acquire(source: Path | str, cache: Path, **keys: Any) -> SourceFiles:
    """A source with some keys."""
    return sources.acquire(SourceConfig(source=str(source), **keys), cache / "cache")


def everything(source: SourceFiles, limit: int = LIMIT) -> list[Document | Dropped]:
    """All documents of a source of at most `limit` bytes each, and what is dropped."""
    return [found for shard in shards.shards(source) for found in shards.read(source, shard.parts, limit)]


def said(source: SourceFiles) -> list[str]:
    """The text of each document, or why it is dropped."""
    return [one.text if isinstance(one, Document) else one.reason for one in everything(source)]


def rows_of_file(path: Path, max_length: int) -> rows.RowTable:
    """The rows in a file that `rows.write` wrote."""
    table = rows.RowTable([path], rows.joined([rows.blocks_of(path)]), max_length, RowCounts())
    table.counts = RowCounts.of(*table.chunks(np.arange(len(table))))
    return table
