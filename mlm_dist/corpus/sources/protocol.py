"""What a kind of source is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from mlm_dist.config import SourceConfig


@dataclass(frozen=True)
class Request:
    """A source to fetch.

    Args:
        name: What the user named, such as a path or an address.
        patterns: Which files of a folder are documents, as in a .gitignore.
        folder: Folder for fetched files; it may not exist yet.
        key: The config key that holds the name, for messages.
        config: All settings of the source.
    """

    name: str
    patterns: list[str]
    folder: Path
    key: str
    config: SourceConfig = field(default_factory=SourceConfig)


@dataclass(frozen=True)
class Fetched:
    """A folder of files on this disk.

    Args:
        location: What the user named, without credentials.
        root: The folder.
        patterns: Which of its files are documents, as in a .gitignore; read if `files` is None.
        files: The files, relative to `root`, if they are known. Each then holds many documents, whatever its suffix.
        commit: The commit the files belong to, if there is one.
        dropped: {reason: paths} of what was not fetched although it may hold documents.
        unmatched: {suffix: number of files} that were not fetched because no pattern matches them.
        has_splits: Whether the names of files and folders of records say on which side of the split they are.
    """

    location: str
    root: Path
    patterns: list[str]
    files: list[str] | None = None
    commit: str | None = None
    dropped: Mapping[str, list[str]] = field(default_factory=dict)
    unmatched: Mapping[str, int] = field(default_factory=dict)
    has_splits: bool = False


class Source(Protocol):
    """A kind of source, made without arguments.

    To add one, write a class with these members in a module of its own, and register it in `SOURCES`.
    """

    is_local: ClassVar[bool]
    """Whether the files are on this machine already, so that `fetch` needs no network."""

    # `options: ClassVar[tuple[str, ...]]`, if there is one, names keys of `SourceConfig` that only some kinds of source
    # use, such as revision. They are refused for all other kinds.

    def recognizes(self, name: str, key: str) -> bool:
        """Whether a name means a source of this kind. It is fast and uses no network.

        Raises:
            CorpusError: The name means this kind but can never be fetched; the message names `key`.
        """
        ...

    def fetch(self, request: Request) -> Fetched:
        """Make the files available on this disk; files that were fetched before are used again.

        Raises:
            CorpusError: The files cannot be fetched; the message names `request.key` and the remedy.
        """
        ...
