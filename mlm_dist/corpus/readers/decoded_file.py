"""Files of many documents as text, in an encoding that is decided once per file in each process."""

from __future__ import annotations

import functools
import io
import os
import tempfile
from typing import IO

from mlm_dist.corpus.readers import text_encoding
from mlm_dist.corpus.readers.compression import is_compressed, open_binary, read
from mlm_dist.corpus.readers.protocol import ReadSettings
from mlm_dist.corpus.readers.text_encoding import Encoding

SAMPLE = 16 << 20  # bytes of a compressed file's content in which its encoding is detected
_WIDE = ("utf-16", "utf16", "utf_16", "utf-32", "utf32", "utf_32")


def encoding_of(path: str, settings: ReadSettings) -> Encoding:
    """The encoding of a file's content: the one that is set, else the one that is detected.

    Raises:
        OSError: The file cannot be read.
    """
    if not is_compressed(path):
        return text_encoding.encoding_of(path, settings.encoding)
    status = os.stat(path)
    return _of_content(path, settings.encoding, status.st_size, status.st_mtime_ns)


def is_wide(encoding: Encoding) -> bool:
    """Whether characters have two or four bytes, so that the byte of a line break does not end a line."""
    return encoding.name.lower().startswith(_WIDE)


def is_binary(path: str, encoding: Encoding) -> bool:
    """Whether a file's content has bytes that no encoding of text explains, such as the one it is read with."""
    return not is_wide(encoding) and text_encoding.is_binary(read(path, text_encoding.SAMPLE))


def open_text(path: str, encoding: Encoding, newline: str | None = None) -> IO[str]:
    """Open a file's content as text; bytes that cannot be decoded are replaced.

    Args:
        path: The file.
        encoding: What `encoding_of` returned.
        newline: As of `open`.
    """
    return io.TextIOWrapper(open_binary(path), encoding.name, errors="replace", newline=newline)


@functools.lru_cache(maxsize=256)
def _of_content(path: str, encoding: str | None, size: int, mtime_ns: int) -> Encoding:
    """The encoding of a compressed file's content; size and time of the last change are a part of the cache's key."""
    sample = read(path, SAMPLE)
    is_whole = len(sample) < SAMPLE
    if not is_whole and b"\n" in sample[: -1 << 16]:
        sample = sample[: sample.rindex(b"\n") + 1]  # a character may be cut at the end
    with tempfile.NamedTemporaryFile() as file:
        file.write(sample)
        file.flush()
        found = text_encoding.encoding_of(file.name, encoding)
    return found if is_whole else Encoding(found.name, loses=True)
