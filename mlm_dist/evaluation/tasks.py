"""The tasks of the validate job: what the embeddings of a model are worth for retrieval and classification."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlm_dist.corpus.retrieval_pairs import PASSAGE_WORDS
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.evaluation.classification_task import ClassificationTask, TokenClassificationTask
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.evaluation.ranking_task import RankingTask
from mlm_dist.evaluation.retrieval_tasks import task_of_queries, tasks_of_structure
from mlm_dist.evaluation.task_files import LabelledTexts, LabelledWords, Query, read_labels, read_queries
from mlm_dist.evaluation.task_result import TaskResult
from mlm_dist.model.positions import max_positions

MIN_TOKENS = 256  # of a text that are read, if the model has as many positions

logger = logging.getLogger(__name__)


class TaskFiles(NamedTuple):
    """The files of tasks, read.

    Args:
        path: The file of queries; None without that task.
        queries: The queries.
        labelled: Labelled texts or words; None without that task.
    """

    path: Path | None = None
    queries: Sequence[Query] = ()
    labelled: LabelledTexts | LabelledWords | None = None

    @classmethod
    def read(cls, queries: str | None, labels: str | None) -> TaskFiles:
        """Read the files that are named.

        Raises:
            ConfigError: One cannot be read, or a line of it is wrong.
        """
        path, labelled = (None if one is None else Path(one).expanduser() for one in (queries, labels))
        return cls(
            path,
            () if path is None else read_queries(path),
            None if labelled is None else read_labels(labelled),
        )


class Tasks:
    """Tasks and the results of models on them.

    Args:
        names: The tasks, of validation.tasks.
        files: Their files.
        corpus: The corpus whose documents are searched.

    Raises:
        ConfigError: The held-out documents are too few for a task, or a query names a document that is not there.
    """

    def __init__(self, names: Collection[str], files: TaskFiles, corpus: PreparedCorpus) -> None:
        self._tokenizer, self._row_length = corpus.tokenizer, int(corpus.manifest["config"]["rows"]["max_length"])
        self._max_tokens = 0
        self._ranking: list[RankingTask] = tasks_of_structure(corpus) if "retrieval" in names else []
        if files.path is not None:
            max_words = max(PASSAGE_WORDS, self._row_length)
            self._ranking.append(task_of_queries(corpus, files.queries, files.path, max_words))
        self._classification: list[ClassificationTask | TokenClassificationTask] = []
        match files.labelled:
            case LabelledTexts(texts, labels):
                self._classification.append(ClassificationTask(texts, labels))
            case LabelledWords(lines, labels):
                self._classification.append(TokenClassificationTask(lines, labels))

    def measure(self, models: Mapping[str, Any]) -> None:
        """Measure the baselines and models, which all read as many tokens of a text.

        Args:
            models: {trained or start: a transformers masked-language model in fp32}.
        """
        rooms = [room for model in models.values() if (room := max_positions(model.config)) is not None]
        self._max_tokens = min([max(self._row_length, MIN_TOKENS), *rooms])
        encoders = {name: TextEncoder(model, self._tokenizer, self._max_tokens) for name, model in models.items()}
        for ranking in self._ranking:
            ranking.measure_baselines(next(iter(encoders.values())))
        texts = [*dict.fromkeys(text for task in self._ranking for text in task.texts)]
        for name, encoder in encoders.items():
            vectors = dict(zip(texts, encoder.encode(texts), strict=True)) if texts else {}
            for ranking in self._ranking:
                ranking.measure(name, vectors)
            for task in self._classification:
                task.measure(name, encoder)

    def results(self) -> list[TaskResult]:
        """The results of the models that were measured."""
        return [result for task in (*self._ranking, *self._classification) for result in task.results()]

    def to_json(self, results: Collection[TaskResult]) -> dict[str, Any]:
        """What tasks.json says of results."""
        return {"max_tokens": self._max_tokens, "tasks": {one.name: one.to_json() for one in results}}
