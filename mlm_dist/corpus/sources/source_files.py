"""The files of a source, and what their documents depend on besides their contents."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import ReadSettings, reader_of
from mlm_dist.corpus.readers.compression import content_name, content_suffix, is_compressed
from mlm_dist.corpus.readers.text import TextReader


@dataclass(frozen=True)
class SourceIdentity:
    """What a source is called.

    Args:
        name: Its name among several sources; empty for the only one.
        kind: A name of the registry `SOURCES`.
        key: The config key that names the source, for messages.
    """

    name: str
    kind: str
    key: str = "corpus.source"


@dataclass(frozen=True)
class SourceFiles:
    """Files that hold documents, and how they are read.

    Args:
        name: The source's name among several; it begins the ids of its documents. Empty for the only source.
        kind: A name of the registry `SOURCES`.
        location: What the user named, without credentials.
        commit: The commit the files belong to, if there is one.
        root: The folder that holds the files.
        files: {path relative to root: SHA-256 of the content}, sorted by path.
        states: {path: `state` of the file just before it was hashed}.
        units: {path: what its reader's `count_units` returned}, of files whose reader counts units.
        dropped: {reason: paths of files and folders that are not read}.
        unmatched: {suffix: number of files} that no pattern matches.
        records: Whether the files were named themselves, so that a .txt file holds many documents and not one.
        key: The config key that names the source, for messages.
        clean: Markup of all documents; None if each file's suffix decides.
        text: Fields of a record that hold its text.
        encoding: Character encoding of all files; None to detect each file's own.
        separator: Text between the documents of a text file; None if it is one document.
        split: Field of a record that names its side of the split; None if no field does.
        group: Field of a record whose value it shares with all records on its side; None for none.
        has_splits: Whether names of files and folders say on which side of the split their records are.
        options: {key of `SourceConfig`: value} of what else was set for this kind of source.
    """

    name: str
    kind: str
    location: str
    commit: str | None
    root: Path
    files: dict[str, str]
    states: dict[str, tuple[int, int]]
    units: dict[str, int]
    dropped: dict[str, list[str]]
    records: bool
    unmatched: dict[str, int] = field(default_factory=dict)
    key: str = "corpus.source"
    clean: str | None = None
    text: tuple[str, ...] = ("text",)
    encoding: str | None = None
    separator: str | None = None
    split: str | None = "split"
    group: str | None = None
    has_splits: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """Everything besides the files that their documents depend on, as JSON values."""
        needed = {one for name in self.examples for one in packages(name, records=self.records, clean=self.clean)}
        return {
            "name": self.name,
            "records": self.records,
            "clean": self.clean,
            "text": list(self.text),
            "encoding": self.encoding,
            "separator": self.separator,
            "split": self.split,
            "group": self.group,
            **({"no_group": ["", "-1", "nan"]} if self.group is not None else {}),  # see `record_fields.group_of`
            "has_splits": self.has_splits,
            "options": self.options,
            "versions": {package: importlib.metadata.version(package) for package in sorted(needed)},
        }

    @cached_property
    def examples(self) -> list[str]:
        """One of the files of each suffix."""
        return [*one_of_each_suffix(self.files).values()]

    def digest(self) -> str:
        """A hash of names, contents and settings; it does not depend on the folder's location, on times or owners."""
        digest = hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode())
        for path, content in self.files.items():
            digest.update(f"\n{path}\0{content}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {"root": str(self.root)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SourceFiles:
        """The inverse of `to_json`."""
        return cls(**value | {"root": Path(value["root"]), "text": tuple(value["text"])})

    @property
    def prefix(self) -> str:
        """What the ids of its documents begin with before the path."""
        return f"{self.name}/" if self.name else ""

    def read_settings(self, max_bytes: int) -> ReadSettings:
        """How its files are read; documents of more than `max_bytes` bytes are dropped."""
        return ReadSettings(max_bytes, self.text, self.encoding, self.separator, self.split, self.group)


def state(path: Path | str) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds, which differ if a file has changed.

    The inode is not part of it: some shared disks give a file another inode on each machine.

    Raises:
        OSError: The file does not exist.
    """
    result = os.stat(path)
    return result.st_size, result.st_mtime_ns


def one_of_each_suffix(names: Iterable[str]) -> dict[str, str]:
    """{suffix of the content: a file with it}; files with the same suffix are read and cleaned alike."""
    found: dict[str, str] = {}
    known: set[str] = set()  # endings of names whose suffix is in `found`: there may be millions of names
    for name in names:
        dot = name.rfind(".")
        ending = name[dot:] if dot > 0 and name[dot - 1] not in "/." else None
        if ending in known:
            continue
        found[content_suffix(name)] = name
        if ending is not None and not is_compressed(name):
            known.add(ending)
    return found


def packages(name: str, *, records: bool, clean: str | None) -> tuple[str, ...]:
    """The packages, by their names on PyPI, that a file's documents depend on.

    Args:
        name: The file.
        records: Whether the file was named itself.
        clean: Markup of all documents; None if the suffix decides.
    """
    reader = reader_of(name, records=records)
    is_text = isinstance(reader, TextReader)
    markups = (
        (clean,) if clean is not None else (cleaners.markup_of(content_name(name)),) if is_text else reader.markups
    )
    return reader.requires + tuple(
        package for markup in markups if markup != "none" for package in cleaners.CLEANERS[markup].requires
    )
