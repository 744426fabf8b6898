"""Order of preference: which of several duplicates stays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# A record's id is its file and its position in it, such as pages.jsonl@1024, texts.json#12 or rows.parquet#3.25.
_RECORD = r"^(?P<path>(?s:.*))[@#](?P<first>\d{1,18})(?:\.(?P<second>\d{1,18}))?$"


def by_preference(ids: Iterable[Any], chars: np.ndarray, keys: np.ndarray, prefer: str | Sequence[str]) -> np.ndarray:
    """[n] the indices of documents, those to keep first.

    The order depends on neither shards nor processes: documents that are preferred equally are in the order of their
    files' paths, and records of one file in the order of the file.

    Args:
        ids: Arrow arrays of the ids of [n] documents.
        chars: [n] characters of each document.
        keys: [n, 16] bytes, the documents' `text_key`, which decides between equal ids.
        prefer: first, longest, or patterns as in a .gitignore, which are matched against ids, with or without the
            position of a record. Documents that match an earlier pattern come first, those that match none come last.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    patterns = [] if isinstance(prefer, str) else prefer
    columns = _record_columns(ids, patterns, len(keys))
    if prefer == "longest":
        columns = {"chars": -chars} | columns
    columns |= {f"key{i}": half for i, half in enumerate(np.ascontiguousarray(keys).view(">u8").astype(np.uint64).T)}
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    order: np.ndarray = pc.sort_indices(table, [(name, "ascending") for name in columns]).to_numpy()
    return order.astype(np.int64)


def _record_columns(ids: Iterable[Any], patterns: Sequence[str], count: int) -> dict[str, np.ndarray]:
    """The rank of each document by the patterns, if there are any, and of its path, and its position in the file."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {"rank": np.empty(count, np.int32)} if patterns else {}
    columns |= {
        "path": np.empty(count, np.int32),
        "first": np.empty(count, np.int64),
        "second": np.empty(count, np.int64),
    }
    paths, start, num_paths = [pa.array([], pa.large_string())], 0, 0
    for block in ids:
        record, some = pc.extract_regex(block, _RECORD), slice(start, start + len(block))
        path = pc.coalesce(pc.struct_field(record, "path"), block)
        if patterns:
            columns["rank"][some] = _ranks(block, path, patterns)
        coded = path.dictionary_encode()
        columns["path"][some] = coded.indices.to_numpy() + num_paths
        for name in ("first", "second"):
            columns[name][some] = pc.cast(_or_zero(pc.struct_field(record, name)), pa.int64()).to_numpy()
        paths.append(coded.dictionary.cast(pa.large_string()))
        start, num_paths = start + len(block), num_paths + len(coded.dictionary)
    columns["path"] = _dense_ranks(pa.concat_arrays(paths))[columns["path"]]
    return columns


def _dense_ranks(values: Any) -> np.ndarray:
    """The position of each text among the distinct ones in their order."""
    import pyarrow.compute as pc

    ranks: np.ndarray = pc.rank(values, sort_keys="ascending", tiebreaker="dense").to_numpy()
    return ranks.astype(np.int32)


def _or_zero(column: Any) -> Any:
    """A column of digits, with 0 for what is missing."""
    import pyarrow.compute as pc

    return pc.coalesce(pc.if_else(pc.equal(column, ""), None, column), "0")


def _ranks(ids: Any, paths: Any, patterns: Sequence[str]) -> np.ndarray:
    """[n] the first pattern that each document matches; the number of patterns if it matches none."""
    from pathspec import GitIgnoreSpec

    ranks = np.full(len(ids), len(patterns), np.int32)
    specs = [GitIgnoreSpec.from_lines([pattern]) for pattern in patterns]
    for i, names in enumerate(zip(ids.to_pylist(), paths.to_pylist(), strict=True)):
        for rank, spec in enumerate(specs):
            # The library takes a line break for the end of a name.
            if any(spec.match_file(name.replace("\n", " ")) for name in names):
                ranks[i] = rank
                break
    return ranks
