"""The documents of a shard on disk: a parquet file, see `documents.write`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import outline_column
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.split_labels import SplitLabels

GROUP_CHARS = 4_000_000  # characters of text in a row group, which is in memory as a whole


def groups(documents: Iterable[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Documents in groups of about `GROUP_CHARS` characters, for the row groups of a file.

    Args:
        documents: Tuples whose last item is the text.
    """
    group: list[tuple[Any, ...]] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document[-1])
        if size >= GROUP_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


def text_of_ids(input_ids: Sequence[int]) -> str:
    """The text that stands for a document of token ids when documents are compared."""
    return " ".join(map(str, input_ids))


def texts(path: Path, wanted: np.ndarray) -> Iterator[list[str]]:
    """The wanted texts of a shard in order, a few million characters at a time.

    Args:
        path: A file that `documents.write` wrote.
        wanted: [documents] booleans; row groups without a wanted document are not read.
    """
    for table, here in _row_groups(path, wanted, ["text"]):
        yield list(compress(table["text"].to_pylist(), here))


def contents(path: Path, wanted: np.ndarray) -> Iterator[list[tuple[str, str, np.ndarray | None]]]:
    """Id, text and, if it is tokenized already, token ids of the wanted documents of a shard, as in `texts`."""
    for table, here in _row_groups(path, wanted, ["id", "text", "input_ids"]):
        tokens = (one.values.to_numpy() if one.is_valid else None for one in table["input_ids"])
        rows = zip(table["id"].to_pylist(), table["text"].to_pylist(), tokens, strict=True)
        yield list(compress(rows, here))


def outlined(path: Path, wanted: np.ndarray) -> Iterator[list[tuple[str, str | np.ndarray, Outline]]]:
    """Id, text or, if it is tokenized already, token ids, and outline of the wanted documents, as in `texts`."""
    for table, here in _row_groups(path, wanted, ["id", "text", "outline", "input_ids"]):
        rows = table.filter(here)
        tokens = (one.values.to_numpy() if one.is_valid else None for one in rows["input_ids"])
        texts = [text if ids is None else ids for text, ids in zip(rows["text"].to_pylist(), tokens, strict=True)]
        yield list(zip(rows["id"].to_pylist(), texts, outline_column.decode(rows["outline"]), strict=True))


def _row_groups(path: Path, wanted: np.ndarray, columns: list[str]) -> Iterator[tuple[Any, np.ndarray]]:
    """Columns of each row group that has wanted documents, and which of its documents are wanted."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if wanted[first:last].any():
                yield file.read_row_group(group, columns=columns), wanted[first:last]
            first = last


def count(path: Path) -> int:
    """The number of a shard's documents."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)


def ids(path: Path, wanted: np.ndarray) -> Iterator[Any]:
    """The ids of the wanted documents of a shard in order, as Arrow arrays."""
    for table, here in _row_groups(path, wanted, ["id"]):
        yield from table["id"].filter(here).chunks


def values(path: Path, name: str, kind: np.dtype[Any]) -> Iterator[np.ndarray]:
    """A column of numbers, or of bytes of a fixed length, of a shard's documents: flat arrays, one after the other.

    Args:
        path: A file that `documents.write` wrote.
        name: The column.
        kind: The type of the numbers, or the one that the bytes are viewed as.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        size = file.schema_arrow.field(name).type.byte_width // kind.itemsize
        for group in range(file.num_row_groups):
            for array in file.read_row_group(group, columns=[name])[name].chunks:
                yield np.frombuffer(array.buffers()[1], kind)[array.offset * size :][: len(array) * size]


def labels(path: Path) -> SplitLabels:
    """The labels of a shard's documents."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["side", "group"])
    return SplitLabels(table["side"].to_numpy(), table["group"].to_numpy())
