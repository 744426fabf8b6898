"""Which tokens are predicted: single ones, whole words or spans of words; each token with exactly the chance wanted.

A word is chosen with the chance that a token shall have. So is each of its tokens, however long words are.

Spans follow each other as SpanBERT's (Joshi et al., 2020, section 3.1) do: they are runs of whole words, their lengths
geometric (p = 0.2) among 1 to 10 words, 3.8 in the mean, and none overlaps another. Where SpanBERT draws spans until
15% of a text are spent, here the words of a window are gone through in order: outside of a span, each begins one with
the chance q = p / (p + m (1 - p)), where m is the mean length. A span and the words before the next then have the means
m and (1 - q) / q, so that spans hold the share p of all words (renewal theory; Cox, 1962). The first word of a window
is drawn as one in the middle of an endless text: with the chance p it lies in a span, the rest of which has the lengths
r with the chances P(length >= r) / m. So each word, wherever it stands, is in a span with exactly the chance p. In a
window, a span may be cut at either end, and it may touch the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mlm_dist import hashing

SELECT, _LENGTH, _FORCED = 0x5E1EC7, 0x1E46E4, 0xF02CED
SPAN_PARAMETER, LONGEST_SPAN = 0.2, 10  # in words


class Words(NamedTuple):
    """Where words and chunks begin in some rows.

    Args:
        begins: [rows, length] booleans, true at the first token of each word.
        chunks: [num_chunks] where each window begins in the flattened rows, ascending; each row begins with one.
    """

    begins: np.ndarray
    chunks: np.ndarray


def below(rates: float | np.ndarray) -> np.ndarray:
    """The 64-bit words under this are those whose uniform number is below the rate; both are exact."""
    bounds: np.ndarray = np.ceil(np.asarray(rates) * 2.0**53).astype(np.uint64) << np.uint64(11)
    return bounds


def uniform(words: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), made of the first 53 bits of random words."""
    return (words >> np.uint64(11)) * 2.0**-53


def tokens(places: np.ndarray, eligible: np.ndarray, rates: float | np.ndarray) -> np.ndarray:
    """Choose tokens.

    Args:
        places: [rows, length] a random word for each place.
        eligible: [rows, length] which tokens may be chosen.
        rates: Chance of each token, or [rows] that of each row's tokens.

    Returns:
        [rows, length] booleans; at least one is true in each row that has an eligible token.
    """
    draw = hashing.mix(places ^ np.uint64(SELECT))
    chosen: np.ndarray = draw < (below(rates)[:, None] if np.ndim(rates) else below(rates))
    chosen &= eligible
    bare = ~chosen.any(1)
    bare &= eligible.any(1)
    if bare.any():
        lowest = np.where(eligible[bare], uniform(draw[bare]), 2.0).argmin(1)
        chosen[bare, lowest] = True
    return chosen


def words(places: np.ndarray, eligible: np.ndarray, rates: float | np.ndarray, where: Words) -> np.ndarray:
    """Choose whole words; as `tokens`, but that all eligible tokens of a word are chosen or none.

    A word ends at the latest where its window does, or before a token that is not eligible.
    """
    first, row, _ = _places_of_words(eligible, where)
    here = places.reshape(-1).take(first)
    draw = hashing.mix(here ^ np.uint64(SELECT))
    chosen = draw < (below(rates)[row] if np.ndim(rates) else below(rates))
    chosen |= _one_in_bare_rows(chosen, row, here, len(places))
    found: np.ndarray = _spread(chosen, first, eligible) & eligible
    return found


def spans(
    places: np.ndarray, eligible: np.ndarray, rates: float | np.ndarray, where: Words
) -> tuple[np.ndarray, np.ndarray]:
    """Choose spans of whole words; as `words`, but that neighbours are chosen together.

    Returns:
        [rows, length] booleans, and [chosen tokens] for each of these, in order, the place of its span's first token in
        the flattened rows.
    """
    first, row, window = _places_of_words(eligible, where)
    here = places.reshape(-1).take(first)
    draw = hashing.mix(here ^ np.uint64(SELECT))
    opens = np.diff(window, prepend=-1) != 0  # the first word of its window
    each = np.asarray(rates)[row] if np.ndim(rates) else np.full(len(row), rates)
    begins = draw < below(np.where(opens, each, each / (each + _MEAN * (1 - each))))
    forced = _one_in_bare_rows(begins, row, here, len(places))
    start = np.flatnonzero(begins | forced)

    length_draw = hashing.mix(here.take(start) ^ np.uint64(_LENGTH))
    length = 1 + np.where(
        opens.take(start),
        np.searchsorted(_REST_LENGTHS, length_draw, side="right"),
        np.searchsorted(_LENGTHS, length_draw, side="right"),
    )
    length[forced.take(start)] = 1
    window_end = np.append(np.flatnonzero(opens), len(first))[np.cumsum(opens)]  # of each word, in words
    end = np.minimum(start + length, window_end.take(start))
    real = _followed(np.searchsorted(start, end))
    start, end = start[real], end[real]

    owner = np.full(len(first), -1)  # of each word the first token of its span
    count = end - start
    inside = np.arange(int(count.sum())) + np.repeat(start - (np.cumsum(count) - count), count)
    owner[inside] = np.repeat(first.take(start), count)
    owners = _spread(owner, first, eligible)
    chosen = owners >= 0
    chosen &= eligible
    return chosen, owners[chosen]


def _places_of_words(eligible: np.ndarray, where: Words) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each word its first token's place in the flattened rows, its row, and its window."""
    begins = where.begins.copy()
    begins.reshape(-1)[where.chunks] = True
    begins[:, 1:] |= ~eligible[:, :-1]
    begins &= eligible
    first = np.flatnonzero(begins)
    return first, first // max(1, eligible.shape[1]), np.searchsorted(where.chunks, first, side="right") - 1


def _spread(of_words: np.ndarray, first: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """[rows, length] what is said of each word, at all of its tokens; at tokens that are not eligible, anything."""
    found = np.zeros(eligible.size, of_words.dtype)
    if len(first):
        found[first[0] :] = np.repeat(of_words, np.diff(first, append=eligible.size))
    return found.reshape(eligible.shape)


def _one_in_bare_rows(chosen: np.ndarray, row: np.ndarray, here: np.ndarray, num_rows: int) -> np.ndarray:
    """[words] booleans: one word, each as likely, of each row none of whose words is chosen."""
    found = np.zeros(len(chosen), bool)
    bare = (np.bincount(row[chosen], minlength=num_rows) == 0)[row]
    if bare.any():
        those = np.flatnonzero(bare)
        draw = hashing.mix(here.take(those) ^ np.uint64(_FORCED))
        count = np.bincount(row[those], minlength=num_rows)
        count = count[count > 0]
        lowest = np.minimum.reduceat(draw, np.cumsum(count) - count)
        found[those[draw == np.repeat(lowest, count)]] = True
    return found


def _followed(following: np.ndarray) -> np.ndarray:
    """[n] which of n are reached from the first by going from each to `following`, which is n behind the last.

    After k rounds those are known that less than 2^k steps lead to (pointer jumping; Wyllie, 1979).
    """
    num = len(following)
    reached = np.zeros(num + 1, bool)
    reached[0] = True
    jump = np.append(following, num)
    while jump[0] < num:
        reached[jump[reached]] = True
        jump = jump[jump]
    found: np.ndarray = reached[:num]
    return found


def _length_tables() -> tuple[float, np.ndarray, np.ndarray]:
    """Mean length of spans; and what to look up random words in for a length, and for the rest of one."""
    survival = np.cumprod(np.full(LONGEST_SPAN, 1 - SPAN_PARAMETER))  # products and sums alone are alike everywhere
    longer = np.append(1.0, survival[:-1])  # unscaled chances of at least 1, 2, ... if there were no longest
    at_least = (longer - survival[-1]) / (1 - survival[-1])
    mean = float(np.cumsum(at_least)[-1])
    return mean, below(1 - at_least[1:]), below(np.cumsum(at_least[:-1]) / mean)


_MEAN, _LENGTHS, _REST_LENGTHS = _length_tables()
