"""A retrieval task: models rank passages for queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlm_dist.evaluation.bm25 import bm25_scores
from mlm_dist.evaluation.bootstrap import mean_interval, paired_interval
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.evaluation.passage_ranks import ranking_metrics
from mlm_dist.evaluation.retrieval import token_overlap
from mlm_dist.evaluation.task_result import TaskResult, compared


class RankingTask:
    """Queries, the passages to search and what models make of them.

    Args:
        name: Name of the task.
        queries: The queries, at least one.
        passages: The passages.
        relevant: Of each query, the indices of the passages that answer it.
        about: What is known about them besides their numbers.

    Attributes:
        values: {model: {metric: [queries] its values}} of all models that were measured.
    """

    def __init__(
        self,
        name: str,
        queries: Sequence[str],
        passages: Sequence[str],
        relevant: Sequence[Sequence[int]],
        about: Mapping[str, Any],
    ) -> None:
        self.name, self.queries, self.passages = name, queries, passages
        self._relevant = relevant
        self._about = {"queries": len(queries), "passages": len(passages), **about}
        self.values: dict[str, dict[str, np.ndarray]] = {}

    @property
    def texts(self) -> list[str]:
        """All texts that a model encodes."""
        return [*self.queries, *self.passages]

    def measure_baselines(self, encoder: TextEncoder) -> None:
        """Measure BM25 and the overlap of tokens."""
        self._measure("bm25", bm25_scores(self.queries, self.passages))
        queries, passages = encoder.token_ids(self.queries), encoder.token_ids(self.passages)
        self._measure("token_overlap", token_overlap(queries, passages))

    def measure(self, model: str, vectors: Mapping[str, np.ndarray]) -> None:
        """Measure a model by the cosine of its vectors.

        Args:
            model: Its name: start or trained.
            vectors: {text: its vector}, of length 1, of all texts.
        """
        queries, passages = (np.stack([vectors[text] for text in some]) for some in (self.queries, self.passages))
        self._measure(model, queries @ passages.T)

    def results(self) -> list[TaskResult]:
        """The figures of all models that were measured."""
        models = {
            model: {metric: mean_interval(one) for metric, one in values.items()}
            for model, values in self.values.items()
        }
        differences = {
            model: {
                metric: paired_interval(one, self.values[model][metric])
                for metric, one in self.values["trained"].items()
            }
            for model in compared(self.values)
        }
        return [TaskResult(self.name, self._about, models, differences)]

    def _measure(self, model: str, scores: np.ndarray) -> None:
        self.values[model] = ranking_metrics(scores, self._relevant)
