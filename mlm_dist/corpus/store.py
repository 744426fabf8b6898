"""Prepared corpora on disk: `<cache_dir>/<digest>/`, whole or not there at all."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import rows, tokens
from mlm_dist.files import sha256_of, write_json

FORMAT = 2  # of the prepared files and of how they are made; other numbers are prepared again
SPLITS = ("train", "validation")


class RowTable:
    """The rows of one split, memory-mapped.

    Args:
        table: An Arrow table with the columns input_ids (fixed-size lists) and length.
        max_length: Tokens in a row.
    """

    def __init__(self, table: Any, max_length: int) -> None:
        chunks = [chunk for chunk in table.column("input_ids").chunks if len(chunk)]
        # Each chunk is a view on the mapped file: [rows of the chunk, max_length], nothing is copied.
        self._chunks = [chunk.flatten().to_numpy().reshape(-1, max_length) for chunk in chunks]
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        self.lengths: np.ndarray = table.column("length").to_numpy()
        self.max_length = max_length

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Rows at `indices`, as an array of shape [len(indices), max_length], int32."""
        found = np.empty((len(indices), self.max_length), np.int32)
        places = np.searchsorted(self._starts, indices, side="right") - 1
        for chunk in np.unique(places):
            here = places == chunk
            found[here] = self._chunks[chunk][indices[here] - self._starts[chunk]]
        return found


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus that is ready to train on."""

    folder: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What is in it and where it came from."""
        found: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text("utf-8"))
        return found

    @property
    def digest(self) -> str:
        """Its name; equal input gives equal digests."""
        return self.folder.name

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer its rows were made with."""
        return tokens.load(str(self.folder / "tokenizer"))

    @cached_property
    def token_counts(self) -> np.ndarray:
        """[vocabulary] how often each token stands in the training rows, special tokens left out."""
        found: np.ndarray = np.load(self.folder / "token_counts.npy", allow_pickle=False)
        return found

    def rows(self, split: str) -> RowTable:
        """The rows of a split."""
        from datasets import load_from_disk

        return RowTable(load_from_disk(str(self.folder / split)).data, self.manifest["config"]["rows"]["max_length"])


class CorpusStore:
    """The place of one digest in the cache.

    Args:
        cache_dir: The cache.
        digest: Of everything the rows depend on.
    """

    def __init__(self, cache_dir: Path, digest: str) -> None:
        self.place = cache_dir / digest
        self.partial = cache_dir / f"{digest}.partial"

    def find(self) -> PreparedCorpus | None:
        """The corpus, if it is there and every file of it is what the manifest says; what is damaged is removed."""
        try:
            corpus = PreparedCorpus(self.place)
            if corpus.manifest["format"] == FORMAT and all(
                (self.place / name).stat().st_size == file["size"] and sha256_of(self.place / name) == file["sha256"]
                for name, file in corpus.manifest["files"].items()
            ):
                return corpus
        except (OSError, ValueError, KeyError, TypeError):
            pass
        shutil.rmtree(self.place, ignore_errors=True)
        return None

    def begin(self) -> None:
        """An empty workshop; what an interrupted preparation left is removed."""
        shutil.rmtree(self.partial, ignore_errors=True)
        for name in ("documents", "rows"):
            (self.partial / name).mkdir(parents=True)

    def documents(self, shard: int) -> Path:
        """Where the documents of a shard are kept until they are rows."""
        return self.partial / "documents" / f"{shard:05d}.parquet"

    def rows(self, shard: int, split: str) -> Path:
        """Where the rows of a shard are kept until all are there."""
        return self.partial / "rows" / f"{split}-{shard:05d}.arrow"

    def counts(self, stage: str, shard: int) -> Path:
        """Where a shard's figures are kept; written last, so it says the shard is done."""
        return self.partial / stage / f"{shard:05d}.json"

    def publish(self, manifest: dict[str, Any], num_shards: int, token_counts: np.ndarray) -> PreparedCorpus:
        """Join the shards into two `datasets` folders, describe every file, and put the corpus in place in one step."""
        for split in SPLITS:
            self._join(split, num_shards, manifest["config"]["rows"]["max_length"])
        np.save(self.partial / "token_counts.npy", token_counts, allow_pickle=False)
        for name in ("documents", "rows"):
            shutil.rmtree(self.partial / name)
        paths = sorted(path for path in self.partial.rglob("*") if path.is_file())
        described = {
            path.relative_to(self.partial).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in paths
        }
        write_json(self.partial / "manifest.json", manifest | {"files": described}, indent=1)
        shutil.rmtree(self.place, ignore_errors=True)
        self.partial.rename(self.place)
        return PreparedCorpus(self.place)

    def _join(self, split: str, num_shards: int, max_length: int) -> None:
        import pyarrow as pa
        from datasets import Dataset, DatasetInfo, disable_progress_bars

        schema = rows.features(max_length)
        tables = [
            pa.ipc.open_stream(pa.memory_map(str(self.rows(shard, split)))).read_all() for shard in range(num_shards)
        ]
        table = pa.concat_tables(tables) if tables else schema.arrow_schema.empty_table()
        # The fingerprint is given, because the library's own depends on times: equal input shall give equal files.
        dataset = Dataset(table, info=DatasetInfo(features=schema), fingerprint=f"{self.place.name}-{split}")
        disable_progress_bars()
        # An empty split would be saved as no file at all, and could not be loaded.
        dataset.save_to_disk(str(self.partial / split), num_shards=None if len(table) else 1)
