"""Corpora of any size made from real documents, in the forms that people keep documents in."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

FILES_PER_FOLDER = 1000


def read(source: Path | None) -> list[str]:
    """The texts of a folder, or of the documents that come with Python."""
    if source is None:
        from mlm_dist.corpus.sources import python_docs

        return [text for text in python_docs.documents() if len(text) >= 200]
    paths = [path for path in sorted(source.rglob("*")) if path.suffix in (".md", ".rst", ".txt") and path.is_file()]
    texts = [path.read_text("utf-8", "replace") for path in paths]
    if not texts:
        raise SystemExit(f"error: --source: no .md, .rst or .txt file in {source}; name another folder")
    return texts


def varied(texts: Sequence[str], size: int) -> Iterator[str]:
    """At least `size` bytes of documents: first all texts, then copies in which every fourth word is shuffled.

    No copy is a near-duplicate, because at least one of any five consecutive words differs.
    """
    written = 0
    for copy in itertools.count():
        for i, text in enumerate(texts):
            words = text.split(" ")
            indices = [k for k in range(copy % 4, len(words), 4) if words[k].isalpha()]
            mixed = [words[k] for k in indices]
            if copy:
                random.Random(f"{copy} {i}").shuffle(mixed)
            for k, word in zip(indices, mixed, strict=True):
                words[k] = word
            changed = " ".join(words)
            yield changed
            written += len(changed.encode())
            if written >= size:
                return


def short(texts: Sequence[str], count: int, num_words: int, duplicates: float = 0.1) -> Iterator[str]:
    """`count` documents of `num_words` words each, cut from texts of which every fourth word is shuffled.

    Of every `1 / duplicates` documents one is a copy of one before it, and one differs from it in its last word. All
    others are no near-duplicates, because at least one of any five consecutive words differs.
    """
    words = np.array(" ".join(texts).split(" "), dtype=object)
    draw = np.random.default_rng(0)
    recent: list[str] = []
    made = 0
    for copy in itertools.count():
        mixed = words.copy()
        mixed[copy % 4 :: 4] = draw.permutation(mixed[copy % 4 :: 4])
        for start in range(0, len(mixed) - num_words, num_words):
            kind = draw.random() / duplicates if recent else 2.0
            if kind < 1:
                text = recent[int(draw.integers(len(recent)))]
            elif kind < 2 and recent:
                text = recent[int(draw.integers(len(recent)))].rpartition(" ")[0] + f" changed{made}"
            else:
                text = " ".join(mixed[start : start + num_words].tolist())
                recent = [*recent[-99:], text]
            yield text
            made += 1
            if made == count:
                return


def write_files(texts: Iterator[str], folder: Path) -> int:
    """Write one .md file per document, a thousand per folder; returns their bytes."""
    size = 0
    for i, text in enumerate(texts):
        path = folder / f"{i // FILES_PER_FOLDER:04d}" / f"{i % FILES_PER_FOLDER:03d}.md"
        if i % FILES_PER_FOLDER == 0:
            path.parent.mkdir(parents=True)
        size += path.write_bytes(text.encode())
    return size


def write_jsonl(texts: Iterator[str], path: Path) -> int:
    """Write one object per line; returns the bytes of the file."""
    with open(path, "w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return path.stat().st_size


def write_parquet(texts: Iterator[str], path: Path) -> int:
    """Write a column of texts in several row groups; returns the bytes of text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size, group = 0, []
    with pq.ParquetWriter(path, pa.schema({"text": pa.large_string()})) as writer:
        for text in texts:
            group.append(text)
            size += len(text.encode())
            if len(group) == 5000:
                writer.write_table(pa.table([group], schema=writer.schema))
                group.clear()
        if group:
            writer.write_table(pa.table([group], schema=writer.schema))
    return size


FORMS = {"documents": write_files, "documents.jsonl": write_jsonl, "documents.parquet": write_parquet}
