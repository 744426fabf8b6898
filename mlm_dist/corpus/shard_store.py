"""Shards of a corpus in preparation: `<cache_dir>/<digest>.partial/`, renamed to `<cache_dir>/<digest>/` at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.corpus import file_records, rows
from mlm_dist.corpus.known_hashes import KnownHashes
from mlm_dist.corpus.store import BLOCKS, FORMAT, SPLITS, PreparedCorpus
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_array, write_json
from mlm_dist.system_errors import passes

DROPPED = "dropped"  # of `ShardFigures`: a list that may be long, and is therefore not kept in memory


class ShardKeys(NamedTuple):
    """The keys of a shard's documents, of its rows, and of the word starts in its rows; empty if not needed."""

    documents: str
    rows: str
    word_starts: str = ""


class ShardStore:
    """The folder of a corpus in the cache, and the partial folder beside it in which its shards are made.

    The key of a shard is a hash of everything it depends on. So an interrupted preparation continues after its finished
    shards, and a corpus whose source has changed reuses the unchanged shards of other corpora in the cache.

    Args:
        cache_dir: The cache.
        digest: Hash of everything the rows depend on.
    """

    def __init__(self, cache_dir: Path, digest: str) -> None:
        self._cache_dir = cache_dir
        self.folder = cache_dir / digest
        self.partial = cache_dir / f"{digest}.partial"
        self._hashes = KnownHashes(self.folder, cache_dir, digest, _refuse_compressed)
        self._figures: dict[str, dict[str, Any]] = {}  # of finished shards, which never change

    def find(self) -> PreparedCorpus | None:
        """The corpus, if it exists and all its files match the manifest; a damaged one is removed.

        Raises:
            CorpusError: The disk cannot be read. Nothing is removed in that case.
            OSError: This process has too many open files, or too little memory; nor is it then.
        """
        try:
            corpus = PreparedCorpus(self.folder)
            is_usable = corpus.manifest["format"] == FORMAT and corpus.manifest["digest"] == self.folder.name
            files = corpus.manifest["files"]
            if is_usable and file_records.are_intact(self.folder, files, self._hashes) and corpus.is_readable:
                return corpus
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            pass
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # it is not what was written
            pass
        except OSError as error:
            if passes(error):
                raise
            raise CorpusError(
                f"corpus.cache_dir: cannot read {self.folder} ({error.strerror}); check the disk and try again, or "
                "delete that folder to prepare the corpus again"
            ) from None
        _remove(self.folder)
        return None

    def begin(self) -> None:
        """Make the partial folder, and remove all but the finished shards of an interrupted preparation.

        A link is removed itself; what it points to is not touched.
        """
        known = ("documents", "shards", *SPLITS)
        for folder in (self.partial, *map(self.partial.joinpath, known)):
            if folder.is_symlink() or not folder.is_dir():
                _remove(folder)
            folder.mkdir(parents=True, exist_ok=True)
        for path in self.partial.iterdir():
            if path.name not in known:
                _remove(path)
        for path in (self.partial / "shards").glob("*.json"):
            if not _finished(self.partial, path.stem):
                path.unlink()

    def documents(self, key: str) -> Path:
        """File of a shard's documents."""
        return self.partial / "documents" / f"{key}.parquet"

    def rows(self, key: str, split: str) -> Path:
        """File of a shard's rows."""
        return self.partial / split / f"{key}.arrow"

    def word_starts(self, key: str) -> Path:
        """File of the word starts in a shard's training rows."""
        return self.partial / "train" / f"{key}.npy"

    def record(self, key: str) -> Path:
        """File that exists once a shard is finished, with its figures."""
        return self.partial / "shards" / f"{key}.json"

    def finish(self, key: str, paths: Sequence[Path], figures: dict[str, Any]) -> None:
        """Record that a shard is finished, after its files are written."""
        files = file_records.describe(self.partial, paths)
        write_json(self.record(key), figures | {"format": FORMAT, "files": files}, durable=False)

    def is_finished(self, key: str) -> bool:
        """Whether a shard is finished, here or in another corpus of the cache, whose files are then reused."""
        if self.record(key).exists():
            return True
        for path in sorted(self._cache_dir.glob(f"*/shards/{key}.json")):
            other = path.parent.parent
            figures = _finished(other, key)
            if figures is not None:
                try:
                    for name in figures["files"]:
                        _reuse(other / name, self.partial / name)
                except OSError:  # the other corpus is being removed
                    continue
                write_json(self.record(key), figures, durable=False)
                return True
        return False

    def figures(self, key: str) -> dict[str, Any]:
        """The figures of a finished shard, without what it dropped."""
        if key not in self._figures:
            figures = json.loads(self.record(key).read_text("utf-8"))
            self._figures[key] = {name: value for name, value in figures.items() if name != DROPPED}
        return self._figures[key]

    def dropped(self, key: str) -> list[tuple[str, str]]:
        """(id, reason) of all that a finished shard of documents dropped."""
        if not self.figures(key)["num_dropped"]:
            return []
        return [(id_, reason) for id_, reason in json.loads(self.record(key).read_text("utf-8"))[DROPPED]]

    def publish(
        self, manifest: dict[str, Any], shards: Sequence[ShardKeys], arrays: Mapping[str, np.ndarray]
    ) -> PreparedCorpus:
        """Make the shards two `datasets` folders, write arrays, add all files to the manifest, and rename."""
        keys = dict.fromkeys(key for shard in shards for key in shard if key)
        for path in (path for name in ("documents", "shards", *SPLITS) for path in (self.partial / name).iterdir()):
            if path.stem not in keys:
                path.unlink()  # left by an interrupted preparation of other files under the same digest
        figures = [self.figures(shard.rows) for shard in shards]
        for split in SPLITS:
            some = [i for i, one in enumerate(figures) if one[split]["rows"]] or [0]
            write_array(self.partial / split / BLOCKS, rows.joined([figures[i][split]["blocks"] for i in some]))
            _write_dataset(
                self.partial / split,
                [f"{shards[i].rows}.arrow" for i in some],
                fingerprint=f"{self.folder.name}-{split}",
                max_length=manifest["config"]["rows"]["max_length"],
            )
        for name, array in arrays.items():
            write_array(self.partial / name, array)
        files = {name: file for key in keys for name, file in self.figures(key)["files"].items()}
        paths = [path for path in sorted(self.partial.rglob("*")) if path.is_file()]
        others = [path for path in paths if path.relative_to(self.partial).as_posix() not in files]
        files |= file_records.describe(self.partial, others)
        write_json(self.partial / "manifest.json", manifest | {"files": dict(sorted(files.items()))}, indent=1)
        return self._rename(files)

    def receive(self, manifest: dict[str, Any]) -> bool:
        """Publish the partial folder, whose files were compared with a manifest; whether they are a corpus."""
        try:
            if not PreparedCorpus(self.partial).is_readable:
                return False
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False
        self._rename(manifest["files"])
        return True

    def _rename(self, files: Mapping[str, Mapping[str, Any]]) -> PreparedCorpus:
        _remove(self.folder)
        self.partial.rename(self.folder)
        self._hashes.remember({name: file["sha256"] for name, file in files.items()})
        return PreparedCorpus(self.folder)


def _refuse_compressed(path: Path) -> None:
    """Refuse a file of rows that are compressed and could fill the memory.

    Raises:
        ValueError: They are.
    """
    if path.suffix == ".arrow":
        rows.blocks_of(path)


def _remove(path: Path) -> None:
    """Remove a folder with its content, a file, or a link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The figures of a shard, if it is finished and its files are intact."""
    try:
        figures: dict[str, Any] = json.loads((folder / "shards" / f"{key}.json").read_text("utf-8"))
        is_usable = figures["format"] == FORMAT and file_records.are_intact(folder, figures["files"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return figures if is_usable else None


def _reuse(theirs: Path, ours: Path) -> None:
    """Link a file of another corpus, or copy it where the disk has no hard links. Finished files never change."""
    ours.unlink(missing_ok=True)
    try:
        os.link(theirs, ours)
    except OSError:
        shutil.copyfile(theirs, ours)


def _write_dataset(folder: Path, names: list[str], *, fingerprint: str, max_length: int) -> None:
    """Make a folder of Arrow files one that `datasets.load_from_disk` reads."""
    from datasets import DatasetInfo

    DatasetInfo(features=rows.features(max_length)).write_to_directory(str(folder))
    # The library's own fingerprint depends on times; equal inputs must give equal files.
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
