"""Decoding text of unknown encoding: by its byte-order mark, else as UTF-8, else by the most likely encoding.

The encoding is decided once per file, see `legacy_encodings` for text that is not Unicode.
"""

from __future__ import annotations

import codecs
import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

from mlm_dist.corpus.readers import legacy_encodings

REQUIRES = ("chardet",)  # packages that detection needs
SAMPLE = legacy_encodings.SAMPLE  # bytes in which an unknown encoding is detected
BLOCK = 1 << 18  # bytes that are decoded at a time
_ASCII = b"\0\t\n\r" + bytes(range(0x20, 0x7F))
ESCAPES = {b"\x1b$B": "iso2022_jp_ext", b"\x1b$@": "iso2022_jp_ext", b"\x1b$)C": "iso2022_kr"}


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Decode text.

    Args:
        data: The text.
        encoding: Its encoding; None to detect it.

    Returns:
        The text without a byte-order mark, and the name of the encoding; "replaced" if some bytes could not be decoded.
    """
    if encoding is not None:
        return _decode_as(data, [encoding])
    marked = _by_marks(data)
    try:
        return data.decode(marked or "utf-8"), marked or "utf-8"
    except UnicodeDecodeError:
        return _decode_as(data, [marked] if marked else _candidates(data[: legacy_encodings.HEAD], [data]))


def is_binary(data: bytes, encoding: str | None = None) -> bool:
    """Whether bytes hold zeros that no encoding explains.

    Args:
        data: The beginning of a file, or all of it.
        encoding: Its encoding, if it is known.
    """
    if encoding is not None:
        return "\0" in data.decode(encoding, errors="replace")
    return b"\0" in data and _by_marks(data) is None


@dataclass(frozen=True)
class Encoding:
    """The encoding of a file that may be too large to be decoded at once.

    Args:
        name: Its name, with which `open` reads the file.
        loses: Whether some bytes cannot be decoded and are replaced.
    """

    name: str
    loses: bool

    def of(self, text: str) -> str:
        """The name of the encoding for one text of the file; "replaced" if the text has replaced bytes."""
        return "replaced" if self.loses and "\N{REPLACEMENT CHARACTER}" in text else self.name


PLAIN = Encoding("utf-8", loses=False)


def encoding_of(path: str, encoding: str | None = None) -> Encoding:
    """The encoding of a file, by the rules of `decode`. It reads the file once; a second call for it costs nothing.

    Args:
        path: The file.
        encoding: Its encoding; None to detect it.

    Raises:
        OSError: The file cannot be read.
    """
    state = os.stat(path)
    return _encoding_of(path, encoding, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _encoding_of(path: str, encoding: str | None, size: int, changed: int) -> Encoding:
    with open(path, "rb") as file:
        head = file.read(SAMPLE)
        first = (encoding and _without_mark(head, encoding)) or _by_marks(head) or "utf-8"
        if not _fails(file, first):
            return Encoding(first, loses=False)
        if encoding is not None or _by_marks(head) is not None:
            return Encoding(first, loses=True)
        names = _candidates(head, _lines(file))
        name = next((name for name in names if not _fails(file, name)), None)
        return Encoding(name or names[0], loses=name is None)


def _decode_as(data: bytes, names: list[str]) -> tuple[str, str]:
    """The text in the first encoding that it is in; if it is in none, in the first one with some bytes replaced."""
    for name in names:
        try:
            return data.decode(_without_mark(data, name)), name
        except UnicodeDecodeError:
            continue
    return data.decode(_without_mark(data, names[0]), errors="replace"), "replaced"


def _without_mark(data: bytes, name: str) -> str:
    """The encoding that leaves out the byte-order mark of text in an encoding of this name."""
    marks = {"utf-8": "utf-8-sig", "utf-16-le": "utf-16", "utf-16-be": "utf-16", "utf-32-le": "utf-32"}
    usual = codecs.lookup(name).name
    marked = _by_byte_order_mark(data)
    return marked if marked is not None and marks.get(usual, usual) == marked else name


def _candidates(head: bytes, blocks: list[bytes] | Iterator[bytes]) -> list[str]:
    """The encodings that text may be in which is not UTF-8, the likeliest first; "utf-8" if only some bytes are not.

    Args:
        head: The beginning of the text.
        blocks: The text.
    """
    sample = legacy_encodings.pieces(blocks)
    letters = [letter for letter in sample.decode("utf-8", errors="replace") if letter > "\x7f"]
    if 2 * letters.count("\N{REPLACEMENT CHARACTER}") < len(letters):
        return ["utf-8"]
    said = legacy_encodings.declared(head, sample)
    return ([said] if said is not None else []) + legacy_encodings.ranked(sample) or ["utf-8"]


def _by_marks(data: bytes) -> str | None:
    """The encoding by a byte-order mark, by the zero bytes of UTF-16 or by escapes; None if there are none."""
    marked = _by_byte_order_mark(data)
    if marked is not None:
        return marked
    if b"\0" in data[:SAMPLE]:
        return _utf16(data[: SAMPLE // 2 * 2] if len(data) > SAMPLE else data)
    if b"\x1b$" in data and data.isascii():
        for escape, name in ESCAPES.items():
            if escape in data and not _fails_in(data, name):
                return name
    return None


def _by_byte_order_mark(data: bytes) -> str | None:
    if data.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):  # the little-endian mark begins like that of UTF-16
        return "utf-32"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return None


def _utf16(data: bytes) -> str | None:
    """The kind of UTF-16 by its zero bytes: every second one in Western text, some of them in other text."""
    zeros = [data[i::2].count(0) for i in (0, 1)]
    if min(zeros) == 0 and max(zeros) * 4 > len(data):
        return "utf-16-be" if zeros[0] else "utf-16-le"
    if len(data.translate(None, _ASCII)) * 20 < len(data):
        return None  # ASCII with a few zeros
    texts = {name: data.decode(name, errors="replace") for name in ("utf-16-le", "utf-16-be")}
    likely = max(texts, key=lambda name: _num_common(texts[name]))
    is_text = all(letter in "\t\n\r\f" or unicodedata.category(letter)[0] != "C" for letter in set(texts[likely]))
    return likely if is_text and "\N{REPLACEMENT CHARACTER}" not in texts[likely] else None


def _num_common(text: str) -> int:
    """How many characters are of alphabets, kana or the punctuation of Chinese and Japanese."""
    return sum(letter < "\u0500" or "\u3000" <= letter < "\u3100" for letter in text)


def _fails_in(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return True
    return False


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The content of a file in blocks that end at the end of a line, or are long."""
    file.seek(0)
    while block := file.read(BLOCK):
        yield block + file.readline(BLOCK)


def _fails(file: IO[bytes], encoding: str) -> bool:
    """Whether some byte of a file cannot be decoded."""
    decoder = codecs.getincrementaldecoder(encoding)()
    file.seek(0)
    try:
        while block := file.read(BLOCK):
            decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return True
    return False
