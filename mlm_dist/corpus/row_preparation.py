"""The rows of a corpus in preparation whose documents are selected, in pieces by shard."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mlm_dist.corpus import digests, row_shards
from mlm_dist.corpus.row_shards import RowMaker
from mlm_dist.corpus.shard_store import ShardKeys, ShardStore
from mlm_dist.corpus.store import PreparedCorpus, word_starts_key
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer
from mlm_dist.spec import CorpusSpec


class RowPreparation:
    """The rows of a corpus.

    Args:
        spec: The corpus.
        store: Its folders.
        tokenizer: Its tokenizer.
        tokenizer_digest: `loading.rows_digest` of it.
        selected: Of each shard, the key of its documents and their sides.

    Attributes:
        keys: Keys of each shard.
    """

    def __init__(
        self,
        spec: CorpusSpec,
        store: ShardStore,
        tokenizer: Any,
        tokenizer_digest: str,
        selected: Sequence[tuple[str, np.ndarray]],
    ) -> None:
        self._store, self._tokenizer = store, tokenizer
        self._sides = [side for _, side in selected]
        domain_tokens = PreparedCorpus(store.partial).domain_tokens
        tokenizer_key = digests.tokenizer_key(tokenizer_digest, domain_tokens)
        rows = [digests.rows_key(spec.rows, key, tokenizer_key, side) for key, side in selected]
        starts = [word_starts_key(key) if spec.needs_word_starts else "" for key in rows]
        self.keys = [ShardKeys(*keys) for keys in zip((key for key, _ in selected), rows, starts, strict=True)]
        saved = np.zeros(len(tokenizer), np.int64)
        saved[list(domain_tokens)] = [len(pieces) - 1 for pieces in domain_tokens.values()]
        self._maker = RowMaker(spec.rows, store, loading.special_tokens(tokenizer), saved)
        self._batch_tokenizer = BatchTokenizer(tokenizer)

    @property
    def made(self) -> list[str]:
        """The keys of everything that must be finished before the corpus is published."""
        return [key for shard in self.keys for key in (shard.rows, shard.word_starts) if key]

    def has_rows(self, i: int) -> bool:
        """Whether the rows of a shard are written, here or in another corpus whose files are then reused."""
        return self._store.is_finished(self.keys[i].rows)

    def write(self, i: int) -> None:
        """Write the rows of a shard; two threads may write two shards."""
        row_shards.make(self._maker, self._batch_tokenizer, self._sides[i], self.keys[i])

    def has_word_starts(self, i: int) -> bool:
        """Whether the word starts in the rows of a shard are written, or not needed."""
        key = self.keys[i].word_starts
        return not key or self._store.is_finished(key)

    def write_word_starts(self, i: int) -> None:
        """Write the word starts in the rows of a shard, which are written."""
        row_shards.make_word_starts(self._maker, self._word_tokenizer, self._sides[i], self.keys[i])

    @cached_property
    def _word_tokenizer(self) -> BatchTokenizer:
        return BatchTokenizer(self._tokenizer, word_starts=True)
