"""Arrow files: of both formats, file and stream; Feather is the file format."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from mlm_dist.corpus.readers import tables
from mlm_dist.corpus.readers.compression import open_binary
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader

MAGIC = b"ARROW1"  # begins a file of the file format


class ArrowReader(RecordsReader):
    """Reads the columns of `corpus.text`, batch by batch."""

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        import pyarrow as pa

        try:
            with _opened(path) as (schema, batches):
                columns = tables.columns(schema.names, settings)
                if columns is None:
                    yield Dropped(part.path, tables.no_text(settings))
                    return
                first = 0
                for batch in batches:
                    needed = batch.select(columns)
                    for start, piece in tables.pieces(needed):
                        yield from tables.documents(piece, settings, f"{part.path}#", first + start)
                    first += batch.num_rows
        except pa.ArrowException:
            yield Dropped(part.path, "not an Arrow file")

    def fields(self, path: str, settings: ReadSettings) -> Iterator[Any]:
        """See `RecordsReader`."""
        import pyarrow as pa

        try:
            with _opened(path) as (schema, _):
                yield tables.fields(schema)
        except pa.ArrowException:
            return  # `read` reports it


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema and the record batches of a file."""
    import pyarrow as pa

    with open_binary(path) as start:
        has_index = start.read(len(MAGIC)) == MAGIC
    with open_binary(path) as file:
        if not has_index:
            stream = pa.ipc.open_stream(file)
            yield stream.schema, iter(stream)
            return
    with pa.memory_map(path) as mapped:
        reader = pa.ipc.open_file(mapped)
        yield reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
