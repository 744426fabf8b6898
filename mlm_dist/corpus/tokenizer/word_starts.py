"""Where words begin: found with the tokenizer when rows are made, and kept beside them, a bit for each token.

A vocabulary cannot tell: byte-level BPE splits "don't." before the apostrophe and the full stop, with nothing in the
tokens that says so. A word is what the tokenizer splits off before it cuts words into pieces (its word ids), and
besides, what white space is around: some tokenizers never split there. Of a word with more than `LONGEST` tokens each
`LONGEST` count as one: a row of one endless word, or of a language without spaces, would be hidden as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus import rows
from mlm_dist.corpus.rows import RowBlock
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_whole

BEGINS = 1 << 30  # in the id of a token that begins a word
LONGEST = 10
# Unicode's white space, and behind it all other letters.
_IS_SPACE = np.array([chr(i).isspace() and not 0x1C <= i <= 0x1F for i in range(0x3002)])


class ByMarkingTokenizer:
    """The tokenizer itself; ids carry `BEGINS` where a word begins."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `encoding.Way`."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        lengths = np.array([len(one) for one in encodings], np.int64)
        num = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(one.ids for one in encodings), np.int32, num)
        word = np.fromiter(chain.from_iterable(one.word_ids for one in encodings), np.int64, num)
        pairs = chain.from_iterable(one.offsets for one in encodings)
        offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * num).reshape(-1, 2)
        sizes = np.array([len(text) for text in texts], np.int64)
        offsets += np.repeat(np.cumsum(sizes) - sizes, lengths)[:, None]

        begins = np.ones(num, bool)
        begins[1:] = (np.diff(word) != 0) | (np.diff(_words_between_spaces("".join(texts), offsets[:, 0])) != 0)
        begins[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        begins |= _places_in_words(begins) % LONGEST == 0
        return ids | np.where(begins, np.int32(BEGINS), np.int32(0)), lengths


def _words_between_spaces(text: str, begin: np.ndarray) -> np.ndarray:
    """Of each token the number of its word, if words were what is between white space, which belongs to the next."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    inside = np.flatnonzero(~_IS_SPACE[np.minimum(letters, len(_IS_SPACE) - 1)])  # places of all else
    numbers = np.append(np.cumsum(np.diff(inside, prepend=-2) > 1), -1)
    found: np.ndarray = numbers[np.searchsorted(inside, begin)]
    return found


def _places_in_words(begins: np.ndarray) -> np.ndarray:
    """Of each token, how many of its word come before it."""
    place = np.arange(len(begins))
    found: np.ndarray = place - np.maximum.accumulate(np.where(begins, place, 0))
    return found


def write(path: Path, rows_path: Path, max_length: int, blocks: Iterable[RowBlock]) -> None:
    """Write where words begin in rows that are there already: [rows, max_length / 8] bytes, a bit for each token.

    Args:
        path: Where to.
        rows_path: The rows.
        max_length: Tokens in a row.
        blocks: The same rows, made of ids that carry `BEGINS`.

    Raises:
        CorpusError: They are not the same.
    """
    table = rows.read(rows_path, max_length)
    packed = [np.empty((0, -(-max_length // 8)), np.uint8)]
    done = 0
    for block in blocks:
        here = np.arange(done, done := done + len(block.input_ids))
        if done > len(table) or not np.array_equal(table.take(here), block.input_ids & ~np.int32(BEGINS)):
            raise _differs(rows_path)
        packed.append(np.packbits(block.input_ids >= BEGINS, axis=1))
    if done != len(table):
        raise _differs(rows_path)

    def fill(temporary: Path) -> None:
        with open(temporary, "wb") as file:
            np.save(file, np.concatenate(packed), allow_pickle=False)

    write_whole(path, fill, durable=False)


def read(path: Path) -> np.ndarray:
    """What `write` wrote, memory-mapped."""
    found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _differs(path: Path) -> CorpusError:
    return CorpusError(
        f"masking.unit: the rows in {path} are not what the tokenizer gives, so where words begin in them cannot be "
        "told; uninstall nanotoken, delete the corpora in corpus.cache_dir that hold a file of this name, and run again"
    )
