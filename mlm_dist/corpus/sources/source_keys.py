"""Keys of a source: those that have no effect, or name what does not exist, are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlm_dist.config import SourceConfig
from mlm_dist.corpus.readers import Reader, ReadSettings, RecordsReader, reader_of, record_fields
from mlm_dist.corpus.readers.text_records import TextRecordsReader
from mlm_dist.errors import CorpusError

if TYPE_CHECKING:
    from mlm_dist.corpus.sources.source_files import SourceFiles

OPTIONS = ("dataset_config", "dataset_split", "revision", "limit")  # keys that only some kinds of source have
MAX_RECORD_BYTES = 1 << 28  # of a record that is looked at for its fields
MOST_NAMES = 30  # fields that an error lists


def options(config: SourceConfig) -> dict[str, Any]:
    """{key: value} of the keys that only some kinds of source have, and that are set."""
    values = {name: getattr(config, name) for name in OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def refuse_options(config: SourceConfig, kind: str, known: Sequence[str], key: str) -> None:
    """Refuse keys that have no effect for a kind of source.

    Args:
        config: The source.
        kind: Its kind.
        known: The keys that this kind has.
        key: The config key that names the source.

    Raises:
        CorpusError: Names the key.
    """
    for name in options(config):
        if name not in known:
            hint = "; name a branch, tag or commit of a repository as URL#branch" if name == "revision" else ""
            raise CorpusError(
                f"{_sibling(key, name)}: has no effect for {config.source}, a source of the kind {kind}{hint}; "
                "remove the key"
            )


def refuse_without_effect(files: SourceFiles) -> None:
    """Refuse keys about records or text files, if a source has none.

    Raises:
        CorpusError: Names the key.
    """
    readers = _readers(files)
    has_text = any(isinstance(reader, TextRecordsReader) for reader in readers)
    has_records = any(isinstance(one, RecordsReader) and not isinstance(one, TextRecordsReader) for one in readers)
    default = SourceConfig()
    if files.separator is not None and not has_text:
        raise _without_effect(files, "separator", "is not a .txt file")
    for name, value in (("text", list(files.text)), ("split", files.split), ("group", files.group)):
        if value not in (getattr(default, name), None) and not has_records:
            raise _without_effect(files, name, "holds no records")


def refuse_missing_fields(files: SourceFiles) -> None:
    """Refuse fields that no record of a source has.

    A folder of documents that also holds records without text is read if the fields are the default ones; what is
    dropped is then counted.

    Raises:
        CorpusError: Lists the fields there are.
    """
    if list(files.text) == SourceConfig().text and not all(isinstance(one, RecordsReader) for one in _readers(files)):
        return
    settings = files.read_settings(MAX_RECORD_BYTES)
    names = [name for name in files.files if isinstance(reader_of(name, records=files.records), RecordsReader)]
    missing, seen = missing_fields(files.root, names, settings)
    if missing:
        have = ", ".join(seen[:MOST_NAMES]) + (", ..." if len(seen) > MOST_NAMES else "")
        name = "group" if missing == [files.group] else "text"
        what = " or ".join(missing)
        raise CorpusError(
            f"{_sibling(files.key, name)}: no record of {files.location} has the field {what}; its fields are "
            f"{have or 'none'}; name one of them with {_sibling(files.key, name)}"
        )


def missing_fields(root: Path, names: Iterable[str], settings: ReadSettings) -> tuple[list[str], list[str]]:
    """The fields of `settings.text` and `settings.group` that no record has, and all fields of the records.

    Records are looked at until all fields are found, which mostly is the first one. If there are no records, no field
    is missing. No text is missing if there are token ids instead.

    Args:
        root: The folder of the files.
        names: The files, which hold records.
        settings: How they are read.
    """
    missing = [*settings.text, *([settings.group] if settings.group is not None else [])]
    seen: dict[str, None] = {}
    for name in names:
        reader = reader_of(name, records=True)
        if not isinstance(reader, RecordsReader):
            continue
        with contextlib.suppress(OSError):  # reading reports it
            for one in reader.fields(os.path.join(root, name), settings):
                missing = [field for field in missing if not record_fields.has(one, field)]
                if record_fields.has(one, record_fields.TOKENS):
                    missing = [field for field in missing if field == settings.group]
                if not missing:
                    return [], []
                if len(seen) < MOST_NAMES:
                    seen.update(dict.fromkeys(record_fields.names(one)))
    return (missing if seen else []), list(seen)


def _readers(files: SourceFiles) -> list[Reader]:
    """The readers of a source's files, one for each suffix."""
    return [reader_of(name, records=files.records) for name in files.examples]


def _sibling(key: str, name: str) -> str:
    """Another key of the same source."""
    return f"{key.rsplit('.', 1)[0]}.{name}"


def _without_effect(files: SourceFiles, name: str, why: str) -> CorpusError:
    return CorpusError(f"{_sibling(files.key, name)}: has no effect, because {files.location} {why}; remove the key")
