"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlm_dist.corpus.readers import tables
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader
from mlm_dist.system_errors import passes

BUFFER_BYTES = 1 << 18


class ParquetReader(RecordsReader):
    """Reads the columns of `corpus.text`; a part is a range of row groups."""

    def count_units(self, path: Path) -> int | None:
        """The number of row groups; 0 if the file cannot be read, which `read` reports."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                return int(file.num_row_groups)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and passes(error):
                raise
            return 0

    def parts(self, name: str, size: int, units: int | None) -> Iterator[tuple[Part, int]]:
        """See `Reader`."""
        if not units:
            yield Part(name, 0, 0), size
        for i in range(units or 0):
            yield Part(name, i, i + 1), max(size // (units or 1), 1)

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES)
            columns = tables.columns(file.schema_arrow.names, settings)
            if columns is None:
                yield Dropped(part.path, tables.no_text(settings))
                return
            for group in range(part.start, part.stop):
                first = 0
                for batch in file.iter_batches(_batch_rows(file, group, columns), row_groups=[group], columns=columns):
                    yield from tables.documents(batch, settings, f"{part.path}#{group}.", first)
                    first += batch.num_rows
        except pa.ArrowException:
            yield Dropped(part.path, "not a parquet file")

    def fields(self, path: str, settings: ReadSettings) -> Iterator[Any]:
        """See `RecordsReader`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            yield tables.fields(pq.read_schema(path))
        except pa.ArrowException:
            return  # `read` reports it


def _batch_rows(file: Any, group: int, columns: list[str]) -> int:
    """How many rows of a group to decode at a time, by the average size of what is read of a row."""
    metadata = file.metadata.row_group(group)
    all_columns = (metadata.column(i) for i in range(metadata.num_columns))
    size = sum(
        column.total_uncompressed_size
        for column in all_columns
        if any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in columns)
    )
    return int(min(max(tables.MAX_BYTES * metadata.num_rows // max(size, 1), 1), tables.MAX_ROWS))
