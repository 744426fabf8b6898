"""Documents of a shard: read, cleaned, filtered, measured and written to a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import cleaners, held_out_parts, shards, signatures, split_labels, text_keys
from mlm_dist.corpus.document_files import groups, text_of_ids
from mlm_dist.corpus.readers import Document, Dropped
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.corpus.time_limit import time_limit
from mlm_dist.files import write_whole

SECONDS_PER_DOCUMENT = 60.0
MAX_TOKEN = 2**31 - 1  # larger ids, and negative ones, are stored as ids that no tokenizer has
TOKENIZED = "tokenized already"  # the note for documents of token ids
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


class _Kept(NamedTuple):
    """A document to keep. The text of one that is tokenized already is its ids, by which duplicates are found."""

    id: str
    side: int
    group: int
    input_ids: Sequence[int] | None
    text: str


class _Cleaning:
    """Reads and cleans the documents of a shard, and counts what it drops.

    Args:
        config: The settings.
        shard: The shard.
        row_length: Tokens per row, see `held_out_parts.PartsSpec`.
    """

    def __init__(self, config: CorpusConfig, shard: Shard, row_length: int) -> None:
        self._config, self._shard = config, shard
        self._parts = held_out_parts.parts_spec(config, row_length, shard.source)
        self.dropped: list[tuple[str, str]] = []
        self.encodings: Counter[str] = Counter()
        self.decoded: dict[str, set[str]] = {}
        self.notes: Counter[str] = Counter()

    def __iter__(self) -> Iterator[_Kept]:
        """The documents to keep."""
        min_chars, source = self._config.min_chars, self._shard.source
        for document in shards.read(source, self._shard.parts, int(self._config.max_document_mb * 1e6)):
            # A file name that is not UTF-8 gives an id with lone surrogates. In a text they are replaced.
            id_ = source.prefix + document.id.encode("utf-8", "backslashreplace").decode("utf-8")
            if isinstance(document, Dropped):
                self.dropped.append((id_, document.reason))
                continue
            side, group = self._side(document), split_labels.group_key(document.group)
            if document.input_ids is not None:
                self.notes[TOKENIZED] += 1
                yield _Kept(id_, side, group, document.input_ids, text_of_ids(document.input_ids))
                continue
            self.encodings[document.encoding] += 1
            if not document.encoding.startswith("utf-"):
                # The id of a record is the name of its file and the position in it.
                is_file = document.id in source.files
                file = id_ if is_file else re.sub(r"[#@][\d.]+\Z", "", id_)
                self.decoded.setdefault(document.encoding, set()).add(file)
            try:
                cleaned = self._cleaned(document)
            except TimeoutError:
                self.dropped.append((id_, f"over {SECONDS_PER_DOCUMENT:g} s to clean"))
                continue
            text = cleaned.strip()
            # With corpus.clean none, all characters of the raw text count.
            if not text or len(cleaned if source.clean == "none" else text) < min_chars:
                self.dropped.append((id_, f"under {min_chars} characters" if text else "empty"))
                continue
            text = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
            yield from self._divided(_Kept(id_, side, group, None, text))

    def _side(self, document: Document) -> int:
        """The side of the split that a document names."""
        if document.side is not None and document.side not in split_labels.SIDES:
            self.notes[f"{self._shard.source.split} is neither train nor validation nor test"] += 1
        return split_labels.SIDES.get(document.side or "", split_labels.NO_SIDE)

    def _divided(self, document: _Kept) -> Iterator[_Kept]:
        """A document, or its parts for training and for validation if its end is held out."""
        is_open = document.side == split_labels.NO_SIDE and document.group == split_labels.NO_GROUP
        parts = held_out_parts.divide(document.text, self._parts) if self._parts is not None and is_open else None
        if parts is None:
            yield document
            return
        self.notes["divided into a part for training and one for validation"] += 1
        id_ = document.id
        yield document._replace(id=f"{id_}#train", side=split_labels.TRAIN, text=parts.train)
        self.dropped.append((f"{id_}#gap", held_out_parts.GAP))
        yield document._replace(id=f"{id_}#validation", side=split_labels.VALIDATION, text=parts.validation)

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


def write(config: CorpusConfig, shard: Shard, path: Path, row_length: int) -> ShardFigures:
    """Write the documents of a shard to a parquet file, and return what became of each.

    Its columns are id, side and group (see `split_labels`), input_ids (null for text), text and, where needed, key
    (`text_keys.text_key`), chars (characters) and signature (`signatures.signatures`).

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
        | {"text": pa.large_string()}
        | {name: kinds[name] for name in measures}
    )
    # Hashes cannot be compressed; trying would only take time.
    compression = {"id": "lz4", "side": "lz4", "group": "lz4", "input_ids.list.element": "lz4", "text": "lz4"}
    compression |= dict.fromkeys(measures, "none")
    cleaning = _Cleaning(config, shard, row_length)
    kept = 0

    def fill(temporary: Path) -> None:
        nonlocal kept
        with pq.ParquetWriter(
            temporary, schema, compression=compression, use_dictionary=False, write_statistics=False
        ) as writer:
            for group in groups(cleaning):
                *labels, tokens, texts = zip(*group, strict=True)
                input_ids = [one if one is None else np.clip(one, -1, MAX_TOKEN).astype(np.int32) for one in tokens]
                stored = [text if one is None else "" for one, text in zip(tokens, texts, strict=True)]
                columns = [*labels, input_ids, stored, *(measure(texts) for measure in measures.values())]
                writer.write_table(pa.table(columns, schema=schema))
                kept += len(group)
                if shard.source.group is not None:
                    cleaning.notes += Counter({UNGROUPED: sum(one.group == split_labels.NO_GROUP for one in group)})

    write_whole(path, fill, durable=False)
    decoded = {encoding: sorted(files) for encoding, files in cleaning.decoded.items()}
    num_dropped = Counter(reason for _, reason in cleaning.dropped)
    return ShardFigures(
        kept, cleaning.dropped, dict(num_dropped), dict(cleaning.encodings), decoded, dict(cleaning.notes)
    )
