"""Folders and files of object stores, and files on web servers, as a source: matching objects are downloaded."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from mlm_dist.config import SourceConfig
from mlm_dist.corpus.readers import READERS, compression
from mlm_dist.corpus.sources import dataset_folder, git_address
from mlm_dist.corpus.sources.downloads import Downloads
from mlm_dist.corpus.sources.file import File, refuse_unknown_suffix
from mlm_dist.corpus.sources.matching_files import Patterns, by_suffix, why_no_documents
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import ConfigError, CorpusError
from mlm_dist.files import lock
from mlm_dist.object_store import ObjectStore, protocol_of
from mlm_dist.stored_object import StoredObject

NO_FILE_NAME = "object whose name cannot be that of a file"
_LONGEST_NAME = 240  # bytes; disks allow 255, and a file has a longer name while it is downloaded
_WEB = ("http", "https")


class ObjectFolder:
    """A folder or an object behind an address such as s3://bucket/docs, or the address of a file of records."""

    is_local: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("dataset_split",)

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`. Other addresses of web servers than those of a file are git repositories."""
        protocol = protocol_of(name)
        if protocol in (None, "file"):
            return False
        return protocol not in _WEB or (not git_address.is_page(name) and _has_records(name))

    def fetch(self, request: Request) -> Fetched:
        """See `Source`. Objects that have not changed since the last time are not downloaded again."""
        try:
            return _fetch(request)
        except ConfigError as error:  # of the store
            raise CorpusError(str(error)) from None


def _has_records(address: str) -> bool:
    """Whether an address is that of a file that holds records or text, by its suffix."""
    name = PurePosixPath(unquote(urlsplit(address).path)).name
    return "#" not in address and compression.content_suffix(name) in READERS


def _fetch(request: Request) -> Fetched:
    store = ObjectStore(request.name, request.key)
    location, folder = without_credentials(request.name), _folder(request)
    objects = {} if protocol_of(request.name) in _WEB else store.list()
    request.folder.mkdir(parents=True, exist_ok=True)
    held = lock(request.folder / f".{folder.name}.lock", wait=True)
    try:
        downloads = Downloads(store, folder)
        if not objects:
            return _fetch_file(request, store, downloads)
        chosen, dropped, unmatched = _chosen(objects, request)
        downloads.update({name: objects[name] for name in chosen})
    finally:
        held.release()
    found = dataset_folder.saved(downloads.files, request)
    if found is not None:
        return dataclasses.replace(found, location=location)
    return Fetched(location, downloads.files, request.patterns, dropped=dropped, unmatched=unmatched)


def _folder(request: Request) -> Path:
    """The folder of the downloaded files: one for each address and choice of files."""
    shown = without_credentials(request.name)
    identity = json.dumps([request.name, request.patterns])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return request.folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', shown)[-60:].strip('-')}-{digest}"


def _fetch_file(request: Request, store: ObjectStore, downloads: Downloads) -> Fetched:
    """Download the object that the address itself names.

    Raises:
        CorpusError: There is none, or its suffix does not say how it is read.
    """
    found = store.find_file()
    if found is None:
        raise CorpusError(
            f"{request.key}: there is no object {store.address}, and none below it; check the address and the access"
        )
    name = PurePosixPath(unquote(urlsplit(store.address).path)).name
    refuse_unknown_suffix(name, request)
    downloads.update({name: found}, is_root=True)
    fetched = File().fetch(dataclasses.replace(request, name=str(downloads.files / name)))
    return dataclasses.replace(fetched, location=without_credentials(request.name))


def _chosen(
    objects: Mapping[str, StoredObject], request: Request
) -> tuple[set[str], dict[str, list[str]], dict[str, int]]:
    """The objects to download, {reason: names} of those that are dropped, and {suffix: number} of all others.

    Raises:
        CorpusError: None of them matches.
    """
    patterns, dropped = Patterns(request.patterns), _dropped(objects)
    left = {*objects} - {name for names in dropped.values() for name in names}
    chosen = {name for name in left if patterns.match(name)}
    if dataset_folder.is_saved(left):
        chosen = {name for name in left if name.endswith((".arrow", ".json"))}
    elif request.patterns == SourceConfig().patterns and dataset_folder.describe_only(chosen):
        chosen |= {*dataset_folder.record_names(left)}
    unmatched = by_suffix(left - chosen)
    if not chosen:
        has = ", ".join(f"{count:,} {suffix}" for suffix, count in [*unmatched.items()][:5]) or "no others"
        raise CorpusError(
            f"{request.key}: no object below {without_credentials(request.name)} matches corpus.patterns "
            f"{request.patterns} (it has {has}); change the patterns or name another source"
        )
    matching = {reason: [*filter(patterns.match, names)] for reason, names in dropped.items()}
    return chosen, {reason: names for reason, names in matching.items() if names}, unmatched


def _dropped(objects: Mapping[str, StoredObject]) -> dict[str, list[str]]:
    """{reason: names} of objects that are no documents, whatever the patterns: a folder would not give them either."""
    folders: dict[str, list[str]] = {}
    for name in objects:
        folder, _, file = name.rpartition("/")
        folders.setdefault(folder, []).append(file)

    @functools.cache
    def reason_of(folder: str) -> str | None:
        if not folder:
            return None
        above = reason_of(folder.rpartition("/")[0])
        return above or (NO_FILE_NAME if folder in objects else why_no_documents(Path(folder), folders.get(folder, [])))

    dropped: dict[str, list[str]] = {}
    for name in sorted(objects):
        reason = reason_of(name.rpartition("/")[0]) if _is_file_name(name) else NO_FILE_NAME
        if reason is not None:
            dropped.setdefault(reason, []).append(name)
    return dropped


def _is_file_name(name: str) -> bool:
    parts = name.split("/")
    is_short = all(len(part.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME for part in parts)
    return is_short and all(part not in ("", ".", "..") and "\0" not in part for part in parts)
