"""Compressed files: their content is read block by block, so that a small file never fills the memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable
from typing import IO, Any

BUFFER_BYTES = 1 << 18


def _open_zstd(file: IO[bytes]) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


OPEN: dict[str, Callable[[IO[bytes]], Any]] = {
    ".bz2": bz2.BZ2File,
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".xz": lzma.LZMAFile,
    ".zst": _open_zstd,
}


def is_compressed(name: str) -> bool:
    """Whether the suffix of a file says that it is compressed."""
    return os.path.splitext(name)[1].lower() in OPEN


def content_name(name: str) -> str:
    """The name of a file without the suffix of a compression: a.jsonl for a.jsonl.gz."""
    return os.path.splitext(name)[0] if is_compressed(name) else name


def content_suffix(name: str) -> str:
    """The suffix, in lower case, that says what a file holds: .jsonl for a.JSONL.gz."""
    return os.path.splitext(content_name(name))[1].lower()


def open_binary(path: str) -> IO[bytes]:
    """Open a file, and decompress it while it is read. A compressed file cannot be sought.

    Raises:
        OSError: The file cannot be read; reading raises it, too, where the compressed data is damaged.
    """
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    return _decompressed(file, path) if is_compressed(path) else file


def read(path: str, max_bytes: int) -> bytes:
    """At most `max_bytes` bytes of the content of a file.

    Raises:
        OSError: The file cannot be read, or is damaged.
    """
    with open_binary(path) as file:
        return file.read(max_bytes)


def decompress(data: bytes, name: str, max_bytes: int) -> bytes:
    """At most `max_bytes` bytes of compressed data, from a file of that name.

    Raises:
        OSError: The data is damaged.
    """
    with _decompressed(io.BytesIO(data), name) as file:
        return file.read(max_bytes)


def _decompressed(file: IO[bytes], name: str) -> IO[bytes]:
    return io.BufferedReader(_Decompressed(file, OPEN[os.path.splitext(name)[1].lower()]), BUFFER_BYTES)


class _Decompressed(io.RawIOBase):
    """A stream of decompressed bytes whose errors are those of a file."""

    def __init__(self, file: IO[bytes], decompress: Callable[[IO[bytes]], Any]) -> None:
        self._file, self._stream = file, decompress(file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            data = self._stream.read(len(view))
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise OSError(0, f"damaged compressed data: {error}") from None
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()
