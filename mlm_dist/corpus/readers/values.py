"""Files whose records are read value by value."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.protocol import Document, Dropped, Part, ReadSettings, RecordsReader, record
from mlm_dist.corpus.readers.text_encoding import Encoding


@dataclass(frozen=True)
class Value:
    """A record.

    Args:
        id: The file, and the position in it.
        value: A text, or an object.
        encoding: The encoding of the file.
    """

    id: str
    value: Any
    encoding: Encoding


class ValuesReader(RecordsReader):
    """Reads a format whose records are JSON values, or objects of texts."""

    requires: ClassVar[tuple[str, ...]] = text_encoding.REQUIRES

    @abstractmethod
    def values(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Value | Dropped]:
        """The records in a part of a file, in order and within bounded memory.

        Raises:
            OSError: The file cannot be read.
        """

    def read(self, path: str, part: Part, settings: ReadSettings) -> Iterator[Document | Dropped]:
        """See `RecordsReader`."""
        for one in self.values(path, part, settings):
            yield one if isinstance(one, Dropped) else record(one.id, one.value, settings, one.encoding)

    def fields(self, path: str, settings: ReadSettings) -> Iterator[Any]:
        """See `RecordsReader`."""
        part = Part(os.path.basename(path), 0, os.path.getsize(path))
        for one in self.values(path, part, settings):
            if not isinstance(one, Dropped):
                yield one.value
