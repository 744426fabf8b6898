"""The preparation of a corpus that is not in the cache: each rank makes its share of the shards."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mlm_dist.corpus import (
    digests,
    document_files,
    documents,
    dropped_documents,
    manifest,
    row_shards,
    selection,
    selection_check,
    shards,
)
from mlm_dist.corpus.compared_documents import Documents
from mlm_dist.corpus.manifest import CorpusInputs
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.row_shards import RowMaker
from mlm_dist.corpus.selection import Selection
from mlm_dist.corpus.shard_store import ShardKeys, ShardStore
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.split_labels import SplitLabels
from mlm_dist.corpus.store import SPLITS, PreparedCorpus, word_starts_key
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.corpus.tokenizer.training_texts import TrainingTexts
from mlm_dist.errors import CorpusError
from mlm_dist.spec import CorpusSpec
from mlm_dist.terminal.stage import Stage
from mlm_dist.terminal.stages import stage


class Preparation:
    """The preparation of one corpus, on one rank.

    Args:
        spec: The corpus.
        inputs: What it is made from.
        store: Its folders.
        ranks: All ranks.
        tokenizer: Its tokenizer.
    """

    def __init__(
        self,
        spec: CorpusSpec,
        inputs: CorpusInputs,
        store: ShardStore,
        ranks: Rendezvous,
        tokenizer: CorpusTokenizer,
    ) -> None:
        self._spec, self._inputs, self._store, self._ranks = spec, inputs, store, ranks
        self._tokenizer = tokenizer
        self._shards: list[Shard] = []
        self._keys: list[str] = []
        for source in inputs.sources:
            settings = documents.source_dependencies(spec.documents, source, spec.longest_row), source.settings()
            some = shards.shards(source)
            self._shards += some
            self._keys += [digests.documents_key(*settings, shard) for shard in some]
        self._mine = ranks.share([shard.size for shard in self._shards])

    def run(self) -> None:
        """Write the documents, select them, and write and publish the rows.

        Raises:
            CorpusError: No document is left to train on, the tokenizer knows none of the tokens, or a file changed
                while it was read.
            PeerError: Another process failed.
        """
        self._write_documents()
        keys: list[ShardKeys] = []
        # A rank without shards goes to the end at once: the partial folder may be renamed before it looks again.
        if self._mine or self._ranks.rank == 0:
            tokenizer_digest = self._ranks.lead("tokenizer", self._select)
            self._ranks.see([self._store.partial / name for name in ("tokenizer", "selection.npy")])
            keys = self._write_rows(tokenizer_digest)
        self._ranks.lead("publish", lambda: self._publish(keys))

    def _write_documents(self) -> None:
        """Write the documents of this rank's shards."""
        self._ranks.see([self._store.partial / "shards"] if self._mine else [])
        waiting = [i for i in self._mine if not self._store.is_finished(self._keys[i])]
        with self._stage("cleaning documents", waiting) as shown:
            kept = 0
            for i in waiting:
                key = self._keys[i]
                path = self._store.documents(key)
                figures = documents.write(self._spec.documents, self._shards[i], path, self._spec.longest_row)
                self._store.finish(key, [path], dataclasses.asdict(figures))
                shown.advance(self._megabytes(i))
                kept += figures.kept + len(figures.dropped)
                shown.details = (f"{kept:,} documents",)
                shown.result = f"{kept:,} documents, {shown.done:,.1f} MB"

    def _megabytes(self, i: int) -> float:
        return self._shards[i].size / 1e6

    def _stage(self, name: str, shards: Sequence[int]) -> contextlib.AbstractContextManager[Stage]:
        """A stage for some shards, counted in megabytes of their files; it leaves a line if there are any."""
        return stage(name, sum(map(self._megabytes, shards)), "MB", leaves_after=0 if shards else None)

    def _select(self) -> str:
        """Select from the documents of all shards, make the tokenizer, and return `rows_digest` of it. On rank 0."""
        self._ranks.wait_for([self._store.record(key) for key in self._keys])
        config = self._spec.documents
        self._check_tokenized()
        paths, counts = [*map(self._store.documents, self._keys)], self._counts()
        labels = SplitLabels.of(map(document_files.labels, paths), sum(counts), self._store.partial)
        fractions = [config.validation_fractions()[shard.source.name] for shard in self._shards]
        if documents.needs_keys(config):
            with stage("finding duplicates") as shown:
                chosen = selection.select(
                    Documents.of(paths, counts, self._store.partial),
                    deduplicate=config.deduplicate,
                    near_threshold=config.near_threshold,
                    validation_fraction=np.repeat(fractions, counts) if len({*fractions}) != 1 else fractions[0],
                    prefer=config.prefer,
                    labels=labels,
                )
                shown.result = f"{len(chosen.side):,} documents"
        else:
            chosen = selection.by_labels(labels, self._store.partial)
        names = ", ".join(source.location for source in self._inputs.sources)
        selection_check.check(self._spec, names, [self._store.figures(key) for key in self._keys], chosen)
        is_train = [side == selection.TRAIN for side in self._sides(chosen)]
        texts = TrainingTexts(list(zip(paths, is_train, strict=True)))
        tokenizer = self._tokenizer.make(texts, chosen.count(selection.TRAIN), self._store.partial)
        chosen.save(self._store.partial / "selection.npy")
        return loading.rows_digest(tokenizer)

    def _check_tokenized(self) -> None:
        """Refuse documents of token ids if it is not known what the ids mean.

        Raises:
            CorpusError: No tokenizer is named, or it is changed, or words must be known.
        """
        count = sum(self._store.figures(key)["notes"].get(documents.TOKENIZED, 0) for key in self._keys)
        if count and not self._tokenizer.is_original:
            raise CorpusError(
                f"{self._spec.key}: {count:,} documents are tokenized already; name the tokenizer that made their ids "
                "with tokenizer.path, without tokenizer.train_vocab_size and tokenizer.add_domain_tokens"
            )
        if count and self._spec.needs_word_starts:
            raise CorpusError(
                f"{self._spec.key}: {count:,} documents are tokenized already, so their words are not known; set "
                "masking.unit to token, or use their text"
            )

    def _sides(self, chosen: Selection) -> list[np.ndarray]:
        """The selection of each shard's documents."""
        return chosen.split(self._counts())

    def _counts(self) -> list[int]:
        """The number of each shard's documents."""
        return [self._store.figures(key)["kept"] for key in self._keys]

    def _write_rows(self, tokenizer_digest: str) -> list[ShardKeys]:
        """Write the rows of this rank's shards, and return the keys of all shards."""
        store, rows = self._store, self._spec.rows
        sides = self._sides(selection.load(store.partial / "selection.npy"))
        # Rank 0 has loaded a named tokenizer already.
        is_loaded = self._ranks.rank == 0 and self._tokenizer.is_original
        tokenizer = self._tokenizer.original if is_loaded else loading.load(str(store.partial / "tokenizer"))
        domain_tokens = PreparedCorpus(store.partial).domain_tokens
        tokenizer_key = digests.tokenizer_key(tokenizer_digest, domain_tokens)
        keys = [
            ShardKeys(key, digests.rows_key(rows, key, tokenizer_key, side))
            for key, side in zip(self._keys, sides, strict=True)
        ]
        saved = np.zeros(len(tokenizer), np.int64)
        saved[list(domain_tokens)] = [len(pieces) - 1 for pieces in domain_tokens.values()]
        maker = RowMaker(rows, store, loading.special_tokens(tokenizer), saved)
        batch_tokenizer = BatchTokenizer(tokenizer)

        waiting = [i for i in self._mine if not store.is_finished(keys[i].rows)]
        # While one shard is tokenized, another is made into rows and written.
        with self._stage("making rows", waiting) as shown, ThreadPoolExecutor(2) as pool:

            def make(i: int) -> None:
                row_shards.make(maker, batch_tokenizer, sides[i], keys[i])
                shown.advance(self._megabytes(i))

            list(pool.map(make, waiting))
        if self._spec.needs_word_starts:
            keys = [key._replace(word_starts=word_starts_key(key.rows)) for key in keys]
            self._write_word_starts(maker, BatchTokenizer(tokenizer, word_starts=True), sides, keys)
        return keys

    def _write_word_starts(
        self, maker: RowMaker, tokenizer: BatchTokenizer, sides: Sequence[np.ndarray], keys: Sequence[ShardKeys]
    ) -> None:
        """Write the word starts of this rank's shards."""
        waiting = [i for i in self._mine if not self._store.is_finished(keys[i].word_starts)]
        with self._stage("finding words", waiting) as shown:
            for i in waiting:
                row_shards.make_word_starts(maker, tokenizer, sides[i], keys[i])
                shown.advance(self._megabytes(i))

    def _refuse_unknown(self, keys: Sequence[ShardKeys]) -> None:
        """Refuse rows in which nothing can be predicted.

        Raises:
            CorpusError: The documents of a split have no tokens, or the tokenizer knows none of them.
        """
        chosen, spec = selection.load(self._store.partial / "selection.npy"), self._spec.tokenizer
        for split, side in zip(SPLITS, (selection.TRAIN, selection.VALIDATION), strict=True):
            figures = [self._store.figures(key.rows)[split] for key in keys]
            count, unknown = (
                sum(one[name] for one in figures for name in names) for names in (("kept", "dropped"), ("unknown",))
            )
            if count == unknown and chosen.count(side):
                of_documents = f"the {chosen.count(side):,} {split} documents"
                raise CorpusError(
                    f"{spec.key}: all {count:,} tokens of {of_documents} are unknown to the tokenizer, so there is "
                    "nothing to predict; name a tokenizer of the documents' language, or set "
                    "tokenizer.train_vocab_size to train one"
                    if count
                    else f"{self._spec.key}: {of_documents} have no tokens, so there is nothing to predict; name "
                    "another source or change corpus.min_chars"
                )

    def _publish(self, keys: Sequence[ShardKeys]) -> None:
        """Wait for the rows of all ranks, and publish the corpus. Runs on rank 0 alone."""
        store = self._store
        made = [key for shard in keys for key in (shard.rows, shard.word_starts) if key]
        self._ranks.wait_for([store.record(key) for key in made])
        self._refuse_unknown(keys)
        store.publish(self._describe(keys), keys, row_shards.token_counts(store, keys))

    def _describe(self, keys: Sequence[ShardKeys]) -> dict[str, Any]:
        """Write the list of what is dropped, and return the manifest."""
        chosen = selection.load(self._store.partial / "selection.npy")
        dropped = dropped_documents.find(self._store, self._inputs.sources, self._keys, chosen)
        listed = dropped_documents.write(self._store.partial / "dropped.parquet", dropped)
        return manifest.describe(self._store, self._inputs, self._shards, keys, chosen, listed)
