"""An index of passages on the disk: their vectors, memory-mapped, and an exact search in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.errors import ConfigError
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.files import lock, mapped_array, sha256_of, temporary_folder, write_json, write_parts
from mlm_dist.search.passages import Passage
from mlm_dist.system_errors import named
from mlm_dist.terminal.stages import stage

FORMAT = 1  # of an index; one with another number is built again
VECTORS, PASSAGES, ABOUT = "vectors.npy", "passages.parquet", "index.json"
GROUP = 1024  # passages that are encoded, and read, together
BLOCK = 1 << 16  # vectors that are compared with a query at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Args:
        score: Its similarity to the query.
        passage: The passage.
    """

    score: float
    passage: Passage


@dataclass(frozen=True)
class SearchIndex:
    """An index.

    Args:
        folder: Its folder.
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path, about: dict[str, Any], passages: Iterable[Passage], encoder: TextEncoder) -> SearchIndex:
        """The index in a folder, which is built if there is none of this content; whole or not at all.

        Args:
            folder: The folder.
            about: All that its content depends on.
            passages: The passages, read if it is built.
            encoder: Encodes them.

        Raises:
            ConfigError: There are no passages.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = lock(folder.with_name(f".{folder.name}.lock"), wait=True)
        try:
            index = cls(folder)
            if index._is_of(about):
                return index
            if folder.exists():
                logger.info("building %s again: the model or the documents have changed", folder)
            temporary = temporary_folder(folder)
            try:
                with named(folder, temporary):
                    count = _write_passages(temporary / PASSAGES, passages)
                    _write_vectors(temporary, count, encoder)
                    content = {"format": FORMAT, "about": about, "sha256": _digests(temporary)}
                    write_json(temporary / ABOUT, content, durable=False)
                    shutil.rmtree(folder, ignore_errors=True)
                    temporary.rename(folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            return index
        finally:
            held.release()

    def _is_of(self, about: dict[str, Any]) -> bool:
        """Whether this is a whole index of that content."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            found = json.loads((self.folder / ABOUT).read_text("utf-8"))
            is_same = found["format"] == FORMAT and found["about"] == json.loads(json.dumps(about))
            return bool(is_same and found["sha256"] == _digests(self.folder))
        return False

    @cached_property
    def vectors(self) -> np.ndarray:
        """[passages, hidden] fp32, of length 1."""
        return mapped_array(self.folder / VECTORS)

    def __len__(self) -> int:
        return len(self.vectors)

    def search(self, query: np.ndarray, top: int) -> list[Hit]:
        """The most similar passages, best first; of equally similar ones the first.

        Args:
            query: [hidden] the vector of the query.
            top: How many.
        """
        scores = np.concatenate([self.vectors[i : i + BLOCK] @ query for i in range(0, len(self), BLOCK)])
        return self.hits(scores, top)

    def hits(self, scores: np.ndarray, top: int) -> list[Hit]:
        """The passages with the highest scores, best first.

        Args:
            scores: [passages] scores.
            top: How many.
        """
        some = (
            np.argpartition(-scores, min(top, len(scores)) - 1)[:top] if top < len(scores) else np.arange(len(scores))
        )
        best = some[np.lexsort((some, -scores[some]))]
        return [Hit(float(scores[i]), passage) for i, passage in zip(best, self._read(best), strict=True)]

    def passages(self) -> Iterator[Passage]:
        """All passages, in order."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / PASSAGES) as file:
            for group in range(file.num_row_groups):
                yield from _rows(file.read_row_group(group))

    def _read(self, indices: np.ndarray) -> list[Passage]:
        """Some passages, by their row groups."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.folder / PASSAGES) as file:
            groups = {group: file.read_row_group(group) for group in {int(i) // GROUP for i in indices}}
        return [next(_rows(groups[int(i) // GROUP].slice(int(i) % GROUP, 1))) for i in indices]


def model_digest(folder: Path) -> str:
    """A hash of the files of an exported model that its vectors depend on."""
    names = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".json") and path.is_file()]
    parts = [f"{path.relative_to(folder).as_posix()} {sha256_of(path)}" for path in names]
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _digests(folder: Path) -> dict[str, str]:
    return {name: sha256_of(folder / name) for name in (VECTORS, PASSAGES)}


def _rows(table: Any) -> Iterator[Passage]:
    for row in table.to_pylist():
        yield Passage(row["document"], row["heading"], row["text"])


def _write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Write the passages, and return how many there are.

    Raises:
        ConfigError: There are none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, count = pa.schema([(name, pa.string()) for name in Passage._fields]), 0
    group: list[Passage] = []
    with stage("reading passages", unit="passages", leaves_after=2) as shown, pq.ParquetWriter(path, schema) as writer:

        def write() -> None:
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
            shown.advance(len(group))

        for passage in passages:
            group.append(passage)
            if len(group) == GROUP:
                write()
                count, group = count + GROUP, []
        if group:
            write()
    if not (count := count + len(group)):
        raise ConfigError("search: the documents have no text to search; name another run")
    return count


def _write_vectors(folder: Path, count: int, encoder: TextEncoder) -> None:
    import pyarrow.parquet as pq

    with (
        pq.ParquetFile(folder / PASSAGES) as file,
        stage("encoding passages", count, "passages", leaves_after=2) as shown,
    ):

        def parts() -> Iterator[np.ndarray]:
            for group in range(file.num_row_groups):
                some = [passage.content for passage in _rows(file.read_row_group(group))]
                yield encoder.encode(some)
                shown.advance(len(some))

        vectors = parts()
        first = next(vectors)
        write_parts(folder / VECTORS, (count, first.shape[1]), np.float32, chain([first], vectors))
