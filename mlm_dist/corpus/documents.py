"""Documents of a shard, measured and written to a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import filters, held_out_parts, outline_column, signatures, split_labels, text_keys
from mlm_dist.corpus.document_files import groups
from mlm_dist.corpus.kept_documents import KeptDocuments
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.files import write_whole

MAX_TOKEN = 2**31 - 1  # larger ids, and negative ones, are stored as ids that no tokenizer has
UNGROUPED = "without a group"  # the note for documents of a source with groups that are in none


@dataclass(frozen=True)
class ShardFigures:
    """What became of the documents of a shard.

    Args:
        kept: Documents written.
        dropped: (id, reason) of all others.
        num_dropped: {reason: documents dropped}.
        encodings: {character encoding: documents}.
        decoded: {character encoding: files}, of all encodings but those of Unicode, and of files with replaced bytes.
        notes: {what was unusual in cleaning: documents}.
    """

    kept: int
    dropped: list[tuple[str, str]]
    num_dropped: dict[str, int]
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
        **filters.dependencies(config.filters),
    }


def source_dependencies(config: CorpusConfig, source: SourceFiles, row_length: int) -> dict[str, Any]:
    """Everything the documents of one source depend on besides the source."""
    return dependencies(config) | held_out_parts.dependencies(config, row_length, source)


def needs_keys(config: CorpusConfig) -> bool:
    """Whether duplicates are searched: to drop them, or to keep them on one side of the split."""
    return config.deduplicate != "none" or config.holds_out


def needs_signatures(config: CorpusConfig) -> bool:
    """Whether near-duplicates are searched: to drop them, or to keep them on one side of the split."""
    return config.deduplicate == "near" or (config.holds_out and config.keep_together == "near")


def write(config: CorpusConfig, shard: Shard, path: Path, row_length: int) -> ShardFigures:
    """Write the documents of a shard to a parquet file, and return what became of each.

    Its columns are id, side and group (see `split_labels`), input_ids (null for text), outline (see `outline_column`),
    text and, where needed, key (`text_keys.text_key`), chars (characters) and signature (`signatures.signatures`).

    Args:
        config: How documents are filtered.
        shard: The shard.
        path: The file to write.
        row_length: Tokens per row, for the gap between the parts of a document.

    Raises:
        CorpusError: A file of many documents changed while it was read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    measures: dict[str, Callable[[Sequence[str]], list[Any]]] = {"chars": lambda texts: list(map(len, texts))}
    if needs_keys(config):
        measures["key"] = lambda texts: list(map(text_keys.text_key, texts))
    if needs_signatures(config):
        measures["signature"] = lambda texts: [one.tobytes() for one in signatures.signatures(texts)]
    kinds = {
        "key": pa.binary(text_keys.KEY_BYTES),
        "chars": pa.int64(),
        "signature": pa.binary(signatures.NUM_PERM * signatures.SIGNATURE_TYPE.itemsize),
    }
    schema = pa.schema(
        {"id": pa.string(), "side": pa.int8(), "group": pa.uint64(), "input_ids": pa.large_list(pa.int32())}
        | {"outline": outline_column.kind(), "text": pa.large_string()}
        | {name: kinds[name] for name in measures}
    )
    # Hashes cannot be compressed; trying would only take time.
    compressed = ("id", "side", "group", "input_ids.list.element", *outline_column.LEAVES, "text")
    compression = dict.fromkeys(compressed, "lz4") | dict.fromkeys(measures, "none")
    cleaning = KeptDocuments(config, shard, row_length)
    kept = 0

    def fill(temporary: Path) -> None:
        nonlocal kept
        with pq.ParquetWriter(
            temporary, schema, compression=compression, use_dictionary=False, write_statistics=False
        ) as writer:
            for group in groups(cleaning):
                *labels, tokens, outlines, texts = zip(*group, strict=True)
                input_ids = [one if one is None else np.clip(one, -1, MAX_TOKEN).astype(np.int32) for one in tokens]
                stored = [text if one is None else "" for one, text in zip(tokens, texts, strict=True)]
                columns = [*labels, input_ids, outline_column.encode(outlines), stored]
                columns += [measure(texts) for measure in measures.values()]
                writer.write_table(pa.table(columns, schema=schema))
                kept += len(group)
                if shard.source.group is not None:
                    cleaning.notes += Counter({UNGROUPED: labels[-1].count(split_labels.NO_GROUP)})

    write_whole(path, fill, durable=False)
    decoded = {encoding: sorted(files) for encoding, files in cleaning.decoded.items()}
    num_dropped = Counter(reason for _, reason in cleaning.dropped)
    return ShardFigures(
        kept, cleaning.dropped, dict(num_dropped), dict(cleaning.encodings), decoded, dict(cleaning.notes)
    )
