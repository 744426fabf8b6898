"""The kept documents as a file for other tools, see `corpus.export`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mlm_dist.corpus.document_files import groups
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_whole


def write(documents: Iterator[tuple[str, str, str]], path: Path) -> None:
    """Write documents to a file that can be a corpus.source again.

    A .json file is a list of strings; a .jsonl file has one object per line and a .parquet file has columns, both with
    id, split and text.

    Args:
        documents: (id, split, text) of each.
        path: The file; its suffix selects the format.

    Raises:
        CorpusError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def as_parquet(temporary: Path) -> None:
        schema = pa.schema({"id": pa.string(), "split": pa.string(), "text": pa.large_string()})
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in groups(documents):
                writer.write_table(pa.table(list(zip(*group, strict=True)), schema=schema))

    def as_lines(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            for id_, split, text in documents:
                file.write(json.dumps({"id": id_, "split": split, "text": text}, ensure_ascii=False) + "\n")

    def as_list(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("[")
            for i, (_, _, text) in enumerate(documents):
                file.write((",\n" if i else "\n") + json.dumps(text, ensure_ascii=False))
            file.write("\n]\n")

    write_content = {".json": as_list, ".jsonl": as_lines, ".parquet": as_parquet}[path.suffix.lower()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write_content)
    except OSError as error:
        raise CorpusError(f"corpus.export: cannot write {path} ({error.strerror}); name another file") from None
