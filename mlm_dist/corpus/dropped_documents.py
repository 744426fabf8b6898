"""Documents that are not in a corpus: all of them in a file, and the first of each reason in its manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.corpus import document_files, selection
from mlm_dist.corpus.selection import Selection
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.files import write_whole

MOST_LISTED = 100  # per reason, in the manifest
GROUP = 100_000  # documents in a row group of the file


class DroppedDocument(NamedTuple):
    """A document, file or folder that is not in the corpus.

    Args:
        id: Its id, or its path.
        reason: Why.
        original: The id of the document that is kept in the place of a duplicate or near-duplicate; else None.
    """

    id: str
    reason: str
    original: str | None = None


def find(
    store: ShardStore, sources: Sequence[SourceFiles], keys: Sequence[str], chosen: Selection
) -> Iterator[DroppedDocument]:
    """All that is dropped: by the sources, by the shards, and as duplicates.

    Args:
        store: The corpus in preparation.
        sources: The files of each source.
        keys: Keys of the documents of all shards.
        chosen: The selection.
    """
    for source in sources:
        for reason, paths in source.dropped.items():
            # As in the ids of documents, a name that is not UTF-8 has no lone surrogates.
            names = (path.encode("utf-8", "backslashreplace").decode("utf-8") for path in paths)
            yield from (DroppedDocument(source.prefix + name, reason) for name in names)
    for key in keys:
        yield from (DroppedDocument(id_, reason) for id_, reason in store.dropped(key))
    sides = chosen.split([store.figures(key)["kept"] for key in keys])
    yield from _duplicates([*map(store.documents, keys)], sides, chosen)


def _duplicates(paths: Sequence[Path], sides: Sequence[np.ndarray], chosen: Selection) -> Iterator[DroppedDocument]:
    """The duplicates and near-duplicates of all shards."""
    import pyarrow as pa

    is_original = np.zeros(len(chosen.side), bool)
    for start, side in zip(_starts(sides), sides, strict=True):
        here = chosen.original[start : start + len(side)]
        is_original[here[side >= selection.DUPLICATE]] = True
    indices = np.flatnonzero(is_original)
    parts = zip(paths, np.split(is_original, _starts(sides)[1:]), strict=True)
    names = pa.chunked_array(
        [some for path, part in parts if part.any() for some in document_files.ids(path, part)], pa.string()
    )
    for path, start, side in zip(paths, _starts(sides), sides, strict=True):
        is_dropped = side >= selection.DUPLICATE
        if is_dropped.any():
            originals = names.take(np.searchsorted(indices, chosen.original[start : start + len(side)][is_dropped]))
            ids = pa.chunked_array([*document_files.ids(path, is_dropped)])
            for id_, code, original in zip(
                ids.to_pylist(), side[is_dropped].tolist(), originals.to_pylist(), strict=True
            ):
                yield DroppedDocument(id_, selection.REASONS[code], original)


def _starts(sides: Sequence[np.ndarray]) -> list[int]:
    ends: list[int] = np.cumsum([0, *map(len, sides)]).tolist()
    return ends[:-1]


class DroppedList:
    """The first documents of each reason among those that it iterates over.

    Args:
        documents: All dropped documents; they are yielded again.

    Attributes:
        ids: {reason: ids of the first `MOST_LISTED`}.
        duplicates: {id of a document that is kept: those of `ids` that are dropped in favour of it}.
    """

    def __init__(self, documents: Iterable[DroppedDocument]) -> None:
        self._documents = documents
        self.ids: dict[str, list[str]] = {}
        self.duplicates: dict[str, list[str]] = {}

    def __iter__(self) -> Iterator[DroppedDocument]:
        for document in self._documents:
            listed = self.ids.setdefault(document.reason, [])
            if len(listed) < MOST_LISTED:
                listed.append(document.id)
                if document.original is not None:
                    self.duplicates.setdefault(document.original, []).append(document.id)
            yield document


def write(path: Path, documents: Iterable[DroppedDocument]) -> DroppedList:
    """Write dropped documents to a parquet file with the columns id, reason and original, and return the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(dict.fromkeys(DroppedDocument._fields, pa.string()))
    found = DroppedList(documents)

    def fill(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="lz4") as writer:
            waiting: list[DroppedDocument] = []
            for document in found:
                waiting.append(document)
                if len(waiting) == GROUP:
                    writer.write_table(_table(waiting, schema))
                    waiting = []
            writer.write_table(_table(waiting, schema))

    write_whole(path, fill, durable=False)
    return found


def _table(documents: Sequence[DroppedDocument], schema: Any) -> Any:
    import pyarrow as pa

    columns = zip(*documents, strict=True) if documents else ([] for _ in schema)
    return pa.table([pa.array(column, pa.string()) for column in columns], schema=schema)
