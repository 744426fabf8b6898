"""Documents of a shard: read, cleaned, filtered, measured and written to a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import cleaners, near_duplicates, selection, shards
from mlm_dist.corpus.document_files import groups
from mlm_dist.corpus.readers import Document, Dropped
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.time_limit import time_limit
from mlm_dist.files import write_whole

SECONDS_PER_DOCUMENT = 60.0


@dataclass(frozen=True)
class ShardFigures:
    """What became of the documents of a shard.

    Args:
        kept: Documents written.
        dropped: (id, reason) of all others.
        encodings: {character encoding: documents}.
        decoded: {character encoding: files}, of all encodings but those of Unicode, and of files with replaced bytes.
        notes: {what was unusual in cleaning: documents}.
    """

    kept: int
    dropped: list[tuple[str, str]]
    encodings: dict[str, int]
    decoded: dict[str, list[str]]
    notes: dict[str, int]


def dependencies(config: CorpusConfig) -> dict[str, Any]:
    """Everything a shard's documents depend on besides its source."""
    return {
        "min_chars": config.min_chars,
        "max_document_mb": config.max_document_mb,
        "keyed": needs_keys(config),
        "signed": needs_signatures(config),
    }


def needs_keys(config: CorpusConfig) -> bool:
    """Whether duplicates are searched: to drop them, or to keep them on one side of the split."""
    return config.deduplicate != "none" or config.validation_fraction > 0


def needs_signatures(config: CorpusConfig) -> bool:
    """Whether near-duplicates are searched: to drop them, or to keep them on one side of the split."""
    return config.deduplicate == "near" or config.validation_fraction > 0


class _Cleaning:
    """Reads and cleans the documents of a shard, and counts what it drops.

    Args:
        config: The settings.
        shard: The shard.
    """

    def __init__(self, config: CorpusConfig, shard: Shard) -> None:
        self._config, self._shard = config, shard
        self.dropped: list[tuple[str, str]] = []
        self.encodings: Counter[str] = Counter()
        self.decoded: dict[str, set[str]] = {}
        self.notes: Counter[str] = Counter()

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """(id, text) of the documents to keep."""
        min_chars, source = self._config.min_chars, self._shard.source
        prefix = f"{source.name}/" if source.name else ""
        for document in shards.read(source, self._shard.parts, int(self._config.max_document_mb * 1e6)):
            # A file name that is not UTF-8 gives an id with lone surrogates. In a text they are replaced.
            id_ = prefix + document.id.encode("utf-8", "backslashreplace").decode("utf-8")
            if isinstance(document, Dropped):
                self.dropped.append((id_, document.reason))
                continue
            self.encodings[document.encoding] += 1
            if not document.encoding.startswith("utf-"):
                # The id of a record is the name of its file and the position in it.
                is_file = document.id in source.files
                file = id_ if is_file else re.sub(r"[#@][\d.]+\Z", "", id_)
                self.decoded.setdefault(document.encoding, set()).add(file)
            try:
                text = self._cleaned(document).strip()
            except TimeoutError:
                self.dropped.append((id_, f"over {SECONDS_PER_DOCUMENT:g} s to clean"))
                continue
            if len(text) < max(min_chars, 1):
                self.dropped.append((id_, f"under {min_chars} characters" if text else "empty"))
                continue
            yield (
                id_,
                text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8"),
            )

    def _cleaned(self, document: Document) -> str:
        """The text without markup.

        Raises:
            TimeoutError: Cleaning takes too long.
        """
        markup = self._shard.source.clean or document.markup
        if markup == "none":
            return document.text
        with time_limit(SECONDS_PER_DOCUMENT):
            cleaned = cleaners.clean(document.text, markup)
        self.notes.update(cleaned.notes)
        return cleaned.text


def write(config: CorpusConfig, shard: Shard, path: Path) -> ShardFigures:
    """Write the documents of a shard to a parquet file, and return what became of each.

    Its columns are id, text and, where needed, key (`selection.text_key`) and signature
    (`near_duplicates.signatures`).

    Args:
        config: How documents are filtered.
        shard: The shard.
        path: The file to write.

    Raises:
        CorpusError: A file of many documents changed while it was read.
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
    # Hashes cannot be compressed; trying would only take time.
    compression = {"id": "lz4", "text": "lz4"} | dict.fromkeys(measures, "none")
    cleaning = _Cleaning(config, shard)
    kept = 0

    def fill(temporary: Path) -> None:
        nonlocal kept
        with pq.ParquetWriter(
            temporary, schema, compression=compression, use_dictionary=False, write_statistics=False
        ) as writer:
            for group in groups(cleaning):
                ids, texts = zip(*group, strict=True)
                columns = [ids, texts, *(measure(texts) for measure in measures.values())]
                writer.write_table(pa.table(columns, schema=schema))
                kept += len(group)

    write_whole(path, fill, durable=False)
    decoded = {encoding: sorted(files) for encoding, files in cleaning.decoded.items()}
    return ShardFigures(kept, cleaning.dropped, dict(cleaning.encodings), decoded, dict(cleaning.notes))
