"""Shards: pieces of work of similar size, each the parts of files that one rank reads."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlm_dist.corpus.readers import (
    Document,
    DocumentReader,
    Dropped,
    Part,
    ReadSettings,
    RecordsReader,
    compression,
    reader_of,
    record_fields,
)
from mlm_dist.corpus.readers.protocol import too_large
from mlm_dist.corpus.sources.source_files import SourceFiles, state
from mlm_dist.errors import CorpusError, reason
from mlm_dist.system_errors import passes

SMALL_SHARD, LARGE_SHARD, NUM_SHARDS = 1 << 19, 16 << 20, 64  # bytes, bytes, and where the larger size begins
MOST_SHARDS = 4096  # of a source; past them, shards grow


@dataclass(frozen=True)
class Shard:
    """Parts of files that one rank reads in order.

    Args:
        source: The files.
        parts: The parts.
        size: Their size in bytes.
    """

    source: SourceFiles
    parts: list[Part]
    size: int


def shards(source: SourceFiles) -> list[Shard]:
    """Divide the parts of all files among shards.

    A hash of a part's name gives its shard, and the number of shards is a power of two. So shards depend on the source
    alone, not on the number of processes, and a file that changes, comes or goes changes no other shard than its own.
    """
    parts = [
        part
        for name in source.files
        for part in reader_of(name, records=source.records).parts(name, source.states[name][0], source.units.get(name))
    ]
    total = sum(weight for _, weight in parts)
    count = 1
    while count < MOST_SHARDS and count * (SMALL_SHARD if count < NUM_SHARDS else LARGE_SHARD) < total:
        count *= 2
    bins: list[list[tuple[Part, int]]] = [[] for _ in range(count)]
    for part, weight in parts:
        name = f"{part.path}\0{part.start}".encode("utf-8", "surrogateescape")
        bins[int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") % count].append((part, weight))
    return [Shard(source, [part for part, _ in one], sum(weight for _, weight in one)) for one in bins if one]


def read(source: SourceFiles, parts: Iterable[Part], max_bytes: int) -> Iterator[Document | Dropped]:
    """All documents of some parts, in order; those of more than `max_bytes` bytes are dropped.

    Raises:
        CorpusError: A file of many documents has changed since it was listed. It cannot be dropped, because other ranks
            may have read other parts of it.
    """
    root = str(source.root)
    settings = source.read_settings(max_bytes)
    for part in parts:
        path = os.path.join(root, part.path)
        reader = reader_of(part.path, records=source.records)
        has_records = isinstance(reader, RecordsReader)
        if has_records:
            _refuse_changed(source, part.path)
        try:
            if isinstance(reader, RecordsReader):
                side = record_fields.side_of_path(part.path) if source.has_splits else None
                for one in reader.read(path, part, settings):
                    if side is not None and isinstance(one, Document) and one.side is None:
                        yield dataclasses.replace(one, side=side)
                    else:
                        yield one
            elif isinstance(reader, DocumentReader):
                yield _read_document(reader, path, part.path, source.files[part.path], settings)
        except OSError as error:
            if passes(error):
                raise  # the file can be read, but not by this process now
            yield Dropped(part.path, f"unreadable ({error.strerror or reason(error)})")
        if has_records:
            _refuse_changed(source, part.path)


def _read_document(
    reader: DocumentReader, path: str, name: str, sha256: str, settings: ReadSettings
) -> Document | Dropped:
    with open(path, "rb") as file:
        data = file.read(settings.max_bytes + 1)
    if len(data) > settings.max_bytes:
        return too_large(name, settings.max_bytes)
    if hashlib.sha256(data).hexdigest() != sha256:
        return Dropped(name, "changed while the corpus was being prepared")
    if compression.is_compressed(name):
        data = compression.decompress(data, name, settings.max_bytes + 1)
        if len(data) > settings.max_bytes:
            return too_large(name, settings.max_bytes)
    return reader.document(name, data, settings)


def _refuse_changed(source: SourceFiles, name: str) -> None:
    try:
        is_same = state(source.root / name) == source.states[name]
    except OSError:
        is_same = False
    if not is_same:
        raise CorpusError(f"{source.key}: {source.root / name} changed while it was read; run again")
