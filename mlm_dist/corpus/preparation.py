"""The preparation of a corpus that is not in the cache, in pieces that any engine can run: most of them by shard."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlm_dist.corpus import (
    digests,
    document_files,
    documents,
    dropped_documents,
    groups,
    manifest,
    row_shards,
    selection,
    selection_check,
    shards,
)
from mlm_dist.corpus.compared_documents import Documents
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.kept_documents import TOKENIZED
from mlm_dist.corpus.row_preparation import RowPreparation
from mlm_dist.corpus.selection import Selection
from mlm_dist.corpus.shard_store import ShardKeys, ShardStore
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.split_labels import SplitLabels
from mlm_dist.corpus.store import SPLITS
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.corpus.tokenizer.training_texts import TrainingTexts
from mlm_dist.errors import CorpusError
from mlm_dist.spec import CorpusSpec
from mlm_dist.terminal.stages import stage


class Preparation:
    """The preparation of one corpus.

    An engine writes the documents of all shards, then selects them in one process, then writes the rows of all shards,
    and then publishes the corpus in one process. Each piece depends on the corpus alone, not on which process runs it.

    Args:
        spec: The corpus.
        inputs: What it is made from.
        store: Its folders.
        tokenizer: Its tokenizer.

    Attributes:
        sizes: Bytes of the files of each shard.
        keys: Keys of the documents of each shard.
    """

    def __init__(self, spec: CorpusSpec, inputs: CorpusInputs, store: ShardStore, tokenizer: CorpusTokenizer) -> None:
        self._spec, self._inputs, self._store, self._tokenizer = spec, inputs, store, tokenizer
        self._shards: list[Shard] = []
        self.keys: list[str] = []
        for source in inputs.sources:
            settings = documents.source_dependencies(spec.documents, source, spec.longest_row), source.settings()
            some = shards.shards(source)
            self._shards += some
            self.keys += [digests.documents_key(*settings, shard) for shard in some]
        self.sizes = [shard.size for shard in self._shards]

    def has_documents(self, i: int) -> bool:
        """Whether the documents of a shard are written, here or in another corpus whose files are then reused."""
        return self._store.is_finished(self.keys[i])

    def write_documents(self, i: int) -> int:
        """Write the documents of a shard, and return how many were found.

        Raises:
            CorpusError: A file of many documents changed while it was read.
        """
        path = self._store.documents(self.keys[i])
        figures = documents.write(self._spec.documents, self._shards[i], path, self._spec.longest_row)
        self._store.finish(self.keys[i], [path], dataclasses.asdict(figures))
        return figures.kept + len(figures.dropped)

    def select(self) -> str:
        """Select from the documents of all shards, make the tokenizer, and return `rows_digest` of it.

        Raises:
            CorpusError: No document is left to train on, or the tokenizer cannot be made from them.
        """
        config = self._spec.documents
        self._check_tokenized()
        paths, counts = [*map(self._store.documents, self.keys)], self._counts()
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
                    keep_together=config.keep_together,
                    labels=labels,
                )
                shown.result = f"{len(chosen.side):,} documents"
        else:
            chosen = selection.by_labels(labels, self._store.partial)
        figures = [self._store.figures(key) for key in self.keys]
        groups.log(config, paths, figures)
        names = ", ".join(source.location for source in self._inputs.sources)
        selection_check.check(self._spec, names, figures, chosen)
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
        count = sum(self._store.figures(key)["notes"].get(TOKENIZED, 0) for key in self.keys)
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
        if count and self._spec.documents.filters:
            raise CorpusError(
                f"{self._spec.key}: {count:,} documents are tokenized already, so corpus.filters cannot read them; "
                "remove that key, or use their text"
            )

    def _sides(self, chosen: Selection) -> list[np.ndarray]:
        """The selection of each shard's documents."""
        return chosen.split(self._counts())

    def _counts(self) -> list[int]:
        """The number of each shard's documents."""
        return [self._store.figures(key)["kept"] for key in self.keys]

    def rows(self, tokenizer_digest: str) -> RowPreparation:
        """The rows of the corpus, whose documents are selected.

        Args:
            tokenizer_digest: What `select` returned.
        """
        sides = self._sides(selection.load(self._store.partial / "selection.npy"))
        # The process that selected has loaded a named tokenizer already.
        loaded = self._tokenizer.loaded
        tokenizer = loading.load(str(self._store.partial / "tokenizer")) if loaded is None else loaded
        return RowPreparation(
            self._spec, self._store, tokenizer, tokenizer_digest, list(zip(self.keys, sides, strict=True))
        )

    def publish(self, rows: RowPreparation) -> None:
        """Publish the corpus, whose rows are written.

        Raises:
            CorpusError: The tokenizer knows none of the tokens.
        """
        self._refuse_unknown(rows.keys)
        self._store.publish(self._describe(rows.keys), rows.keys, row_shards.arrays(self._store, rows.keys))

    def _describe(self, keys: Sequence[ShardKeys]) -> dict[str, Any]:
        """Write the list of what is dropped, and return the manifest."""
        chosen = selection.load(self._store.partial / "selection.npy")
        dropped = dropped_documents.find(self._store, self._inputs.sources, self.keys, chosen)
        listed = dropped_documents.write(self._store.partial / "dropped.parquet", dropped)
        return manifest.describe(self._store, self._inputs, self._shards, keys, chosen, listed)

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
            if not count and self._spec.rows.mode == "pairs":
                if split == "train":
                    raise CorpusError(
                        f"{self._spec.key}: the {chosen.count(side):,} training documents have no "
                        "titles, headings or halves of 20 words, so there are no pairs to train a search model on"
                    )
            elif count == unknown and chosen.count(side):
                of_documents = f"the {chosen.count(side):,} {split} documents"
                raise CorpusError(
                    f"{spec.key}: all {count:,} tokens of {of_documents} are unknown to the tokenizer, so there is "
                    "nothing to predict; name a tokenizer of the documents' language, or set "
                    "tokenizer.train_vocab_size to train one"
                    if count
                    else f"{self._spec.key}: {of_documents} have no tokens, so there is nothing to predict; name "
                    "another source or change corpus.min_chars"
                )
