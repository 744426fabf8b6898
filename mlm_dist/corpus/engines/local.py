"""The local engine: the ranks of one launch divide the shards, and meet through files."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from mlm_dist.corpus.preparation import Preparation
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.row_preparation import RowPreparation
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.shares import share
from mlm_dist.terminal.stage import Stage
from mlm_dist.terminal.stages import stage


class LocalEngine:
    """The part of one rank in a preparation.

    Args:
        preparation: The preparation.
        store: The folders of the corpus.
        ranks: All ranks.
    """

    def __init__(self, preparation: Preparation, store: ShardStore, ranks: Rendezvous) -> None:
        self._preparation, self._store, self._ranks = preparation, store, ranks
        self._mine = share(preparation.sizes, ranks.rank, ranks.world_size)

    def run(self) -> None:
        """Write the documents, select them, and write and publish the rows.

        Raises:
            CorpusError: No document is left to train on, the tokenizer knows none of the tokens, or a file changed
                while it was read.
            PeerError: Another process failed.
        """
        self._write_documents()
        # A rank without shards goes to the end at once: the partial folder may be renamed before it looks again.
        if self._mine or self._ranks.rank == 0:
            tokenizer_digest = self._ranks.lead("tokenizer", self._select)
            self._ranks.see([self._store.partial / name for name in ("tokenizer", "selection.npy")])
            rows = self._preparation.rows(tokenizer_digest)
            self._write_rows(rows)
        self._ranks.lead("publish", lambda: self._publish(rows))

    def _write_documents(self) -> None:
        """Write the documents of this rank's shards."""
        self._ranks.see([self._store.partial / "shards"] if self._mine else [])
        waiting = [i for i in self._mine if not self._preparation.has_documents(i)]
        with self._stage("cleaning documents", waiting) as shown:
            found = 0
            for i in waiting:
                found += self._preparation.write_documents(i)
                shown.advance(self._megabytes(i))
                shown.details = (f"{found:,} documents",)
                shown.result = f"{found:,} documents, {shown.done:,.1f} MB"

    def _select(self) -> str:
        """Select from the documents of all ranks. Runs on rank 0 alone."""
        self._ranks.wait_for([self._store.record(key) for key in self._preparation.keys])
        return self._preparation.select()

    def _write_rows(self, rows: RowPreparation) -> None:
        """Write the rows of this rank's shards, and the word starts in them."""
        waiting = [i for i in self._mine if not rows.has_rows(i)]
        # While one shard is tokenized, another is made into rows and written.
        with self._stage("making rows", waiting) as shown, ThreadPoolExecutor(2) as pool:

            def write(i: int) -> None:
                rows.write(i)
                shown.advance(self._megabytes(i))

            list(pool.map(write, waiting))
        without_words = [i for i in self._mine if not rows.has_word_starts(i)]
        with self._stage("finding words", without_words) as shown:
            for i in without_words:
                rows.write_word_starts(i)
                shown.advance(self._megabytes(i))

    def _publish(self, rows: RowPreparation) -> None:
        """Wait for the rows of all ranks, and publish the corpus. Runs on rank 0 alone."""
        self._ranks.wait_for([self._store.record(key) for key in rows.made])
        self._preparation.publish(rows)

    def _megabytes(self, i: int) -> float:
        return self._preparation.sizes[i] / 1e6

    def _stage(self, name: str, shards: Sequence[int]) -> AbstractContextManager[Stage]:
        """A stage for some shards, counted in megabytes of their files; it leaves a line if there are any."""
        return stage(name, sum(map(self._megabytes, shards)), "MB", leaves_after=0 if shards else None)
