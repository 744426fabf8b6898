"""Datasets of the Hugging Face hub as a source: their text column, written once as parquet files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import write_json

ROWS_PER_FILE = 100_000


def fetch(name: str, cache: Path) -> tuple[Path, str | None]:
    """Download the `text` column of a dataset's train split; a dataset that was fetched before is used as it is.

    Returns:
        A folder of parquet files with one column, text; and the commit they belong to, where the hub says.

    Raises:
        CorpusError: There is no such dataset, the hub cannot be reached, or it has no text column.
    """
    key = hashlib.sha256(name.encode()).hexdigest()[:12]  # my_data and my-data are two datasets
    place = cache / f"hub-{re.sub(r'[^A-Za-z0-9]+', '-', name)}-{key}"
    origin = place / "origin.json"
    if origin.is_file():
        return place, json.loads(origin.read_text("utf-8"))["commit"]
    from datasets import load_dataset
    from huggingface_hub import HfApi

    try:
        commit = HfApi().dataset_info(name, timeout=5).sha
        dataset = load_dataset(name, split="train", revision=commit)
    except Exception as error:  # the libraries raise a dozen kinds for: no such name, no network, no permission
        raise CorpusError(
            f"corpus.source: {name} is neither a file or folder here nor a dataset the hub would give ({reason(error)})"
        ) from None
    if "text" not in dataset.column_names:
        raise CorpusError(f"corpus.source: dataset {name} has no 'text' column, only {', '.join(dataset.column_names)}")
    cache.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=cache))
    try:
        texts = dataset.select_columns(["text"])
        num_files = -(-len(texts) // ROWS_PER_FILE) or 1
        for i in range(num_files):
            shard = texts.shard(num_shards=num_files, index=i, contiguous=True)
            shard.to_parquet(str(temporary / f"{i:05d}.parquet"))
        write_json(temporary / "origin.json", {"name": name, "commit": commit})
        temporary.chmod(0o755)
        if not place.is_dir():
            temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place, commit
