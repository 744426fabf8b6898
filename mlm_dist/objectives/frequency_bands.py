"""Bands of tokens by their frequency in the training rows: an accuracy per band shows which words were learnt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

BY_FREQUENCY = ("frequent", "common", "uncommon", "rare")
DOMAIN = "domain"


@dataclass(frozen=True)
class Bands:
    """Which tokens belong to which band.

    Args:
        names: Names of the bands.
        membership: [vocabulary, bands], bool; a token may be in several bands, or in none.
    """

    names: tuple[str, ...]
    membership: np.ndarray


NO_BANDS = Bands((), np.empty((0, 0), bool))


def by_frequency(token_counts: np.ndarray, domain_tokens: Iterable[int] = ()) -> Bands:
    """Four bands, each with a quarter of the training tokens, and one of the domain tokens if there are any.

    Tokens are sorted from frequent to rare. The first band holds the few tokens whose occurrences make up the first
    quarter of the text; the last holds the many that make up the last quarter, and those that do not occur in training.
    So each band has about as many tokens to predict, whatever the language and the size of the vocabulary. A token
    across a border belongs to the band of its middle.

    Args:
        token_counts: [vocabulary] how often each token occurs in the training rows.
        domain_tokens: Ids of the domain tokens; they are in one of the four bands as well.
    """
    order = np.argsort(-token_counts, kind="stable")
    counts = token_counts[order].astype(np.float64)
    middle = (np.cumsum(counts) - counts / 2) / max(
        counts.sum(), 1.0
    )  # position of each token in the text, from 0 to 1
    quarter = np.minimum((len(BY_FREQUENCY) * middle).astype(np.int64), len(BY_FREQUENCY) - 1)
    quarter[counts == 0] = len(BY_FREQUENCY) - 1
    membership = np.zeros((len(token_counts), len(BY_FREQUENCY)), bool)
    membership[order, quarter] = True
    added = list(domain_tokens)
    if not added:
        return Bands(BY_FREQUENCY, membership)
    is_added = np.isin(np.arange(len(token_counts)), added)
    return Bands((*BY_FREQUENCY, DOMAIN), np.column_stack([membership, is_added]))
