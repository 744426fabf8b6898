"""The documents of a shard on disk: a parquet file, see `documents.write`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.signatures import SIGNATURE_TYPE
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


def ids(path: Path) -> list[str]:
    """The ids of a shard's documents."""
    import pyarrow.parquet as pq

    column: list[str] = pq.read_table(path, columns=["id"])["id"].to_pylist()
    return column


def labels(path: Path) -> SplitLabels:
    """The labels of a shard's documents."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["side", "group"])
    return SplitLabels(table["side"].to_numpy(), table["group"].to_numpy())


@dataclass(frozen=True)
class Measures:
    """What was measured of a shard's documents, if duplicates are searched.

    Args:
        ids: [n] a chunked Arrow array of their ids.
        keys: [n, 16] bytes, their `selection.text_key`.
        chars: [n] characters.
        signatures: [n, num_perm] their `signatures.signatures`; [n, 0] if near-duplicates are not searched.
    """

    ids: Any
    keys: np.ndarray
    chars: np.ndarray
    signatures: np.ndarray


def measures(path: Path) -> Measures:
    """What was measured of a shard's documents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow

        def column(name: str, kind: np.dtype[Any]) -> np.ndarray:
            if name not in schema.names:
                return np.empty((file.metadata.num_rows, 0), kind)
            width = schema.field(name).type.byte_width
            row_groups = (file.read_row_group(i, columns=[name])[name] for i in range(file.num_row_groups))
            values = _binary([array for group in row_groups for array in group.chunks], width)
            return values.view(kind).reshape(-1, width // kind.itemsize)

        return Measures(
            file.read(["id"])["id"].cast(pa.large_string()),
            column("key", np.dtype(np.uint8)),
            file.read(["chars"])["chars"].to_numpy(),
            column("signature", SIGNATURE_TYPE),
        )


def _binary(arrays: Sequence[Any], width: int) -> np.ndarray:
    """The bytes of Arrow arrays of binary values of `width` bytes, one after the other."""
    values = [np.frombuffer(one.buffers()[1], np.uint8)[one.offset * width :][: len(one) * width] for one in arrays]
    return np.concatenate([np.empty(0, np.uint8), *values])
