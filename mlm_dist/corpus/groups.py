"""Groups of documents, for people: whether near-duplicates are searched, and which documents have no group."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import document_files, documents
from mlm_dist.corpus.split_labels import NO_GROUP

NAMED = 3  # documents without a group that the log names

logger = logging.getLogger(__name__)


def log(config: CorpusConfig, paths: Sequence[Path], figures: Sequence[Mapping[str, Any]]) -> None:
    """Log that near-duplicates may be on both sides of the split, and how many documents have no group.

    Args:
        config: The settings.
        paths: The shards, as `documents.write` wrote them.
        figures: What became of the documents of each shard.
    """
    if config.holds_out and not documents.needs_signatures(config):
        logger.info(
            "corpus.keep_together exact: near-duplicates are not searched; only duplicates and documents of a group "
            "are on one side of the split"
        )
    counts = [one["notes"].get(documents.UNGROUPED, 0) for one in figures]
    if sum(counts):
        some = (path for path, count in zip(paths, counts, strict=True) if count)
        logger.info(
            "corpus.group: %s documents have no group, such as %s; each is split as if it were a group of its own",
            f"{sum(counts):,}",
            ", ".join(islice(_ids(some), NAMED)),
        )


def _ids(paths: Iterator[Path]) -> Iterator[str]:
    """The ids of documents without a group."""
    for path in paths:
        for some in document_files.ids(path, document_files.labels(path).group == NO_GROUP):
            yield from some.to_pylist()
