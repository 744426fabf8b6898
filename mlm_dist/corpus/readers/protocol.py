"""What a reader of a file format provides, and the documents it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.readers import record_fields
from mlm_dist.corpus.readers.text_encoding import PLAIN, Encoding

BYTES_PER_TOKEN = 4  # of text, about, to which the size limit applies


@dataclass(frozen=True, slots=True)  # a source may have a million of them
class Part:
    """A part of a file that one rank reads. `start` and `stop` are in units of its reader, such as bytes."""

    path: str
    start: int
    stop: int


@dataclass(frozen=True)
class ReadSettings:
    """How the files of a source are read.

    Args:
        max_bytes: Larger documents are dropped, see `too_large`.
        text: Fields of a record that hold its text.
        encoding: Character encoding of all files; None to detect each file's own.
        separator: Text between the documents of a text file; None if it is one document.
        split: Field of a record that names its side of the split; None if no field does.
        group: Field of a record whose value it shares with all records on its side of the split; None for none.
    """

    max_bytes: int
    text: tuple[str, ...] = ("text",)
    encoding: str | None = None
    separator: str | None = None
    split: str | None = "split"
    group: str | None = None


@dataclass(frozen=True)
class Document:
    """One text.

    Args:
        id: The file, and the position in it if the file holds many documents.
        text: The text.
        encoding: The encoding it was decoded from; "replaced" if some bytes could not be decoded.
        markup: The cleaner of `CLEANERS` that makes it plain text; none if it is plain text.
        side: The side of the split that its record names: train, validation or unknown; None if it names none.
        group: Documents with the same value are on the same side of the split; None for no such value.
        input_ids: Its token ids, if it is tokenized already; the text is then empty.
        outline: Where title, headings and links are in the text, if its markup is removed already.
    """

    id: str
    text: str
    encoding: str = "utf-8"
    markup: str = "none"
    side: str | None = None
    group: str | None = None
    input_ids: Sequence[int] | None = None
    outline: Outline = field(default_factory=Outline)


@dataclass(frozen=True)
class Dropped:
    """A document, or a file, that cannot be used, and why."""

    id: str
    reason: str


class Reader:
    """Reads the files of one format. Subclass `DocumentReader` or `RecordsReader`, not this class.

    A reader is made without arguments and holds no state.
    """

    in_folders: ClassVar[bool] = True
    """Whether files of a folder are read with it. If not, only a file that is itself the source is."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Packages, by their names on PyPI, that reading needs; their versions are a part of a corpus's digest."""

    markups: ClassVar[tuple[str, ...]] = ()
    """Cleaners that its documents may name as their `markup`."""

    def count_units(self, path: Path) -> int | None:
        """What `parts` needs to know of the content of a file, such as its row groups; None for nothing.

        It is called once, by one rank, when the source is listed.
        """
        return None

    def parts(self, name: str, size: int, units: int | None) -> Iterator[tuple[Part, int]]:
        """The parts of a file and their weights in bytes; by default one part, the whole file.

        Args:
            name: The file.
            size: Its bytes when it was listed. A rank that asked the disk itself could see another size than others.
            units: What `count_units` returned.
        """
        yield Part(name, 0, size), size


class DocumentReader(Reader, ABC):
    """Reads a format whose files hold one document each, in memory. A file that changes while it is read is dropped."""

    @abstractmethod
    def document(self, name: str, data: bytes, settings: ReadSettings) -> Document | Dropped:
        """The document in a file.

        Args:
            name: The file, which is the document's id.
            data: Its content.
            settings: How files are read.
        """


class RecordsReader(Reader, ABC):
    """Reads a format whose files hold many documents. A file that changes while it is read stops the run."""

    @abstractmethod
    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """The documents in a part of a file, in order and within bounded memory.

        Args:
            path: Where the file is.
            part: The part. `part.path` begins the documents' ids.
            settings: How files are read.

        Raises:
            OSError: The file cannot be read. What has not been read of the part is then dropped.
        """

    def fields(self, path: str, settings: ReadSettings) -> Iterator[Any]:
        """What fields the records of a file have: records one by one, or one object that has all fields.

        The values of an object may be None. By default there is nothing, for formats without fields.

        Raises:
            OSError: The file cannot be read.
        """
        yield from ()


def too_large(id_: str, max_bytes: int) -> Dropped:
    """A document over the size limit."""
    return Dropped(id_, f"over {max_bytes / 1e6:g} MB")


def record(id_: str, value: Any, settings: ReadSettings, encoding: Encoding = PLAIN) -> Document | Dropped:
    """The document in a record: a string, or an object with strings under the fields of `settings.text`.

    A record that names an id and its side of the split, as those of `corpus.export` do, keeps its id.
    """
    max_bytes = settings.max_bytes
    side = record_fields.side_of(value, settings.split)
    group = record_fields.group_of(value, settings.group)
    if side in (record_fields.TRAIN, record_fields.VALIDATION) and isinstance(named := value.get("id"), str) and named:
        id_ = named
    text = record_fields.text_of(value, settings.text)
    if text is None:
        tokens = record_fields.tokens_of(value, settings.text)
        if tokens is None:
            return Dropped(id_, "no text")
        if len(tokens) * BYTES_PER_TOKEN > max_bytes:
            return too_large(id_, max_bytes)
        return Document(id_, "", side=side, group=group, input_ids=tokens)
    # A character takes at most four bytes, so bytes need not be counted far from the limit.
    size = len(text) if text.isascii() or 4 * len(text) <= max_bytes else len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        return too_large(id_, max_bytes)
    return Document(id_, text, encoding.of(text), side=side, group=group)
