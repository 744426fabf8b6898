"""Datasets of the Hugging Face Hub as a source: the needed columns, written once as parquet files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from mlm_dist import names
from mlm_dist.config import SourceConfig
from mlm_dist.corpus.readers import READERS, ReadSettings, compression, tables
from mlm_dist.corpus.sources import source_keys
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import give_modes, temporary_folder, write_json
from mlm_dist.retries import retry

ROWS_PER_FILE, STREAMED_ROWS_PER_FILE = 100_000, 10_000  # streamed rows are in memory until their file is written


class HubDataset:
    """A dataset that is named as on the Hub, such as owner/name."""

    is_local: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = source_keys.OPTIONS

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`. Only owner/name is asked for: all other names, and those like a path here, are of this disk.

        A misspelt folder is so refused at once, and not after the Hub has been asked for it.
        """
        is_valid = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None
        is_file = Path(compression.content_name(name)).suffix in READERS
        return is_valid and not is_file and not Path(name).parent.is_dir() and names.nearest_path(name) is None

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        root, commit = fetch(request.config, request.name, request.folder, request.key)
        return Fetched(request.name, root, ["*.parquet"], commit=commit)


def fetch(config: SourceConfig, name: str, cache: Path, key: str = "corpus.source") -> tuple[Path, str | None]:
    """Download the needed columns of a split of a dataset, unless the cache has it.

    Args:
        config: Configuration, split, revision and number of rows, and the fields to keep.
        name: Name of the dataset.
        cache: Folder of fetched sources.
        key: The config key that holds the name, for messages.

    Returns:
        A folder of parquet files, and the commit of the dataset if the Hub reports one.

    Raises:
        CorpusError: The Hub has no such dataset, cannot be reached, or the dataset has no column of text.
    """
    # my_data and my-data are two datasets.
    digest = hashlib.sha256("\0".join([name, *_chosen(config)]).encode()).hexdigest()[:12]
    folder = cache / f"hub-{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{digest}"
    origin = folder / "origin.json"
    if origin.is_file():
        return folder, json.loads(origin.read_text("utf-8"))["commit"]
    dataset, commit = _load(config, name, key)
    cache.mkdir(parents=True, exist_ok=True)
    temporary = temporary_folder(cache / folder.name)
    try:
        if config.limit is None:
            _write(_with_columns(dataset, dataset.column_names, config, name, key), temporary)
        else:
            _write_streamed(dataset, config, name, key, temporary)
        write_json(temporary / "origin.json", {"name": name, "commit": commit} | source_keys.options(config))
        give_modes(temporary)
        if not folder.is_dir():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, commit


def _chosen(config: SourceConfig) -> list[str]:
    """What the files depend on besides the name of the dataset; nothing if all keys have their defaults."""
    values = {"text": config.text, "split": config.split, "group": config.group} | source_keys.options(config)
    default = SourceConfig()
    return [f"{name}={value}" for name, value in values.items() if value != getattr(default, name)]


def _load(config: SourceConfig, name: str, key: str) -> tuple[Any, str | None]:
    """The dataset, streamed if only its first rows are wanted, and its commit."""
    from datasets import load_dataset
    from huggingface_hub import HfApi

    revision = {} if config.revision is None else {"revision": config.revision}
    try:
        commit = retry(lambda: HfApi().dataset_info(name, timeout=5, **revision).sha, f"{key}: {name}")
        configuration = () if config.dataset_config is None else (config.dataset_config,)
        streaming = {} if config.limit is None else {"streaming": True}
        split = config.dataset_split or "train"
        load = partial(load_dataset, name, *configuration, split=split, revision=commit, **streaming)
        return retry(load, f"{key}: {name}"), commit
    except Exception as error:  # the libraries raise many types for a missing name, no network or no permission
        said = reason(error)
        section = key.rsplit(".", 1)[0]
        if isinstance(error, ValueError) and re.search(r"\b(split|config)", said, re.IGNORECASE):
            raise CorpusError(
                f"{key}: dataset {name} has other configurations or splits ({said}); set {section}.dataset_config and "
                f"{section}.dataset_split"
            ) from None
        raise CorpusError(
            f"{key}: {name} is neither a file or folder on this disk nor a dataset the Hub provides ({said})"
        ) from None


def _with_columns(dataset: Any, names: list[str], config: SourceConfig, name: str, key: str) -> Any:
    """The dataset with the needed columns only.

    Raises:
        CorpusError: It has no column of text.
    """
    settings = ReadSettings(0, tuple(config.text), split=config.split, group=config.group)
    columns = tables.columns(names, settings)
    if columns is None:
        missing = " or ".join(map(repr, config.text))
        raise CorpusError(
            f"{key}: dataset {name} has no {missing} column, only {', '.join(names)}; name one of them with "
            f"{key.rsplit('.', 1)[0]}.text"
        )
    return dataset.select_columns(columns)


def _write(dataset: Any, folder: Path) -> None:
    num_files = -(-len(dataset) // ROWS_PER_FILE) or 1
    for i in range(num_files):
        shard = dataset.shard(num_shards=num_files, index=i, contiguous=True)
        shard.to_parquet(str(folder / f"{i:05d}.parquet"))


def _write_streamed(dataset: Any, config: SourceConfig, name: str, key: str, folder: Path) -> None:
    """Write the first rows of a streamed dataset.

    Raises:
        CorpusError: The rows have no text, or the download failed.
    """
    from datasets import Dataset

    try:
        rows = islice(iter(dataset), config.limit)
        i = 0
        while some := list(islice(rows, STREAMED_ROWS_PER_FILE)):
            table = Dataset.from_list(some)
            _with_columns(table, table.column_names, config, name, key).to_parquet(str(folder / f"{i:05d}.parquet"))
            i += 1
    except CorpusError:
        raise
    except Exception as error:  # of the network, of files on the Hub, or of their formats
        raise CorpusError(f"{key}: dataset {name} cannot be read ({reason(error)}); try again") from None
