"""Prepared corpora on disk: `<cache_dir>/<digest>/`, complete or not there at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import document_files, selection
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.stored_corpus import StoredCorpus
from mlm_dist.corpus.stored_rows import StoredRows
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.files import mapped_array
from mlm_dist.spec.corpus import PACKED

FORMAT = 11  # of the manifest and of shard records; a corpus with another number is prepared again
SPLITS = ("train", "validation")
_NAMES = {selection.TRAIN: "train", selection.VALIDATION: "validation"}
BLOCKS = "blocks.npy"  # of a split: where its rows are, see `rows.joined`
# [blocks, 32] bytes: SHA-256 of each block of training rows, and of the word starts in each if they are stored.
HASHES, WORD_HASHES = "train/block_hashes.npy", "train/word_start_hashes.npy"
TOKEN_COUNTS = "token_counts.npy"
PAIRS_TOGETHER = 4  # rows of a document, see `pairs_together`
PAIRS = "pairs.npy"  # of a split, with rows.mode pairs: [documents, 2] how many rows of each kind


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus to train on.

    Args:
        folder: Its folder in the cache.
        stored: Where its documents and training rows are if they stay in a store; the folder has the other files.
    """

    folder: Path
    stored: StoredCorpus | None = None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the corpus holds and where it comes from, see `manifest.describe`."""
        value: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text("utf-8"))
        return value

    @property
    def digest(self) -> str:
        """Its name; equal inputs give equal digests."""
        return self.folder.name

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer its rows were made with."""
        return loading.load(str(self.folder / "tokenizer"))

    @cached_property
    def domain_tokens(self) -> dict[int, list[int]]:
        """{id of each domain token: ids of the pieces that the original tokenizer splits it into}."""
        tokens: list[dict[str, Any]] = json.loads((self.folder / "domain_tokens.json").read_text("utf-8"))
        return {token["id"]: token["pieces"] for token in tokens}

    @cached_property
    def token_counts(self) -> np.ndarray:
        """[vocabulary] occurrences of each token in the training rows; 0 for special tokens."""
        counts: np.ndarray = np.load(self.folder / TOKEN_COUNTS, allow_pickle=False)
        return counts

    @property
    def is_packed(self) -> bool:
        """Whether rows may hold several chunks, which must not attend to each other."""
        return self.manifest["config"]["rows"]["mode"] in PACKED

    @property
    def has_pairs(self) -> bool:
        """Whether each row is a pair of a query and a passage."""
        return bool(self.manifest["config"]["rows"]["mode"] == "pairs")

    @property
    def is_searched(self) -> bool:
        """Whether near-duplicates were searched."""
        return bool(self.manifest["config"]["corpus"]["signed"])

    def groups(self, split: str) -> np.ndarray:
        """[rows, 2] of each pair of a split, see `rows.RowTable`."""
        chosen = selection.load(self.folder / "selection.npy")
        code = next(code for code, name in _NAMES.items() if name == split)
        counts = self._pair_counts(split)
        document = np.repeat(np.arange(len(counts)), counts.sum(1))
        number = np.stack([np.arange(1, len(counts) + 1), np.zeros(len(counts), np.int64)], 1)
        of_headings = np.repeat(number.reshape(-1), counts.reshape(-1))
        return np.stack([chosen.group[chosen.side == code][document], of_headings], 1).astype(np.int64)

    def pairs_together(self, split: str) -> np.ndarray:
        """[pieces] sizes of pieces of up to `PAIRS_TOGETHER` rows of one document, which are trained on together.

        So some negatives of a heading are sections of its document.
        """
        counts = self._pair_counts(split).sum(1)
        pieces = -(-counts // PAIRS_TOGETHER)
        number = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of each within its document
        found: np.ndarray = np.minimum(np.repeat(counts, pieces) - PAIRS_TOGETHER * number, PAIRS_TOGETHER)
        return found

    def _pair_counts(self, split: str) -> np.ndarray:
        return mapped_array(self.folder / split / PAIRS).astype(np.int64)

    @property
    def is_readable(self) -> bool:
        """Whether all files that it is read from are in its manifest, and so in its folder, with as many rows."""
        files = self.manifest["files"]
        names = ["selection.npy", TOKEN_COUNTS, HASHES]
        names += [f"documents/{key}.parquet" for key in self.manifest["shards"]]
        names += [WORD_HASHES] if self.manifest["config"].get("words") else []
        for split in SPLITS:
            names += [f"{split}/{name}" for name in (BLOCKS, "dataset_info.json", "state.json")]
            names += [f"{split}/{PAIRS}"] if self.has_pairs else []
            names += self._row_files(split)
        rows = ((self.rows(split), self.manifest["rows"][split]) for split in SPLITS)
        return all(name in files for name in names) and all(len(one) == one.counts.rows == count for one, count in rows)

    def documents(self, split: str | None = None) -> Iterator[tuple[str, str, str]]:
        """(id, split, text) of all kept documents, or of those of one split; texts are cleaned.

        The text of a document that was tokenized already is decoded from its tokens.
        """
        for path, side in self._shards():
            wanted = np.isin(side, [code for code, name in _NAMES.items() if split in (None, name)])
            found = chain.from_iterable(document_files.contents(path, wanted))
            for code, (id_, text, tokens) in zip(side[wanted].tolist(), found, strict=True):
                shown = text if tokens is None else self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
                yield id_, _NAMES[code], shown

    def outlines(self, split: str, *, decoded: bool = False) -> Iterator[tuple[str, str, Outline]]:
        """(id, text, outline) of the kept documents of one split.

        Args:
            split: train or validation.
            decoded: Whether to include documents that were tokenized already, with the text of their tokens.
        """
        for path, side in self._shards():
            wanted = np.isin(side, [code for code, name in _NAMES.items() if split == name])
            for id_, text, outline in chain.from_iterable(document_files.outlined(path, wanted)):
                if isinstance(text, str):
                    yield id_, text, outline
                elif decoded:
                    yield id_, self.tokenizer.decode(text.tolist(), skip_special_tokens=True), outline

    def _shards(self) -> Iterator[tuple[Path, np.ndarray]]:
        """The documents of each shard, and the side of each of them."""
        side = selection.load(self.folder / "selection.npy").side
        start = 0
        for key in self.manifest["shards"]:
            with self._documents_file(f"documents/{key}.parquet") as path:
                stop = start + document_files.count(path)
                yield path, side[start:stop]
            start = stop

    def _documents_file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        return contextlib.nullcontext(self.folder / name) if self.stored is None else self.stored.file(name)

    def source_rows(self, split: str) -> dict[str, range]:
        """{name of each source: the indices of its rows in a split}; the name of an only source is empty."""
        found, start = {}, 0
        for source in self.manifest["sources"]:
            stop = start + int(source["rows"][split])
            found[str(source["name"])], start = range(start, stop), stop
        return found

    def source_counts(self, split: str) -> dict[str, RowCounts]:
        """{name of each source: counts of its rows in a split}."""
        return {str(one["name"]): RowCounts.from_json(one["row_counts"][split]) for one in self.manifest["sources"]}

    @property
    def source_digests(self) -> dict[str, str]:
        """{name of each source: hash of the contents of its training rows}, of sources that have some.

        Other sources, and what is held out, make no difference.
        """
        digests = ((str(source["name"]), source["train_digest"]) for source in self.manifest["sources"])
        return {name: str(digest) for name, digest in digests if digest is not None}

    def _row_files(self, split: str) -> list[str]:
        """The files of a split's rows, in order, relative to the folder."""
        state: dict[str, Any] = json.loads((self.folder / split / "state.json").read_text("utf-8"))
        return [f"{split}/{file['filename']}" for file in state["_data_files"]]

    @cached_property
    def _tables(self) -> dict[str, RowTable]:
        return {}

    def rows(self, split: str) -> RowTable:
        """The rows of a split, opened once."""
        if split not in self._tables:
            table = self._tables[split] = self._open(split)
            table.groups = self.groups(split) if self.has_pairs else None
        return self._tables[split]

    def _open(self, split: str) -> RowTable:
        config, counts = self.manifest["config"], self.manifest["row_counts"][split]
        files = [self.folder / name for name in self._row_files(split)]
        has_words = split == "train" and config.get("words")
        starts = [path.with_name(f"{word_starts_key(path.stem)}.npy") for path in files] if has_words else []
        max_length = config["rows"]["max_length"]
        table = (files, mapped_array(self.folder / split / BLOCKS), max_length, RowCounts.from_json(counts), starts)
        if split == "train" and self.stored is not None:
            hashes = [mapped_array(self.folder / name) for name in (HASHES, WORD_HASHES)[: 2 if starts else 1]]
            return StoredRows(self.stored, *table, hashes)
        return RowTable(*table)


def word_starts_key(rows_key: str) -> str:
    """The key of the word starts in the rows of a shard."""
    return f"{rows_key}.words"
