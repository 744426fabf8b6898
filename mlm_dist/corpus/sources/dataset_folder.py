"""Folders of records: what `save_to_disk` of the datasets library writes, and repositories of datasets."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from mlm_dist.config import SourceConfig
from mlm_dist.corpus.readers import READERS, ReadSettings, RecordsReader, compression, reader_of
from mlm_dist.corpus.sources import source_keys
from mlm_dist.corpus.sources.matching_files import Patterns, by_suffix, matching_files
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.errors import CorpusError

# Files that describe a dataset, and are no records.
DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json")
ABOUT = ("readme", "license", "licence", "changelog", "citation", "dataset_card", "notice", "requirements")

logger = logging.getLogger(__name__)


def saved(root: Path, request: Request) -> Fetched | None:
    """The files of a folder that `save_to_disk` wrote, of one dataset or of one per split; None for another folder.

    Raises:
        CorpusError: It has no split of the name in `corpus.dataset_split`, or its description is damaged.
    """
    wanted = request.config.dataset_split
    splits = _json(root / "dataset_dict.json", request)
    if splits is None:
        description = _json(root / "state.json", request)
        if description is None or "_data_files" not in description:
            if wanted is not None:
                raise CorpusError(
                    f"{request.key.rsplit('.', 1)[0]}.dataset_split: {request.name} is not a folder with the splits of "
                    "a dataset; remove the key"
                )
            return None
        if wanted is not None and description.get("_split") not in (None, wanted):
            raise _no_split(request, [description["_split"]])
        return Fetched(request.name, root, request.patterns, files=_data_files(root, "", description))
    names = [str(name) for name in splits.get("splits", [])]
    chosen = names if wanted is None else [name.strip() for name in wanted.split("+")]
    if not set(chosen) <= set(names):
        raise _no_split(request, names)
    files: list[str] = []
    for name in chosen:
        files += _data_files(root, name, _json(root / name / "state.json", request) or {})
    return Fetched(request.name, root, request.patterns, files=files, has_splits=len(names) > 1)


def records(fetched: Fetched, documents: Collection[str], config: SourceConfig, cache_dir: Path) -> Fetched | None:
    """The files of records of a folder without documents; None for a folder of documents.

    Only with the default patterns. A folder whose only documents describe it, such as README.md, counts as one without
    documents if its records have the fields of `corpus.text`.

    Args:
        fetched: The folder.
        documents: Its files that the patterns match.
        config: The source.
        cache_dir: The cache, which is not a part of any source.
    """
    if fetched.patterns != SourceConfig().patterns:
        return None
    if not describe_only(documents):
        return None
    found = matching_files(fetched.root, _patterns(), cache_dir)
    files = record_names(found.states)
    if not files or (documents and not _have_text(fetched.root, files, config)):
        return None
    chosen = {*files, *documents}
    others = (name for name in matching_files(fetched.root, ["*"], cache_dir).states if name not in chosen)
    logger.info("%s holds no documents but records; reading %s files", fetched.location, f"{len(files):,}")
    return dataclasses.replace(
        fetched,
        files=files,
        dropped=found.dropped | ({"about the dataset": [*documents]} if documents else {}),
        unmatched=fetched.unmatched or by_suffix(others),
        has_splits=True,
    )


def is_saved(names: Collection[str]) -> bool:
    """Whether a folder with files of these names is one that `save_to_disk` wrote, of one dataset or one per split."""
    return "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= {*names}


def describe_only(documents: Iterable[str]) -> bool:
    """Whether documents of a folder describe what else is there, as README.md does; also if there are none."""
    return all(os.path.basename(name).lower().startswith(ABOUT) for name in documents)


def record_names(names: Iterable[str]) -> list[str]:
    """The files of records among the files of a folder; JSON files beside tables describe them."""
    patterns = Patterns(_patterns())
    files = [name for name in names if patterns.match(name) and os.path.basename(name) not in DESCRIPTIONS]
    return [name for name in files if not compression.content_name(name).lower().endswith(".json")] or files


def _patterns() -> list[str]:
    """Patterns of all files of records, compressed or not; text files hold records only if they are named."""
    suffixes = (suffix for suffix in READERS.names() if issubclass(READERS[suffix], RecordsReader))
    found = [suffix for suffix in suffixes if READERS[suffix].in_folders]
    return [f"**/*{suffix}{packed}" for suffix in found for packed in ("", *compression.OPEN)]


def _have_text(root: Path, files: list[str], config: SourceConfig) -> bool:
    settings = ReadSettings(source_keys.MAX_RECORD_BYTES, tuple(config.text), config.encoding)
    return not source_keys.missing_fields(root, files, settings)[0]


def _data_files(root: Path, folder: str, description: dict[str, Any]) -> list[str]:
    """The files of a saved dataset, by the paths in its description; a path that leads elsewhere is not read."""
    names = [str(one.get("filename", "")) for one in description.get("_data_files", [])]
    files = [os.path.join(folder, name) for name in names if os.path.basename(name) == name]
    return [name for name in files if name and reader_of(name, records=True) and (root / name).is_file()]


def _json(path: Path, request: Request) -> dict[str, Any] | None:
    """An object in a file; None if there is no such file, or something else in it."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError:
        return None
    except ValueError:
        raise CorpusError(f"{request.key}: {path} is not JSON; save the dataset again") from None
    return value if isinstance(value, dict) else None


def _no_split(request: Request, names: list[str]) -> CorpusError:
    key = f"{request.key.rsplit('.', 1)[0]}.dataset_split"
    return CorpusError(
        f"{key}: {request.name} has no split {request.config.dataset_split}, only {', '.join(map(str, names))}"
    )
