"""Word starts: which tokens of the rows begin a word, stored beside the rows as one bit per token.

The vocabulary alone cannot tell: byte-level BPE splits "don't." before the apostrophe and the full stop, and no token
says so. A word is what the tokenizer splits off before it cuts words into pieces (its word ids), and white space also
ends a word, because some tokenizers never split there. A word of more than `LONGEST` tokens counts as several of
`LONGEST` tokens each. Otherwise a row of one endless word, or of a language without spaces, would be masked as a whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist.corpus.packing import RowBlock
from mlm_dist.corpus.rows import RowTable
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_parts, write_whole

WORD_START = 1 << 30  # bit that is set in the id of a token that begins a word
LONGEST = 10
# Unicode's white space; the last entry stands for all characters after it.
_IS_SPACE = np.array([chr(i).isspace() and not 0x1C <= i <= 0x1F for i in range(0x3002)])


class WordStartTokenizer:
    """The tokenizer itself, with `WORD_START` set in the ids of tokens that begin a word."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See `batch_tokenizer.Method`."""
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        lengths = np.array([len(one) for one in encodings], np.int64)
        num = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(one.ids for one in encodings), np.int32, num)
        word = np.fromiter(chain.from_iterable(one.word_ids for one in encodings), np.int64, num)
        pairs = chain.from_iterable(one.offsets for one in encodings)
        offsets = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * num).reshape(-1, 2)
        sizes = np.array([len(text) for text in texts], np.int64)
        offsets += np.repeat(np.cumsum(sizes) - sizes, lengths)[:, None]

        starts = np.ones(num, bool)
        starts[1:] = (np.diff(word) != 0) | (np.diff(_words_between_spaces("".join(texts), offsets[:, 0])) != 0)
        starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        starts |= _indices_in_words(starts) % LONGEST == 0
        return ids | np.where(starts, np.int32(WORD_START), np.int32(0)), lengths


def _words_between_spaces(text: str, begin: np.ndarray) -> np.ndarray:
    """The index of each token's word, if words were separated by white space alone; a space belongs to the next word.

    Args:
        text: All texts.
        begin: [num_tokens] offset in the text of each token.
    """
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    not_space = np.flatnonzero(~_IS_SPACE[np.minimum(letters, len(_IS_SPACE) - 1)])
    words = np.append(np.cumsum(np.diff(not_space, prepend=-2) > 1), -1)
    word_of_token: np.ndarray = words[np.searchsorted(not_space, begin)]
    return word_of_token


def _indices_in_words(starts: np.ndarray) -> np.ndarray:
    """For each token, how many tokens of its word come before it."""
    index = np.arange(len(starts))
    in_word: np.ndarray = index - np.maximum.accumulate(np.where(starts, index, 0))
    return in_word


def write(path: Path, table: RowTable, blocks: Iterable[RowBlock]) -> list[str]:
    """Write the word starts of existing rows: [rows, max_length / 8] bytes, one bit per token.

    Args:
        path: The file to write.
        table: The rows, of one file.
        blocks: The same rows, made of ids with `WORD_START`.

    Returns:
        SHA-256 of the bytes of each block, in hexadecimal.

    Raises:
        CorpusError: The blocks are not the same rows.
    """
    hashes = []

    def packed() -> Iterator[np.ndarray]:
        done = 0
        for block in blocks:
            here = np.arange(done, done := done + len(block.input_ids))
            if done > len(table) or not np.array_equal(table.take(here), block.input_ids & ~np.int32(WORD_START)):
                raise _differs(table.files[0])
            starts = np.packbits(block.input_ids >= WORD_START, axis=1)
            if len(starts):
                hashes.append(hashlib.sha256(starts.data).hexdigest())
            yield starts
        if done != len(table):
            raise _differs(table.files[0])

    shape = (len(table), -(-table.max_length // 8))
    write_whole(path, lambda temporary: write_parts(temporary, shape, np.uint8, packed()), durable=False)
    return hashes


def _differs(path: Path) -> CorpusError:
    return CorpusError(
        f"masking.unit: the rows in {path} differ from what the tokenizer gives, so word starts cannot be stored; "
        "uninstall nanotoken, delete the corpora in corpus.cache_dir that hold a file of this name, and run again"
    )
