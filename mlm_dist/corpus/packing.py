"""From tokens to rows: documents are cut into chunks, and one or several chunks are put into a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlm_dist.corpus.tokenizer.loading import SpecialTokens


@dataclass(frozen=True)
class RowBlock:
    """Some rows.

    Args:
        input_ids: [num_rows, max_length], int32, padded at the end.
        lengths: [num_chunks], int32, tokens of each chunk with its special tokens, row after row.
        num_chunks: [num_rows], int32, chunks in each row.
        num_dropped: Tokens of the documents that are in no row.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    num_chunks: np.ndarray
    num_dropped: int

    def figures(self, num_tokens: int) -> dict[str, int]:
        """Rows, tokens kept and dropped of the `num_tokens` of the documents, and positions that are padding."""
        return {
            "rows": len(self.num_chunks),
            "kept": num_tokens - self.num_dropped,
            "dropped": self.num_dropped,
            "padded": int(self.input_ids.size - self.lengths.sum()),
        }


def make_rows(ids: np.ndarray, lengths: np.ndarray, mode: str, max_length: int, special: SpecialTokens) -> RowBlock:
    """Cut documents into chunks of at most `max_length` tokens, and put the chunks into rows.

    All chunks of a document but its last are full. Chunks in a row are in the order of the documents, and rows are in
    the order of their first chunks.

    Args:
        ids: [num_tokens] tokens of all documents, one after the other.
        lengths: [num_documents] tokens of each document.
        mode: truncate (the first chunk of each document), chunk (all chunks, one per row) or pack (all chunks, several
            per row if they fit).
        max_length: Tokens per row, special tokens included.
        special: The special tokens before and after each chunk.
    """
    num_prefix, num_suffix = len(special.prefix), len(special.suffix)
    room = max_length - num_prefix - num_suffix
    if mode == "truncate":
        kept = np.minimum(lengths, room)
        is_kept = ranges(lengths) < np.repeat(kept, lengths)
        num_dropped = int(lengths.sum() - kept.sum())
        ids, lengths = ids[is_kept], kept
    else:
        num_dropped = 0
    per_document = -(-lengths // room)  # a document without tokens has no chunk
    content = np.full(int(per_document.sum()), room, np.int64)
    has_chunks = per_document > 0
    last = np.cumsum(per_document[has_chunks]) - 1
    content[last] = lengths[has_chunks] - (per_document[has_chunks] - 1) * room

    sizes = content + num_prefix + num_suffix
    row = best_fit(sizes, max_length) if mode == "pack" else np.arange(len(sizes))
    num_chunks = np.bincount(row)
    order = np.argsort(row, kind="stable")
    before = np.cumsum(sizes[order]) - sizes[order]  # tokens of all chunks before each chunk
    before_row = before[np.cumsum(num_chunks) - num_chunks]
    begin = np.empty_like(sizes)  # of each chunk, in the flattened rows
    begin[order] = row[order] * max_length + before - before_row[row[order]]

    rows = _filled(len(num_chunks), max_length, begin, content, ids, special)
    return RowBlock(rows, sizes[order].astype(np.int32), num_chunks.astype(np.int32), num_dropped)


def make_pair_rows(
    ids: np.ndarray, lengths: np.ndarray, max_length: int, special: SpecialTokens
) -> tuple[RowBlock, np.ndarray]:
    """Put each pair of texts into a row, as two chunks.

    The first text of a pair is cut to half a row, the second one to what is then left.

    Args:
        ids: [num_tokens] tokens of all texts, one after the other.
        lengths: [2 * num_pairs] tokens of each text.
        max_length: Tokens per row, special tokens included.
        special: The special tokens before and after each chunk.

    Returns:
        The rows; and [num_pairs] whether a pair has one, which needs a token in both texts.
    """
    around = len(special.prefix) + len(special.suffix)
    pairs = lengths.reshape(-1, 2)
    is_kept: np.ndarray = np.min(pairs, axis=1, initial=1) > 0
    first = np.minimum(pairs[:, 0], max_length // 2 - around)
    second = np.minimum(pairs[:, 1], max_length - first - 2 * around)
    content = np.where(is_kept[:, None], np.stack([first, second], 1), 0)
    chosen = ids[ranges(lengths) < np.repeat(content.reshape(-1), lengths)]
    content = content[is_kept]
    sizes = content + around
    begin = np.arange(len(content))[:, None] * max_length + np.stack([np.zeros_like(sizes[:, 0]), sizes[:, 0]], 1)
    rows = _filled(len(content), max_length, begin.reshape(-1), content.reshape(-1), chosen, special)
    num_chunks = np.full(len(content), 2, np.int32)
    block = RowBlock(rows, sizes.reshape(-1).astype(np.int32), num_chunks, len(ids) - len(chosen))
    return block, is_kept


def _filled(
    num_rows: int, max_length: int, begin: np.ndarray, content: np.ndarray, ids: np.ndarray, special: SpecialTokens
) -> np.ndarray:
    """Rows of chunks: [num_rows, max_length].

    Args:
        num_rows: Number of rows.
        max_length: Tokens per row.
        begin: [chunks] where each chunk begins in the flattened rows.
        content: [chunks] tokens of each chunk without special tokens.
        ids: These tokens, one after the other.
        special: The special tokens around each chunk.
    """
    rows = np.full((num_rows, max_length), special.pad, np.int32)
    flat, num_prefix = rows.reshape(-1), len(special.prefix)
    flat[np.repeat(begin + num_prefix, content) + ranges(content)] = ids
    for i, token in enumerate(special.prefix):
        flat[begin + i] = token
    for i, token in enumerate(special.suffix):
        flat[begin + num_prefix + content + i] = token
    return rows


def best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """Pack by best fit, largest first (Johnson, 1974): each item goes into the fullest row that has room for it.

    Args:
        sizes: [n] integers from 1 to capacity.
        capacity: Size of a row.

    Returns:
        [n] the row of each item; rows are numbered in the order of their first items.
    """
    opened_by = np.arange(len(sizes))  # a row is identified by the item that opened it
    by_room: list[list[int]] = [[] for _ in range(capacity)]  # rows by the room left in them
    available = 0  # bit i is set if some row has i left
    largest_first = np.argsort(-sizes, kind="stable")[np.count_nonzero(sizes == capacity) :]
    for i, size in zip(largest_first.tolist(), sizes[largest_first].tolist(), strict=True):
        fitting = available >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                available ^= 1 << room
        else:
            room, row = capacity, i
        opened_by[i] = row
        by_room[room - size].append(row)
        available |= 1 << (room - size)
    _, first, index = np.unique(opened_by, return_index=True, return_inverse=True)
    numbered: np.ndarray = np.argsort(np.argsort(first))[index]
    return numbered


def ranges(lengths: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... for each length, one range after the other: [3, 2] gives [0, 1, 2, 0, 1]."""
    starts = np.cumsum(lengths) - lengths
    indices: np.ndarray = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    return indices
