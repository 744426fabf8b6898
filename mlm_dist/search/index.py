"""The index of a model: the passages of a corpus and their vectors on disk, complete or not there at all.

vectors.npy        [passages, width] fp32, of length 1
vectors.usearch    their graph, of over a million passages
passages.parquet   document, heading and text of each passage
index.json         what they were made of, and the hash of each file
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.known_hashes import KnownHashes
from mlm_dist.errors import CorpusError
from mlm_dist.files import lock, mapped_array, sync, temporary_folder, write_json, write_parts
from mlm_dist.search import nearest
from mlm_dist.search.nearest import Nearest
from mlm_dist.search.passages import Passage
from mlm_dist.system_errors import named
from mlm_dist.terminal.stages import stage

FORMAT = 1  # of an index; one with another number is built again
VECTORS, GRAPH, PASSAGES, RECORD = "vectors.npy", "vectors.usearch", "passages.parquet", "index.json"
GROUP = 256  # passages that are encoded, and read, together

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Contents:
    """What an index is made of.

    Args:
        made_of: All that its files depend on.
        passages: The passages; taken only if it is built.
        encode: Turns some passages into [passages, width] fp32 vectors of length 1.
    """

    made_of: dict[str, Any]
    passages: Iterable[Passage]
    encode: Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class SearchIndex:
    """An index on disk; one thread at a time may use it.

    Args:
        folder: Its folder.
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path, contents: Contents) -> SearchIndex:
        """The index in a folder, which is built if there is none, or if it is damaged or of something else.

        Of several processes, one builds it and the others wait.

        Args:
            folder: Its folder, in a folder of indexes that exists.
            contents: What it is made of.

        Raises:
            CorpusError: There are no passages.
            ConfigError: There are so many that a package is needed that is not installed.
        """
        path = folder.with_name(f".{folder.name}.lock")
        try:
            held = lock(path, wait=False)
        except BlockingIOError:
            logger.info("another process is building %s; waiting for it", folder)
            held = lock(path, wait=True)
        try:
            index = cls(folder)
            if not index._is_of(contents.made_of):
                if folder.exists():
                    logger.info("building %s again: the model or the documents changed, or it is damaged", folder)
                index._build(contents)
            return cls(folder)
        finally:
            held.release()

    def _is_of(self, made_of: dict[str, Any]) -> bool:
        """Whether this is a whole index of that."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            record = json.loads((self.folder / RECORD).read_text("utf-8"))
            is_same = record["format"] == FORMAT and record["made_of"] == json.loads(json.dumps(made_of))
            return bool(is_same and record["sha256"] == self._known(self.folder).of_readable(record["sha256"]))
        return False

    def _known(self, folder: Path) -> KnownHashes:
        """The hashes of files of the index; those that did not change since they were last read are not read."""
        return KnownHashes(folder, self.folder.parent, self.folder.name)

    def _build(self, contents: Contents) -> None:
        for path in self.folder.parent.glob(f".{self.folder.name}-*"):  # of a process that was killed
            shutil.rmtree(path, ignore_errors=True)
        temporary = temporary_folder(self.folder)
        try:
            with named(self.folder, temporary):
                names = _write(temporary, contents)
                hashes = self._known(temporary).of_readable(names)
                write_json(
                    temporary / RECORD, {"format": FORMAT, "made_of": contents.made_of, "sha256": hashes}, indent=1
                )
                if self.folder.exists():
                    shutil.rmtree(self.folder)
                temporary.rename(self.folder)
                sync(self.folder.parent)
                self._known(self.folder).remember(hashes)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @cached_property
    def vectors(self) -> np.ndarray:
        """[passages, width] fp32, of length 1; memory-mapped."""
        return mapped_array(self.folder / VECTORS)

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def _graph(self) -> Any:
        """The graph of the vectors; None without one."""
        path = self.folder / GRAPH
        return nearest.open_graph(path) if path.is_file() else None

    def nearest(self, query: np.ndarray, top: int) -> Nearest:
        """The passages nearest to the [width] vector of a query; without a graph, all are compared."""
        if self._graph is not None:
            return nearest.approximate(self._graph, self.vectors, query, top)
        return nearest.exact(self.vectors, query, top)

    @cached_property
    def _passages(self) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.folder / PASSAGES)  # open: another process may build the index again

    def passages(self) -> Iterator[Passage]:
        """All passages, in order."""
        return chain.from_iterable(_groups(self._passages))

    def read(self, indices: np.ndarray) -> list[Passage]:
        """Some passages."""
        groups = {group: _group(self._passages, group) for group in {int(i) // GROUP for i in indices}}
        return [groups[int(i) // GROUP][int(i) % GROUP] for i in indices]


def _write(folder: Path, contents: Contents) -> list[str]:
    """Write the files of an index; their names."""
    import pyarrow.parquet as pq

    _write_passages(folder / PASSAGES, contents.passages)
    with pq.ParquetFile(folder / PASSAGES) as file:
        count = file.metadata.num_rows
        if not count:
            raise CorpusError("search: the documents have no text to search in")
        has_graph = count > nearest.EXACT_LIMIT
        if has_graph:
            nearest.require_package(count)
        with stage("indexing", count, "passages", leaves_after=2) as indexing:

            def parts() -> Iterator[np.ndarray]:
                for group in _groups(file):
                    yield contents.encode([passage.content for passage in group])
                    indexing.advance(len(group))

            vectors = parts()
            first = next(vectors)
            write_parts(folder / VECTORS, (count, first.shape[1]), np.float32, chain([first], vectors))
    if has_graph:
        with stage("building graph", count, "passages", leaves_after=2) as graph:
            nearest.build_graph(mapped_array(folder / VECTORS), folder / GRAPH, graph.advance)
    names = [VECTORS, PASSAGES, *([GRAPH] if has_graph else [])]
    for name in names:
        sync(folder / name)
    return names


def _write_passages(path: Path, passages: Iterable[Passage]) -> None:
    """Write passages as a file, without holding more than a few of them in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.string()) for name in Passage._fields])
    left = iter(passages)
    with (
        stage("reading documents", unit="passages", leaves_after=2) as reading,
        pq.ParquetWriter(path, schema) as writer,
    ):
        while group := list(islice(left, GROUP)):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
            reading.advance(len(group))


def _groups(file: Any) -> Iterator[list[Passage]]:
    return (_group(file, group) for group in range(file.num_row_groups))


def _group(file: Any, group: int) -> list[Passage]:
    return [Passage(**row) for row in file.read_row_group(group).to_pylist()]
