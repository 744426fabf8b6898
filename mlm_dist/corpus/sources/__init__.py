"""Sources: each kind of source turns what `corpus.source` names into a folder of files.

`SOURCES` maps the name of a kind to its class, see `protocol.Source`. Kinds are asked in order whether they recognize a
name. Kinds of other packages are asked first, because an address such as `wiki:en` also looks like a git address.
"""

from __future__ import annotations

import difflib
from pathlib import Path

from mlm_dist import names
from mlm_dist.config import SourceConfig
from mlm_dist.corpus.sources import source_keys
from mlm_dist.corpus.sources.file_list import list_files
from mlm_dist.corpus.sources.protocol import Fetched, Request, Source
from mlm_dist.corpus.sources.source_files import SourceFiles, SourceIdentity
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError
from mlm_dist.registry import Registry
from mlm_dist.terminal.stages import stage

BUILT_IN = {
    "python-docs": "mlm_dist.corpus.sources.python_docs:PythonDocs",
    "object-store": "mlm_dist.corpus.sources.object_folder:ObjectFolder",
    "git": "mlm_dist.corpus.sources.git:GitRepository",
    "folder": "mlm_dist.corpus.sources.folder:Folder",
    "file": "mlm_dist.corpus.sources.file:File",
    "hub": "mlm_dist.corpus.sources.hub:HubDataset",
}
SOURCES: Registry[type[Source]] = Registry("mlm_dist.sources", BUILT_IN)

__all__ = [
    "SOURCES",
    "Fetched",
    "Request",
    "Source",
    "SourceFiles",
    "acquire",
    "is_local",
    "recognize",
    "without_credentials",
]


def recognize(name: str, key: str = "corpus.source") -> str:
    """The kind of source a name means; uses no network, so the source may still turn out not to exist.

    Args:
        name: What the user named.
        key: The config key that holds it, for messages.

    Raises:
        CorpusError: No kind recognizes the name.
    """
    others = [kind for kind in SOURCES.names() if kind not in BUILT_IN]
    for kind in (*others, *BUILT_IN):
        if SOURCES[kind]().recognizes(name, key):
            return kind
    near = next(iter(difflib.get_close_matches(name, ["python-docs"], cutoff=0.8)), None) or names.nearest_path(name)
    if near is not None:
        raise CorpusError(f"{key}: {name} does not exist; did you mean {near}?")
    registered = "".join(f", {kind}" for kind in others)
    raise CorpusError(
        f"{key}: {name} does not exist; give a folder, a file, a git URL, an address such as s3://bucket/folder, "
        f"owner/name of a dataset on the Hub{registered} or python-docs"
    )


def is_local(name: str, key: str = "corpus.source") -> bool:
    """Whether `acquire` needs no network for a source.

    Raises:
        CorpusError: No kind recognizes the name.
    """
    return SOURCES[recognize(name, key)]().is_local


def acquire(config: SourceConfig, cache_dir: Path, key: str = "corpus.source", name: str = "") -> SourceFiles:
    """Fetch what `config.source` names, and list and hash its files.

    Args:
        config: The source.
        cache_dir: Fetched files go to a folder in it.
        key: The config key that names the source, for messages.
        name: Its name among several sources.

    Raises:
        CorpusError: No kind recognizes the source, it cannot be fetched, or no file of it matches.
    """
    kind = recognize(config.source, key)
    source = SOURCES[kind]()
    source_keys.refuse_options(config, kind, getattr(source, "options", ()), key)
    with stage("fetching source", leaves_after=2):
        fetched = source.fetch(Request(config.source, config.patterns, cache_dir / "sources", key, config))
    with stage("listing files", leaves_after=2) as shown:
        files = list_files(SourceIdentity(name, kind, key), fetched, config, cache_dir)
        shown.result = f"{len(files.files):,} files"
    source_keys.refuse_without_effect(files)
    source_keys.refuse_missing_fields(files)
    return files
