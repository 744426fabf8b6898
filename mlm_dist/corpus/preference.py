"""Order of preference: which of several duplicates stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

# A record's id is its file and its position in it, such as pages.jsonl@1024, texts.json#12 or rows.parquet#3.25.
_RECORD = r"^(?P<path>(?s:.*))[@#](?P<first>\d{1,18})(?:\.(?P<second>\d{1,18}))?$"


def by_preference(ids: Any, chars: np.ndarray, keys: np.ndarray, prefer: str | Sequence[str]) -> np.ndarray:
    """[n] the indices of documents, those to keep first.

    The order depends on neither shards nor processes: documents that are preferred equally are in the order of their
    files' paths, and records of one file in the order of the file.

    Args:
        ids: [n] an Arrow array of the documents' ids.
        chars: [n] characters of each document.
        keys: [n, 16] bytes, the documents' `text_key`, which decides between equal ids.
        prefer: first, longest, or patterns as in a .gitignore, which are matched against ids, with or without the
            position of a record. Documents that match an earlier pattern come first, those that match none come last.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    record = pc.extract_regex(ids, _RECORD)
    columns = {
        "path": pc.coalesce(pc.struct_field(record, "path"), ids),
        **{name: pc.cast(_or_zero(pc.struct_field(record, name)), pa.int64()) for name in ("first", "second")},
        **{f"key{i}": half for i, half in enumerate(np.ascontiguousarray(keys).view(">u8").astype(np.uint64).T)},
    }
    if prefer == "longest":
        columns = {"chars": -chars} | columns
    elif not isinstance(prefer, str):
        columns = {"rank": _ranks(ids, columns["path"], prefer)} | columns
    table = pa.table(columns)
    order: np.ndarray = pc.sort_indices(table, [(name, "ascending") for name in columns]).to_numpy()
    return order.astype(np.int64)


def _or_zero(column: Any) -> Any:
    """A column of digits, with 0 for what is missing."""
    import pyarrow.compute as pc

    return pc.coalesce(pc.if_else(pc.equal(column, ""), None, column), "0")


def _ranks(ids: Any, paths: Any, patterns: Sequence[str]) -> np.ndarray:
    """[n] the first pattern that each document matches; the number of patterns if it matches none."""
    from pathspec import GitIgnoreSpec

    ranks = np.full(len(ids), len(patterns))
    specs = [GitIgnoreSpec.from_lines([pattern]) for pattern in patterns]
    for i, names in enumerate(zip(ids.to_pylist(), paths.to_pylist(), strict=True)):
        for rank, spec in enumerate(specs):
            # The library takes a line break for the end of a name.
            if any(spec.match_file(name.replace("\n", " ")) for name in names):
                ranks[i] = rank
                break
    return ranks
