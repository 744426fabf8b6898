"""Training rows that stay in an object store: their blocks are downloaded when rows of them are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.block_cache import StoredBlock
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.stored_corpus import StoredCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.transfers import in_parallel

KEY = "corpus.block_cache_gb"

logger = logging.getLogger(__name__)


class StoredRows(RowTable):
    """The training rows of a stored corpus.

    Args:
        corpus: The corpus.
        files: As of `RowTable`; they are in the store, in the folder train of the corpus.
        blocks: As of `RowTable`.
        max_length: As of `RowTable`.
        counts: As of `RowTable`.
        word_starts: As of `RowTable`, in the store as well.
        hashes: [blocks, 32] bytes, SHA-256 of each block; and those of the word starts in each, if they are stored.

    Raises:
        ConfigError: `corpus.block_cache_gb` is too small for a block.
    """

    def __init__(
        self,
        corpus: StoredCorpus,
        files: Sequence[Path],
        blocks: np.ndarray,
        max_length: int,
        counts: RowCounts,
        word_starts: Sequence[Path],
        hashes: Sequence[np.ndarray],
    ) -> None:
        super().__init__(files, blocks, max_length, counts, word_starts)
        self._corpus, self._hashes, self._is_warned = corpus, hashes, False
        self._bytes = self._ends - self._offsets[0]  # of each block
        largest = int(self._bytes.max(initial=0))
        if largest > corpus.cache.most_bytes:
            raise ConfigError(
                f"{KEY}: {corpus.cache.most_bytes / 1e9:g} GB cannot hold a block of rows; use at least "
                f"{largest / 1e9:.2g}"
            )

    def ahead(self, groups: Sequence[np.ndarray]) -> list[int]:
        """Those of some rows whose blocks fit into the cache together, group after group.

        Args:
            groups: A row of each block that is needed next, and of each that is needed after those.
        """
        chosen: list[int] = []
        room = self._corpus.cache.most_bytes * 3 // 4
        for rows in groups:
            room -= int(self._bytes[self._block_of(rows)].sum())
            if room < 0:
                if not chosen and not self._is_warned:
                    logger.warning(
                        "%s: cannot hold the blocks that are shuffled together, so that they are downloaded more than "
                        "once in an epoch; use at least %.2g",
                        *(KEY, (self._corpus.cache.most_bytes * 3 // 4 - room) / 0.75e9),
                    )
                    self._is_warned = True
                break
            chosen += rows.tolist()
        return chosen

    def fetch(self, row: int) -> None:
        """Download the block of a row, unless it is on this disk or is being downloaded.

        Raises:
            ConfigError: The store cannot be read.
            CorpusError: The block is damaged.
        """
        for piece in self._pieces(int(self._block_of(np.array([row]))[0])):
            self._corpus.cache.fetch(piece)

    def _blocks(self, indices: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        found, cache = [*super()._blocks(indices)], self._corpus.cache
        pieces = {piece.sha256: piece for block, _, _ in found for piece in self._pieces(block)}
        missing = [name for name, piece in pieces.items() if not cache.has(piece)]
        # Most calls find all blocks on the disk, and need no threads.
        if missing and 2 * sum(piece.size for piece in pieces.values()) <= cache.most_bytes:
            for _ in in_parallel(lambda name: cache.fetch(pieces[name]), missing):
                pass
        yield from found

    def _pieces(self, block: int) -> list[StoredBlock]:
        """The bytes of a block, and of the word starts in it if they are stored."""
        return [self._rows_in(block), *([self._words_in(block)] if self._word_starts else [])]

    def _rows_in(self, block: int) -> StoredBlock:
        name = self.files[int(self._file_of[block])].name
        return self._corpus.block(
            f"train/{name}", int(self._offsets[0][block]), int(self._ends[block]), self._hashes[0][block]
        )

    def _words_in(self, block: int) -> StoredBlock:
        file, width = int(self._file_of[block]), -(-self.max_length // 8)
        name = f"train/{self._word_starts[file].name}"
        first = self._first_of_file(block)
        last = int(np.searchsorted(self._file_of, file, side="right")) - 1
        rows_of_file = int(self._stops[last]) - self._start(first)
        header = int(self._corpus.files[name]["size"]) - rows_of_file * width
        start = header + (self._start(block) - self._start(first)) * width
        return self._corpus.block(name, start, start + self._num_rows(block) * width, self._hashes[1][block])

    def _content(self, block: int) -> tuple[Any, int]:
        return self._corpus.cache.content(self._rows_in(block)), int(self._offsets[0][block])

    def _starts_in(self, block: int) -> np.ndarray:
        content = np.frombuffer(self._corpus.cache.content(self._words_in(block)), np.uint8)
        return content.reshape(self._num_rows(block), -1)
