"""Rows of a shard: its documents are tokenized and put into rows of both splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import document_files, packing, rows, selection, text_pairs
from mlm_dist.corpus.packing import RowBlock
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.shard_store import ShardKeys, ShardStore
from mlm_dist.corpus.store import HASHES, PAIRS, SPLITS, TOKEN_COUNTS, WORD_HASHES
from mlm_dist.corpus.tokenizer import token_ids, word_starts
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.files import write_array
from mlm_dist.spec import RowsSpec
from mlm_dist.system_errors import named

BLOCK_TOKENS = 1 << 22  # tokens that are put into rows together


@dataclass(frozen=True)
class RowMaker:
    """What all shards of a corpus have in common.

    Args:
        spec: Mode and length of rows.
        store: The corpus in preparation.
        special: Special tokens of the tokenizer.
        saved: [vocabulary] tokens that the documents are shorter with one occurrence of each domain token; 0 for
            others.
    """

    spec: RowsSpec
    store: ShardStore
    special: SpecialTokens
    saved: np.ndarray

    def blocks(
        self, tokenizer: BatchTokenizer, shard: ShardKeys, wanted: np.ndarray
    ) -> Iterator[tuple[np.ndarray, RowBlock, np.ndarray]]:
        """Tokens and rows of the wanted documents of a shard, some millions of tokens at a time.

        With mode pairs, also how many rows each document has of each kind of `TextPairs`; else nothing.
        """
        path, max_length = self.store.documents(shard.documents), self.spec.max_length
        if self.spec.mode == "pairs":
            yield from text_pairs.tokenized(path, tokenizer, self.special, wanted, max_length)
            return
        for ids, lengths in _tokenized(path, tokenizer, self.special, wanted):
            block = packing.make_rows(ids, lengths, self.spec.mode, max_length, self.special)
            yield ids, block, np.empty((0, 2), np.uint32)


def make(maker: RowMaker, tokenizer: BatchTokenizer, side: np.ndarray, shard: ShardKeys) -> None:
    """Write the rows of a shard, of both splits, and count the tokens of its training rows.

    Args:
        maker: What all shards have in common.
        tokenizer: The tokenizer.
        side: [documents] the selection of this shard's documents.
        shard: The shard.
    """
    store = maker.store
    with named(store.rows(shard.rows, "train")):
        paths, figures = _write(maker, tokenizer, side, shard)
    store.finish(shard.rows, paths, figures)


def _write(
    maker: RowMaker, tokenizer: BatchTokenizer, side: np.ndarray, shard: ShardKeys
) -> tuple[list[Path], dict[str, Any]]:
    """Write the files of `make`, and return them and their figures."""
    store = maker.store
    figures: dict[str, Any] = {}
    paths = []
    for split, wanted in zip(SPLITS, (selection.TRAIN, selection.VALIDATION), strict=True):
        counts = np.zeros(tokenizer.vocab_size, np.int64)
        totals = Counter(dict.fromkeys(("rows", "kept", "dropped", "padded", "saved", "unknown"), 0))
        row_counts, pairs = RowCounts(), [np.empty((0, 2), np.uint32)]

        def blocks(
            wanted: int = wanted,
            counts: np.ndarray = counts,
            totals: Counter[str] = totals,
            pairs: list[np.ndarray] = pairs,
        ) -> Iterator[RowBlock]:
            nonlocal row_counts
            for ids, block, of_documents in maker.blocks(tokenizer, shard, side == wanted):
                pairs.append(of_documents)
                row_counts += RowCounts.of(block.lengths, block.num_chunks)
                unknown = int((ids == maker.special.unknown).sum()) if maker.special.unknown is not None else 0
                totals.update(block.figures(len(ids)) | {"saved": int(maker.saved[ids].sum()), "unknown": unknown})
                counts += np.bincount(block.input_ids.reshape(-1), minlength=len(counts))
                yield block

        path = store.rows(shard.rows, split)
        rows.write(path, maker.spec.max_length, blocks())
        paths.append(path)
        found = rows.blocks_of(path)
        figures[split] = dict(totals) | {"row_counts": row_counts.to_json(), "blocks": found}
        figures[split]["block_hashes"] = rows.hashes_of(path, found)
        if maker.spec.mode == "pairs":
            paths.append(_pairs_file(store, shard, split))
            write_array(paths[-1], np.concatenate(pairs))
        if split == "train":
            counts[list(maker.special.all)] = 0
            path = _counts_file(store, shard)
            write_array(path, counts)
            paths.append(path)
    return paths, figures


def arrays(store: ShardStore, shards: Sequence[ShardKeys]) -> dict[str, np.ndarray]:
    """{path in the corpus: array} of what is known of the training rows of all shards, which are finished.

    Returns:
        [vocabulary] occurrences of each token, 0 for special tokens; `HASHES` and `WORD_HASHES`; and `PAIRS`.
    """
    counts: np.ndarray = sum(np.load(_counts_file(store, shard), allow_pickle=False) for shard in shards)
    hashes = {HASHES: [one for shard in shards for one in store.figures(shard.rows)["train"]["block_hashes"]]}
    if shards[0].word_starts:
        hashes[WORD_HASHES] = [one for shard in shards for one in store.figures(shard.word_starts)["block_hashes"]]
    contents = {name: np.frombuffer(bytes.fromhex("".join(some)), np.uint8) for name, some in hashes.items()}
    of_splits = {f"{split}/{PAIRS}": [_pairs_file(store, shard, split) for shard in shards] for split in SPLITS}
    pairs = {
        name: np.concatenate([np.load(path, allow_pickle=False) for path in paths])
        for name, paths in of_splits.items()
        if paths[0].exists()
    }
    return {TOKEN_COUNTS: counts} | {name: content.reshape(-1, 32) for name, content in contents.items()} | pairs


def make_word_starts(maker: RowMaker, tokenizer: BatchTokenizer, side: np.ndarray, shard: ShardKeys) -> None:
    """Write the word starts in the training rows of a shard, whose rows are finished.

    Args:
        maker: What all shards have in common.
        tokenizer: The tokenizer, with `word_starts`.
        side: [documents] the selection of this shard's documents.
        shard: The shard.
    """
    store = maker.store
    blocks = (block for _, block, _ in maker.blocks(tokenizer, shard, side == selection.TRAIN))
    path, figures = store.word_starts(shard.word_starts), store.figures(shard.rows)["train"]
    table = RowTable(
        [store.rows(shard.rows, "train")],
        rows.joined([figures["blocks"]]),
        maker.spec.max_length,
        RowCounts.from_json(figures["row_counts"]),
    )
    store.finish(shard.word_starts, [path], {"block_hashes": word_starts.write(path, table, blocks)})


def _pairs_file(store: ShardStore, shard: ShardKeys, split: str) -> Path:
    return store.partial / split / f"{shard.rows}.npy"


def _counts_file(store: ShardStore, shard: ShardKeys) -> Path:
    return store.partial / "shards" / f"{shard.rows}.npy"


def _tokenized(
    path: Path, tokenizer: BatchTokenizer, special: SpecialTokens, wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The tokens of the wanted documents of a shard, some millions at a time."""
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    count = 0
    for group in document_files.contents(path, wanted):
        waiting.append(token_ids.tokenized(group, tokenizer, special))
        count += len(waiting[-1][0])
        if count >= BLOCK_TOKENS:
            yield _joined(waiting)
            waiting, count = [], 0
    if waiting:
        yield _joined(waiting)


def _joined(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([ids for ids, _ in pairs]), np.concatenate([lengths for _, lengths in pairs])
