"""From the documents of a shard to its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.config import RowsConfig
from mlm_dist.corpus import documents, rows, selection
from mlm_dist.corpus.rows import RowBlock
from mlm_dist.corpus.store import SPLITS, CorpusStore, ShardKeys
from mlm_dist.corpus.tokenizer import encoding, loading, word_starts

BLOCK_TOKENS = 1 << 22  # made into rows together


def make(
    config: RowsConfig,
    store: CorpusStore,
    encoder: encoding.Encoder,
    special: loading.SpecialTokens,
    shortens: np.ndarray,
    side: np.ndarray,
    shard: ShardKeys,
) -> None:
    """Turn the documents of a shard into rows of both splits."""
    figures: dict[str, Any] = {}
    paths = []
    for split, wanted in zip(SPLITS, (selection.TRAIN, selection.VALIDATION), strict=True):
        seen = np.zeros(encoder.vocab_size, np.int64)
        totals = Counter(dict.fromkeys(("rows", "kept", "dropped", "padded", "saved"), 0))

        def blocks(wanted: int = wanted, seen: np.ndarray = seen, totals: Counter[str] = totals) -> Iterator[RowBlock]:
            for ids, lengths in _encoded(store.documents(shard.documents), encoder, side == wanted):
                block = _windowed(config, ids, lengths, special)
                totals.update(block.figures(len(ids)) | {"saved": int(shortens[ids].sum())})
                seen += np.bincount(block.input_ids.reshape(-1), minlength=len(seen))
                yield block

        rows.write(store.rows(shard.rows, split), config.max_length, blocks())
        paths.append(store.rows(shard.rows, split))
        figures[split] = dict(totals)
        if split == "train":
            seen[list(special.all)] = 0
            path = _counts_file(store, shard)
            np.save(path, seen, allow_pickle=False)
            paths.append(path)
    store.finish(shard.rows, paths, figures)


def token_counts(store: CorpusStore, shards: Sequence[ShardKeys]) -> np.ndarray:
    """[vocabulary] how often each token but the special ones stands in the training rows of all shards."""
    found: np.ndarray = sum(np.load(_counts_file(store, shard), allow_pickle=False) for shard in shards)
    return found


def mark_words(
    config: RowsConfig,
    store: CorpusStore,
    encoder: encoding.Encoder,
    special: loading.SpecialTokens,
    side: np.ndarray,
    shard: ShardKeys,
) -> None:
    """Find out where words begin in the training rows of a shard, which are made."""
    encoded = _encoded(store.documents(shard.documents), encoder, side == selection.TRAIN)
    blocks = (_windowed(config, ids, lengths, special) for ids, lengths in encoded)
    word_starts.write(store.words(shard.words), store.rows(shard.rows, "train"), config.max_length, blocks)
    store.finish(shard.words, [store.words(shard.words)], {})


def _counts_file(store: CorpusStore, shard: ShardKeys) -> Path:
    return store.partial / "shards" / f"{shard.rows}.npy"


def _windowed(config: RowsConfig, ids: np.ndarray, lengths: np.ndarray, special: loading.SpecialTokens) -> RowBlock:
    assert config.mode is not None, "not settled"
    return rows.window(ids, lengths, config.mode, config.max_length, special)


def _encoded(path: Path, encoder: encoding.Encoder, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens of the wanted documents of a shard, some millions at a time."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for group in documents.texts(path, wanted):
        waiting.append(encoder(group))
        count += len(waiting[-1][0])
        if count >= BLOCK_TOKENS:
            yield _joined(waiting)
            waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([ids for ids, _ in pairs]), np.concatenate([lengths for _, lengths in pairs])
