"""Text of unknown encoding: what a byte-order mark says, else UTF-8, else the likeliest."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import IO

SAMPLE = 100_000  # bytes by which an unknown encoding is recognised
BLOCK = 1 << 18  # bytes that are decoded together


def decode(data: bytes) -> tuple[str, str]:
    """Text of unknown encoding: what a byte-order mark says, else UTF-8, else the likeliest.

    Returns:
        The text, and the name of the encoding; "replaced" where bytes of it had to be given up.
    """
    marked = _marked(data)
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
    """Whether bytes are no text in any encoding."""
    return b"\0" in data and _marked(data) is None


@dataclass(frozen=True)
class Encoding:
    """How to open a file that may be too large to be decoded at once, and whether bytes of it will be replaced."""

    name: str
    loses: bool

    def of(self, text: str) -> str:
        """What to say of one text of the file."""
        return "replaced" if self.loses and "\N{REPLACEMENT CHARACTER}" in text else self.name


PLAIN = Encoding("utf-8", loses=False)


def encoding_of(path: str) -> Encoding:
    """A file's encoding, by the rules of `decode`."""
    with open(path, "rb") as file:
        marked = _marked(file.read(SAMPLE))
        encoding = marked or "utf-8"
        failed = _first_failure(file, encoding)
        if failed is None or marked is not None:
            return Encoding(encoding, failed is not None)
        file.seek(_sample_start(failed))
        encoding = _likeliest(file.read(SAMPLE))
        return Encoding(encoding, _first_failure(file, encoding) is not None)


def _marked(data: bytes) -> str | None:
    """The encoding that a byte-order mark tells, or the zero bytes of UTF-16 that has none."""
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the former begins like that of UTF-16
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in data[:SAMPLE]:
        return None
    # Every other byte of Western text in UTF-16 is zero, and none of the rest.
    zeros = [data[i:SAMPLE:2].count(0) for i in (0, 1)]
    if min(zeros) == 0 and max(zeros) * 4 > min(len(data), SAMPLE):
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return None


def _sample_start(failed: int) -> int:
    """Where to begin looking for the encoding: bytes before the first that is no UTF-8 are mostly plain ASCII."""
    return max(failed - SAMPLE // 10, 0)


def _likeliest(sample: bytes) -> str:
    """The encoding of text that is not all UTF-8; "utf-8" where it is that but for some bytes, or none is likely."""
    from charset_normalizer import from_bytes

    letters = [letter for letter in sample.decode("utf-8", errors="replace") if letter > "\x7f"]
    if 2 * letters.count("\N{REPLACEMENT CHARACTER}") < len(letters):
        return "utf-8"
    best = from_bytes(sample).best()
    return "utf-8" if best is None or best.encoding == "ascii" else best.encoding


def _first_failure(file: IO[bytes], encoding: str) -> int | None:
    """About where a file cannot be decoded: some bytes before it where a letter lies across two blocks."""
    decoder = codecs.getincrementaldecoder(encoding)()
    place = 0
    file.seek(0)
    try:
        while block := file.read(BLOCK):
            decoder.decode(block)
            place += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return place + error.start
    return None
