"""Prepared corpora on disk: `<cache_dir>/<digest>/`, whole or not there at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.corpus import documents, rows, selection
from mlm_dist.corpus.rows import RowTable
from mlm_dist.corpus.tokenizer import loading, word_starts
from mlm_dist.errors import CorpusError
from mlm_dist.files import sha256_of, write_json

FORMAT = 4  # of the prepared files and of how they are made; other numbers are prepared again
SPLITS = ("train", "validation")


class ShardKeys(NamedTuple):
    """The names of a shard's documents, of its rows, and of where words begin in these; empty where nobody asks."""

    documents: str
    rows: str
    words: str = ""


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
        return loading.load(str(self.folder / "tokenizer"))

    @cached_property
    def domain_tokens(self) -> dict[int, list[int]]:
        """{id of each domain token: ids of the pieces it was cut into before}."""
        found: list[dict[str, Any]] = json.loads((self.folder / "domain_tokens.json").read_text("utf-8"))
        return {token["id"]: token["pieces"] for token in found}

    @cached_property
    def token_counts(self) -> np.ndarray:
        """[vocabulary] how often each token stands in the training rows, special tokens left out."""
        found: np.ndarray = np.load(self.folder / "token_counts.npy", allow_pickle=False)
        return found

    @property
    def is_packed(self) -> bool:
        """Whether its rows hold several chunks, which must not see each other."""
        return bool(self.manifest["config"]["rows"]["mode"] == "pack")

    def documents(self, split: str | None = None) -> Iterator[tuple[str, str, str]]:
        """(id, split, text) of all documents that stayed, or those of one split; the text as it was cleaned."""
        side = selection.load(self.folder / "selection.npz").side
        names = {selection.TRAIN: "train", selection.VALIDATION: "validation"}
        start = 0
        for key in self.manifest["shards"]:
            path = self.folder / "documents" / f"{key}.parquet"
            ids = documents.ids(path)
            here = side[start : start + len(ids)]
            wanted = np.isin(here, [code for code, name in names.items() if split in (None, name)])
            texts = chain.from_iterable(documents.texts(path, wanted))
            for i, text in zip(np.flatnonzero(wanted).tolist(), texts, strict=True):
                yield ids[i], names[int(here[i])], text
            start += len(ids)

    def rows(self, split: str) -> RowTable:
        """The rows of a split."""
        from datasets import load_from_disk

        folder, config = self.folder / split, self.manifest["config"]
        begins: list[np.ndarray] = []
        if split == "train" and config.get("words"):
            state: dict[str, Any] = json.loads((folder / "state.json").read_text("utf-8"))
            files = [folder / file["filename"] for file in state["_data_files"]]
            begins = [word_starts.read(path.with_name(f"{words_key(path.stem)}.npy")) for path in files]
        return RowTable(load_from_disk(str(folder)).data, config["rows"]["max_length"], begins)


def words_key(rows_key: str) -> str:
    """The name of where words begin in the rows of that name."""
    return f"{rows_key}.words"


class CorpusStore:
    """The place of one digest in the cache, and the workshop beside it where its shards are made.

    A finished shard is known by a key: a hash of all it depends on. So an interrupted preparation goes on at the shards
    that are done, and one of a changed source takes the unchanged shards from its predecessors.

    Args:
        cache_dir: The cache.
        digest: Of everything the rows depend on.
    """

    def __init__(self, cache_dir: Path, digest: str) -> None:
        self._cache_dir = cache_dir
        self.place = cache_dir / digest
        self.partial = cache_dir / f"{digest}.partial"
        self._figures: dict[str, dict[str, Any]] = {}  # of finished shards, which never change

    def find(self) -> PreparedCorpus | None:
        """The corpus, if it is there and every file of it is what the manifest says; what is damaged is removed.

        Raises:
            CorpusError: The disk cannot say; nothing is removed then.
        """
        try:
            corpus = PreparedCorpus(self.place)
            if corpus.manifest["format"] == FORMAT and _are_there(self.place, corpus.manifest["files"]):
                return corpus
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
            pass
        except OSError as error:
            raise CorpusError(
                f"corpus.cache_dir: cannot read {self.place} ({error.strerror}); see to the disk and try again, or "
                "delete that folder to prepare it anew"
            ) from None
        _remove(self.place)
        return None

    def begin(self) -> None:
        """A workshop that holds nothing but finished shards of an interrupted preparation.

        What is cleared away later must lie in it: links are removed, whatever they lead to is left alone.
        """
        known = ("documents", "shards", *SPLITS)
        for folder in (self.partial, *map(self.partial.joinpath, known)):
            if folder.is_symlink() or not folder.is_dir():
                _remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
        for path in self.partial.iterdir():
            if path.name not in known:
                _remove(path)
        for mark in (self.partial / "shards").glob("*.json"):
            if not _finished(self.partial, mark.stem):
                mark.unlink()

    def documents(self, key: str) -> Path:
        """Where the documents of a shard are."""
        return self.partial / "documents" / f"{key}.parquet"

    def rows(self, key: str, split: str) -> Path:
        """Where the rows of a shard are."""
        return self.partial / split / f"{key}.arrow"

    def words(self, key: str) -> Path:
        """Where it is kept where words begin in the training rows of a shard."""
        return self.partial / "train" / f"{key}.npy"

    def mark(self, key: str) -> Path:
        """The file that says a shard is finished, and what came of it."""
        return self.partial / "shards" / f"{key}.json"

    def finish(self, key: str, paths: Sequence[Path], figures: dict[str, Any]) -> None:
        """Mark a shard as finished, its files being written."""
        write_json(self.mark(key), figures | {"files": _described(self.partial, paths)}, durable=False)

    def is_finished(self, key: str) -> bool:
        """Whether a shard is finished, here or in another corpus of the cache; there, its files are taken over."""
        if self.mark(key).exists():
            return True
        for path in sorted(self._cache_dir.glob(f"*/shards/{key}.json")):
            theirs = path.parent.parent
            figures = _finished(theirs, key)
            if figures is not None:
                try:
                    for name in figures["files"]:
                        _take_over(theirs / name, self.partial / name)
                except OSError:  # it goes away while we look
                    continue
                write_json(self.mark(key), figures, durable=False)
                return True
        return False

    def figures(self, key: str) -> dict[str, Any]:
        """What came of a finished shard."""
        if key not in self._figures:
            self._figures[key] = json.loads(self.mark(key).read_text("utf-8"))
        return self._figures[key]

    def publish(
        self, manifest: dict[str, Any], shards: Sequence[ShardKeys], token_counts: np.ndarray
    ) -> PreparedCorpus:
        """Make the shards two `datasets` folders, describe every file, and put the corpus in place in one step."""
        keys = dict.fromkeys(key for shard in shards for key in shard if key)
        for path in (path for name in ("documents", "shards", *SPLITS) for path in (self.partial / name).iterdir()):
            if path.stem not in keys:
                path.unlink()  # of another source, or of other rows, that was interrupted under this digest
        figures = [self.figures(shard.rows) for shard in shards]
        for split in SPLITS:
            _write_dataset(
                self.partial / split,
                [f"{shard.rows}.arrow" for shard, found in zip(shards, figures, strict=True) if found[split]["rows"]]
                or [f"{shards[0].rows}.arrow"],
                fingerprint=f"{self.place.name}-{split}",
                max_length=manifest["config"]["rows"]["max_length"],
            )
        np.save(self.partial / "token_counts.npy", token_counts, allow_pickle=False)
        files = {name: file for key in keys for name, file in self.figures(key)["files"].items()}
        paths = [path for path in sorted(self.partial.rglob("*")) if path.is_file()]
        rest = [path for path in paths if path.relative_to(self.partial).as_posix() not in files]
        files |= _described(self.partial, rest)
        write_json(self.partial / "manifest.json", manifest | {"files": dict(sorted(files.items()))}, indent=1)
        _remove(self.place)
        self.partial.rename(self.place)
        return PreparedCorpus(self.place)


def _remove(path: Path) -> None:
    """A folder with all that is in it, or a file; of a link the link alone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """What came of a shard, if it is finished and whole."""
    try:
        figures: dict[str, Any] = json.loads((folder / "shards" / f"{key}.json").read_text("utf-8"))
        return figures if _are_there(folder, figures["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _described(folder: Path, paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in paths
    }


def _are_there(folder: Path, files: dict[str, dict[str, Any]]) -> bool:
    """Whether these files are in the folder, and what they are said to be. No name may lead out of the folder."""
    return all(
        not Path(name).is_absolute()
        and ".." not in Path(name).parts
        and (folder / name).stat().st_size == file["size"]
        and sha256_of(folder / name) == file["sha256"]
        for name, file in files.items()
    )


def _take_over(theirs: Path, ours: Path) -> None:
    """Finished files never change, so two corpora can share one; where the disk cannot, it is copied."""
    ours.unlink(missing_ok=True)
    try:
        os.link(theirs, ours)
    except OSError:
        shutil.copyfile(theirs, ours)


def _write_dataset(folder: Path, names: list[str], *, fingerprint: str, max_length: int) -> None:
    """What makes a folder of Arrow files one that `datasets.load_from_disk` reads."""
    from datasets import DatasetInfo

    DatasetInfo(features=rows.features(max_length)).write_to_directory(str(folder))
    # The fingerprint is given, because the library's own depends on times: equal input shall give equal files.
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    write_json(folder / "state.json", state, indent=2)
