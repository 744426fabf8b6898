"""Decoding text of unknown encoding: by its byte-order mark, else as UTF-8, else by the most likely encoding."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import IO

REQUIRES = ("charset-normalizer",)  # packages that detection needs
SAMPLE = 100_000  # bytes in which an unknown encoding is detected
BLOCK = 1 << 18  # bytes that are decoded at a time


def decode(data: bytes) -> tuple[str, str]:
    """Decode text of unknown encoding.

    Returns:
        The text, and the name of the encoding; "replaced" if some bytes could not be decoded.
    """
    marked = _by_marks(data)
    encoding = marked or "utf-8"
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError as error:
        if marked is None:
            start = _sample_start(error.start)
            encoding = _likeliest(data[start : start + SAMPLE])
    try:
        return data.decode(encoding), encoding
    except UnicodeDecodeError:
        return data.decode(encoding, errors="replace"), "replaced"


def is_binary(data: bytes) -> bool:
    """Whether bytes hold zeros that no encoding explains."""
    return b"\0" in data and _by_marks(data) is None


@dataclass(frozen=True)
class Encoding:
    """The encoding of a file that may be too large to be decoded at once.

    Args:
        name: Its name.
        loses: Whether some bytes cannot be decoded and are replaced.
    """

    name: str
    loses: bool

    def of(self, text: str) -> str:
        """The name of the encoding for one text of the file; "replaced" if the text has replaced bytes."""
        return "replaced" if self.loses and "\N{REPLACEMENT CHARACTER}" in text else self.name


PLAIN = Encoding("utf-8", loses=False)


def encoding_of(path: str) -> Encoding:
    """The encoding of a file, by the rules of `decode`."""
    with open(path, "rb") as file:
        marked = _by_marks(file.read(SAMPLE))
        encoding = marked or "utf-8"
        failed = _first_failure(file, encoding)
        if failed is None or marked is not None:
            return Encoding(encoding, failed is not None)
        file.seek(_sample_start(failed))
        encoding = _likeliest(file.read(SAMPLE))
        return Encoding(encoding, _first_failure(file, encoding) is not None)


def _by_marks(data: bytes) -> str | None:
    """The encoding by a byte-order mark, or by the zero bytes of UTF-16 without one; None if there is neither."""
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the little-endian mark begins like that of UTF-16
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in data[:SAMPLE]:
        return None
    # In Western text in UTF-16 every second byte is zero, and no other byte is.
    zeros = [data[i:SAMPLE:2].count(0) for i in (0, 1)]
    if min(zeros) == 0 and max(zeros) * 4 > min(len(data), SAMPLE):
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return None


def _sample_start(failed: int) -> int:
    """Offset of the sample for detection: bytes before the first that is not UTF-8 are mostly ASCII."""
    return max(failed - SAMPLE // 10, 0)


def _likeliest(sample: bytes) -> str:
    """The most likely encoding of text that is not valid UTF-8; "utf-8" if only some bytes are invalid."""
    from charset_normalizer import from_bytes

    letters = [letter for letter in sample.decode("utf-8", errors="replace") if letter > "\x7f"]
    if 2 * letters.count("\N{REPLACEMENT CHARACTER}") < len(letters):
        return "utf-8"
    best = from_bytes(sample).best()
    return "utf-8" if best is None or best.encoding == "ascii" else best.encoding


def _first_failure(file: IO[bytes], encoding: str) -> int | None:
    """Approximate offset of the first byte that cannot be decoded; slightly less if a character spans two blocks."""
    decoder = codecs.getincrementaldecoder(encoding)()
    offset = 0
    file.seek(0)
    try:
        while block := file.read(BLOCK):
            decoder.decode(block)
            offset += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return offset + error.start
    return None
