"""Readers: each file format becomes documents.

`READERS` maps the suffix of a format to its class, see `protocol.DocumentReader` and `protocol.RecordsReader`. Files of
a folder with any other suffix are read as text, one document each, if `corpus.patterns` matches them.
"""

from __future__ import annotations

from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import compression, record_fields
from mlm_dist.corpus.readers.compression import content_name, content_suffix
from mlm_dist.corpus.readers.protocol import (
    Document,
    DocumentReader,
    Dropped,
    Part,
    Reader,
    ReadSettings,
    RecordsReader,
    record,
    too_large,
)
from mlm_dist.corpus.readers.text import TextReader
from mlm_dist.registry import Registry

READERS: Registry[type[Reader]] = Registry(
    "mlm_dist.readers",
    {
        ".arrow": "mlm_dist.corpus.readers.arrow:ArrowReader",
        ".csv": "mlm_dist.corpus.readers.comma_separated:CommaReader",
        ".docx": "mlm_dist.corpus.readers.office:DocxReader",
        ".epub": "mlm_dist.corpus.readers.office:EpubReader",
        ".feather": "mlm_dist.corpus.readers.arrow:ArrowReader",
        ".htm": "mlm_dist.corpus.readers.html:HtmlReader",
        ".html": "mlm_dist.corpus.readers.html:HtmlReader",
        ".ipynb": "mlm_dist.corpus.readers.notebook:NotebookReader",
        ".json": "mlm_dist.corpus.readers.json_file:JsonReader",
        ".jsonl": "mlm_dist.corpus.readers.json_lines:JsonLinesReader",
        ".ndjson": "mlm_dist.corpus.readers.json_lines:JsonLinesReader",
        ".odt": "mlm_dist.corpus.readers.office:OdtReader",
        ".parquet": "mlm_dist.corpus.readers.parquet:ParquetReader",
        ".pdf": "mlm_dist.corpus.readers.pdf:PdfReader",
        ".tsv": "mlm_dist.corpus.readers.comma_separated:TabReader",
        ".txt": "mlm_dist.corpus.readers.text_records:TextRecordsReader",
        ".xhtml": "mlm_dist.corpus.readers.html:HtmlReader",
    },
)

__all__ = [
    "READERS",
    "Document",
    "DocumentReader",
    "Dropped",
    "Part",
    "ReadSettings",
    "Reader",
    "RecordsReader",
    "compression",
    "is_readable",
    "reader_of",
    "record",
    "record_fields",
    "too_large",
]


def is_readable(name: str) -> bool:
    """Whether a file of a folder has a reader or a cleaner for its suffix."""
    suffix = content_suffix(name)
    return (suffix in READERS and READERS[suffix].in_folders) or cleaners.markup_of(content_name(name)) != "none"


def reader_of(name: str, *, records: bool) -> Reader:
    """The reader of a file, by the suffix of its content if it is compressed.

    Args:
        name: The file.
        records: Whether the file was named itself, rather than found in a folder.
    """
    suffix = content_suffix(name)
    if suffix in READERS:
        reader = READERS[suffix]()
        if records or reader.in_folders:
            return reader
    return TextReader()
