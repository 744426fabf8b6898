"""Datasets of the Hugging Face Hub as a source: the text column, written once as parquet files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.readers import READERS
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import write_json

ROWS_PER_FILE = 100_000


class HubDataset:
    """A dataset that is named as on the Hub, such as owner/name."""

    is_local: ClassVar[bool] = False

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`. A name that ends like a file, such as docs.json, is a missing file."""
        is_valid = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None
        return is_valid and Path(name).suffix not in READERS

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        root, commit = fetch(request.name, request.folder, request.key)
        return Fetched(request.name, root, ["*.parquet"], commit=commit)


def fetch(name: str, cache: Path, key: str = "corpus.source") -> tuple[Path, str | None]:
    """Download the `text` column of a dataset's train split, unless the cache has it.

    Args:
        name: Name of the dataset.
        cache: Folder of fetched sources.
        key: The config key that holds the name, for messages.

    Returns:
        A folder of parquet files with one column, text, and the commit of the dataset if the Hub reports one.

    Raises:
        CorpusError: The Hub has no such dataset, cannot be reached, or the dataset has no text column.
    """
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]  # my_data and my-data are two datasets
    folder = cache / f"hub-{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{digest}"
    origin = folder / "origin.json"
    if origin.is_file():
        return folder, json.loads(origin.read_text("utf-8"))["commit"]
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name, timeout=5).sha
        dataset = load_dataset(name, split="train", revision=commit)
    except Exception as error:  # the libraries raise many types for a missing name, no network or no permission
        raise CorpusError(
            f"{key}: {name} is neither a file or folder on this disk nor a dataset the Hub provides ({reason(error)})"
        ) from None
    if "text" not in dataset.column_names:
        raise CorpusError(f"{key}: dataset {name} has no 'text' column, only {', '.join(dataset.column_names)}")
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
    try:
        texts = dataset.select_columns(["text"])
        num_files = -(-len(texts) // ROWS_PER_FILE) or 1
        for i in range(num_files):
            shard = texts.shard(num_shards=num_files, index=i, contiguous=True)
            shard.to_parquet(str(temporary / f"{i:05d}.parquet"))
        write_json(temporary / "origin.json", {"name": name, "commit": commit})
        temporary.chmod(0o755)
        if not folder.is_dir():
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, commit
