"""From what was read to the documents worth training on, a shard at a time: cleaned, measured and written down."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import near_duplicates, selection
from mlm_dist.corpus.markdown import cleaner
from mlm_dist.corpus.readers import reader
from mlm_dist.corpus.sources.source_files import Source
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_whole

MARKDOWN_SUFFIXES = (".md", ".markdown")
GROUP_CHARS = 4_000_000  # of text in a row group, which is what is in memory at a time
SECONDS_PER_DOCUMENT = 60.0
DECODERS, CLEANERS = ("charset-normalizer",), ("markdown-it-py", "mdit-py-plugins")


@dataclass(frozen=True)
class ShardFigures:
    """What came of a shard.

    Args:
        kept: Documents written.
        set_aside: (id, reason) of all others.
        encodings: {encoding: documents}.
        notes: {what was unusual in cleaning: documents}.
    """

    kept: int
    set_aside: list[tuple[str, str]]
    encodings: dict[str, int]
    notes: dict[str, int]


def described(config: CorpusConfig) -> dict[str, Any]:
    """The settings that a shard's documents depend on, and the versions of the libraries that read and clean them."""
    names = ("clean", "min_chars", "max_document_mb")
    needed = {"keyed": needs_keys(config), "signed": needs_signatures(config)}
    libraries = DECODERS if config.clean == "none" else DECODERS + CLEANERS
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {name: getattr(config, name) for name in names} | needed | {"versions": versions}


def needs_keys(config: CorpusConfig) -> bool:
    """Whether equal texts must be found: to drop them, or to keep them on one side of the split."""
    return config.deduplicate != "none" or config.validation_fraction > 0


def needs_signatures(config: CorpusConfig) -> bool:
    """Whether near-copies must be found: to drop them, or to keep them on one side of the split."""
    return config.deduplicate == "near" or config.validation_fraction > 0


def write(config: CorpusConfig, source: Source, parts: list[reader.Part], path: Path) -> ShardFigures:
    """Read, clean and measure the documents of a shard, and write those worth keeping to a parquet file.

    Its columns are id, text and, where they are needed, key (of the text, see `selection.text_key`) and signature (see
    `dedup`).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    measures: dict[str, Callable[[Sequence[str]], list[bytes]]] = {}
    if needs_keys(config):
        measures["key"] = lambda texts: list(map(selection.text_key, texts))
    if needs_signatures(config):
        measures["signature"] = lambda texts: [one.tobytes() for one in near_duplicates.signatures(texts)]
    sizes = {
        "key": selection.KEY_BYTES,
        "signature": near_duplicates.NUM_PERM * near_duplicates.SIGNATURE_TYPE.itemsize,
    }
    schema = pa.schema(
        {"id": pa.string(), "text": pa.large_string()} | {name: pa.binary(sizes[name]) for name in measures}
    )
    # Every value is another one, and hashes cannot be packed: trying would only take time.
    packed = {"id": "lz4", "text": "lz4"} | dict.fromkeys(measures, "none")
    set_aside: list[tuple[str, str]] = []
    encodings: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    kept = 0

    def documents() -> Iterator[tuple[str, ...]]:
        for found in reader.read(source, parts, int(config.max_document_mb * 1e6)):
            if isinstance(found, reader.SetAside):
                set_aside.append((found.id, found.reason))
                continue
            encodings[found.encoding] += 1
            text = found.text
            if _is_markdown(config, source, found.id):
                try:
                    with _time_limit(SECONDS_PER_DOCUMENT):
                        cleaned = cleaner.clean(text)
                except TimeoutError:
                    set_aside.append((found.id, f"over {SECONDS_PER_DOCUMENT:g} s to clean"))
                    continue
                notes.update(cleaned.notes)
                text = cleaned.text
            text = text.strip()
            if len(text) < max(config.min_chars, 1):
                set_aside.append((found.id, f"under {config.min_chars} characters" if text else "empty"))
                continue
            # Lone surrogates are no text; an id may hold them where a file's name is no UTF-8.
            yield (
                found.id.encode("utf-8", "backslashreplace").decode("utf-8"),
                text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8"),
            )

    def fill(temporary: Path) -> None:
        nonlocal kept
        with pq.ParquetWriter(
            temporary, schema, compression=packed, use_dictionary=False, write_statistics=False
        ) as writer:
            for group in _groups(documents()):
                ids, texts = zip(*group, strict=True)
                columns = [ids, texts, *(measure(texts) for measure in measures.values())]
                writer.write_table(pa.table(columns, schema=schema))
                kept += len(group)

    write_whole(path, fill, durable=False)
    return ShardFigures(kept, set_aside, dict(encodings), dict(notes))


def texts(path: Path, wanted: np.ndarray) -> Iterator[list[str]]:
    """The wanted texts of a shard in their order, of some millions of characters at a time.

    Args:
        path: What `write` wrote.
        wanted: [documents] which are; groups without any of them are not read.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        first = 0
        for group in range(file.num_row_groups):
            last = first + file.metadata.row_group(group).num_rows
            if wanted[first:last].any():
                found = file.read_row_group(group, columns=["text"])["text"].to_pylist()
                yield list(compress(found, wanted[first:last]))
            first = last


def ids(path: Path) -> list[str]:
    """The ids of a shard's documents."""
    import pyarrow.parquet as pq

    found: list[str] = pq.read_table(path, columns=["id"])["id"].to_pylist()
    return found


def measures(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of a shard's documents the keys, [n, 16] bytes, and the signatures, [n, num_perm] (no columns if not needed)."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        count, names = file.metadata.num_rows, file.schema_arrow.names

        def column(name: str, kind: np.dtype[Any]) -> np.ndarray:
            if name not in names or not count:
                return np.empty((count, 0), kind)
            groups = (file.read_row_group(i, columns=[name])[name] for i in range(file.num_row_groups))
            chunks = [chunk for group in groups for chunk in group.chunks]
            width = chunks[0].type.byte_width
            flat = [
                np.frombuffer(one.buffers()[1], np.uint8)[one.offset * width :][: len(one) * width] for one in chunks
            ]
            return np.concatenate(flat).view(kind).reshape(count, -1)

        return column("key", np.dtype(np.uint8)), column("signature", near_duplicates.SIGNATURE_TYPE)


def export(found: Iterator[tuple[str, str, str]], path: Path) -> None:
    """Write documents, given as (id, split, text), for other tools to pick up.

    A .json file is a list of strings, a .jsonl file has an object a line, a .parquet file the columns id, split and
    text; each can be a corpus.source again.

    Raises:
        CorpusError: The file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def as_parquet(temporary: Path) -> None:
        schema = pa.schema({"id": pa.string(), "split": pa.string(), "text": pa.large_string()})
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _groups(found):
                writer.write_table(pa.table(list(zip(*group, strict=True)), schema=schema))

    def as_lines(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            for id_, split, text in found:
                file.write(json.dumps({"id": id_, "split": split, "text": text}, ensure_ascii=False) + "\n")

    def as_list(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write("[")
            for i, (_, _, text) in enumerate(found):
                file.write((",\n" if i else "\n") + json.dumps(text, ensure_ascii=False))
            file.write("\n]\n")

    write = {".json": as_list, ".jsonl": as_lines, ".parquet": as_parquet}[path.suffix.lower()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write)
    except OSError as error:
        raise CorpusError(f"corpus.export: cannot write {path} ({error.strerror}); name another file") from None


def _is_markdown(config: CorpusConfig, source: Source, id_: str) -> bool:
    if config.clean is None:
        return not source.records and id_.lower().endswith(MARKDOWN_SUFFIXES)
    return config.clean == "markdown"


def _groups(documents: Iterator[tuple[str, ...]]) -> Iterator[list[tuple[str, ...]]]:
    group: list[tuple[str, ...]] = []
    size = 0
    for document in documents:
        group.append(document)
        size += len(document[-1])
        if size >= GROUP_CHARS:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the middle of what takes longer; without effect where the system has no such alarm."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
