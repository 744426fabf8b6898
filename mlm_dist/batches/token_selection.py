"""Which tokens are predicted: single tokens, whole words, or spans of words.

Every token has exactly the requested probability p. A word is chosen with probability p, and so are its tokens,
whatever its length.

Spans are those of SpanBERT (Joshi et al., 2020, section 3.1): runs of whole words that do not overlap, with lengths
from a geometric distribution (p = 0.2) over 1 to 10 words, 3.8 on average. SpanBERT draws spans until 15% of a text are
masked. Here the words of a chunk are visited in order: outside a span, each word begins one with probability
q = p / (p + m (1 - p)), where m is the mean length. Spans then have the mean length m and the gaps between them the
mean length (1 - q) / q, so spans cover the fraction p of all words (renewal theory; Cox, 1962). The first word of a
chunk is drawn like one in the middle of an infinite text: with probability p it lies in a span, whose remaining length
is r with probability P(length >= r) / m. Every word of a chunk is therefore in a span with probability exactly p. The
edges of a chunk may cut a span, and a span may begin right behind another one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlm_dist import hashing

SELECT, _LENGTH, _FORCED = 0x5E1EC7, 0x1E46E4, 0xF02CED
SPAN_PARAMETER, LONGEST_SPAN = 0.2, 10  # in words


class WordStarts(NamedTuple):
    """Where words and chunks begin.

    Args:
        begins: [rows, length] booleans, True at the first token of each word.
        chunks: [num_chunks] first position of each chunk in the flattened rows, ascending; every row begins with one.
    """

    begins: np.ndarray
    chunks: np.ndarray


def below(rates: float | np.ndarray) -> np.ndarray:
    """Bounds of random 64-bit integers: those under the bound have a `uniform` number under the rate, exactly."""
    bounds: np.ndarray = np.ceil(np.asarray(rates) * 2.0**53).astype(np.uint64) << np.uint64(11)
    return bounds


def uniform(integers: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), from the first 53 bits of random 64-bit integers."""
    return (integers >> np.uint64(11)) * 2.0**-53


def tokens(keys: np.ndarray, eligible: np.ndarray, rates: float | np.ndarray) -> np.ndarray:
    """Choose single tokens.

    Args:
        keys: [rows, length] a random 64-bit integer for each position.
        eligible: [rows, length] which tokens may be chosen.
        rates: Probability of each token, or [rows] that of each row's tokens.

    Returns:
        [rows, length] booleans; at least one is True in each row with an eligible token.
    """
    draw = hashing.mix(keys ^ np.uint64(SELECT))
    chosen: np.ndarray = draw < (below(rates)[:, None] if np.ndim(rates) else below(rates))
    chosen &= eligible
    empty = ~chosen.any(1)
    empty &= eligible.any(1)
    if empty.any():
        lowest = np.where(eligible[empty], uniform(draw[empty]), 2.0).argmin(1)
        chosen[empty, lowest] = True
    return chosen


def words(keys: np.ndarray, eligible: np.ndarray, rates: float | np.ndarray, starts: WordStarts) -> np.ndarray:
    """Choose whole words; as `tokens`, but all eligible tokens of a word are chosen or none.

    A word ends with its chunk at the latest, and before a token that is not eligible.
    """
    first, row, _ = _eligible_words(eligible, starts)
    word_keys = keys.reshape(-1).take(first)
    draw = hashing.mix(word_keys ^ np.uint64(SELECT))
    chosen = draw < (below(rates)[row] if np.ndim(rates) else below(rates))
    chosen |= _one_per_empty_row(chosen, row, word_keys, len(keys))
    of_tokens: np.ndarray = _per_token(chosen, first, eligible) & eligible
    return of_tokens


def spans(
    keys: np.ndarray, eligible: np.ndarray, rates: float | np.ndarray, starts: WordStarts
) -> tuple[np.ndarray, np.ndarray]:
    """Choose spans of whole words; as `words`, but neighbouring words are chosen together.

    Returns:
        [rows, length] booleans, and [chosen tokens] for each of these, in order, the position of the first token of its
        span in the flattened rows.
    """
    first, row, chunk = _eligible_words(eligible, starts)
    word_keys = keys.reshape(-1).take(first)
    draw = hashing.mix(word_keys ^ np.uint64(SELECT))
    opens = np.diff(chunk, prepend=-1) != 0  # the first word of its chunk
    rate = np.asarray(rates)[row] if np.ndim(rates) else np.full(len(row), rates)
    begins = draw < below(np.where(opens, rate, rate / (rate + _MEAN * (1 - rate))))
    forced = _one_per_empty_row(begins, row, word_keys, len(keys))
    start = np.flatnonzero(begins | forced)

    length_draw = hashing.mix(word_keys.take(start) ^ np.uint64(_LENGTH))
    length = 1 + np.where(
        opens.take(start),
        np.searchsorted(_REMAINING_LENGTHS, length_draw, side="right"),
        np.searchsorted(_LENGTHS, length_draw, side="right"),
    )
    length[forced.take(start)] = 1
    chunk_end = np.append(np.flatnonzero(opens), len(first))[np.cumsum(opens)]  # of each word, in words
    end = np.minimum(start + length, chunk_end.take(start))
    disjoint = _reachable(np.searchsorted(start, end))
    start, end = start[disjoint], end[disjoint]

    owner = np.full(len(first), -1)  # for each word the first token of its span
    count = end - start
    inside = np.arange(int(count.sum())) + np.repeat(start - (np.cumsum(count) - count), count)
    owner[inside] = np.repeat(first.take(start), count)
    owners = _per_token(owner, first, eligible)
    chosen = owners >= 0
    chosen &= eligible
    return chosen, owners[chosen]


def _eligible_words(eligible: np.ndarray, starts: WordStarts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each word: the position of its first token in the flattened rows, its row, and its chunk."""
    begins = starts.begins.copy()
    begins.reshape(-1)[starts.chunks] = True
    begins[:, 1:] |= ~eligible[:, :-1]
    begins &= eligible
    first = np.flatnonzero(begins)
    return first, first // max(1, eligible.shape[1]), np.searchsorted(starts.chunks, first, side="right") - 1


def _per_token(of_words: np.ndarray, first: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """[rows, length] the value of each word at all of its tokens; undefined at tokens that are not eligible."""
    of_tokens = np.zeros(eligible.size, of_words.dtype)
    if len(first):
        of_tokens[first[0] :] = np.repeat(of_words, np.diff(first, append=eligible.size))
    return of_tokens.reshape(eligible.shape)


def _one_per_empty_row(chosen: np.ndarray, row: np.ndarray, word_keys: np.ndarray, num_rows: int) -> np.ndarray:
    """[words] booleans: one word, each equally likely, of each row without a chosen word."""
    forced = np.zeros(len(chosen), bool)
    in_empty_row = (np.bincount(row[chosen], minlength=num_rows) == 0)[row]
    if in_empty_row.any():
        candidates = np.flatnonzero(in_empty_row)
        draw = hashing.mix(word_keys.take(candidates) ^ np.uint64(_FORCED))
        count = np.bincount(row[candidates], minlength=num_rows)
        count = count[count > 0]
        lowest = np.minimum.reduceat(draw, np.cumsum(count) - count)
        forced[candidates[draw == np.repeat(lowest, count)]] = True
    return forced


def _reachable(following: np.ndarray) -> np.ndarray:
    """[n] booleans: which items the first one reaches by steps from i to following[i]; n stands for the end.

    k rounds find the items that less than 2^k steps reach (pointer jumping; Wyllie, 1979).
    """
    num = len(following)
    reached = np.zeros(num + 1, bool)
    reached[0] = True
    jump = np.append(following, num)
    while jump[0] < num:
        reached[jump[reached]] = True
        jump = jump[jump]
    of_items: np.ndarray = reached[:num]
    return of_items


def _length_tables() -> tuple[float, np.ndarray, np.ndarray]:
    """The mean length of spans, and tables that map random integers to a length and to a remaining length."""
    # Products and sums only: these give the same bits on every machine.
    survival = np.cumprod(np.full(LONGEST_SPAN, 1 - SPAN_PARAMETER))
    longer = np.append(1.0, survival[:-1])  # probabilities of at least 1, 2, ... words, if lengths were unbounded
    at_least = (longer - survival[-1]) / (1 - survival[-1])
    mean = float(np.cumsum(at_least)[-1])
    return mean, below(1 - at_least[1:]), below(np.cumsum(at_least[:-1]) / mean)


_MEAN, _LENGTHS, _REMAINING_LENGTHS = _length_tables()
