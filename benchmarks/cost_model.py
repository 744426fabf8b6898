"""A linear model of what a stage costs: a constant, an amount per document and an amount per MB, none negative."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Amount:
    """The size of a corpus.

    Args:
        documents: Number of documents.
        megabytes: MB of text.
    """

    documents: float
    megabytes: float


@dataclass(frozen=True)
class CostModel:
    """cost = constant + per_document * documents + per_megabyte * megabytes."""

    constant: float
    per_document: float
    per_megabyte: float

    def __call__(self, amount: Amount) -> float:
        """The cost of a corpus."""
        return self.constant + self.per_document * amount.documents + self.per_megabyte * amount.megabytes


def fit(amounts: Sequence[Amount], costs: Sequence[float]) -> CostModel:
    """The model with the least squares of relative errors, among those without negative terms.

    Args:
        amounts: Corpora that were measured, at least three, that do not all have one length of documents.
        costs: Their costs, positive.
    """
    terms = np.array([[1.0, one.documents, one.megabytes] for one in amounts]) / np.array(costs)[:, None]
    best, least = np.zeros(3), np.inf
    for chosen in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
        columns = terms[:, chosen]
        scale = np.linalg.norm(columns, axis=0)  # a document and a constant differ by many orders of magnitude
        found = np.linalg.lstsq(columns / scale, np.ones(len(terms)), rcond=None)[0] / scale
        error = float(((columns @ found - 1) ** 2).sum())
        if (found >= 0).all() and error < least:
            best, least = np.zeros(3), error
            best[list(chosen)] = found
    return CostModel(*best.tolist())
