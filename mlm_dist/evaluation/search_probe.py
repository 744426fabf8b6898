"""The search probe: how useful the states of a model are for search, measured without labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading, ordinary_text
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation.embeddings import mean_states
from mlm_dist.evaluation.retrieval import cosine, retrieval_metrics, token_overlap
from mlm_dist.evaluation.retrieval_tasks import retrieval_tasks

BASELINE = "token_overlap"


class SearchProbe:
    """Retrieval tasks on the validation documents of a corpus, and the results of models on them.

    `results` is {task: {"pairs": number of queries, name of a model: its metrics}}. A baseline that compares tokens by
    tf-idf is among the models.

    Args:
        corpus: The corpus. Models and baseline read texts up to the length of its rows.

    Raises:
        ConfigError: The validation documents are too few or too short for a task.
    """

    def __init__(self, corpus: PreparedCorpus) -> None:
        tasks = retrieval_tasks((id_, text) for id_, _, text in corpus.documents("validation"))
        if not tasks:
            raise ConfigError(
                "validation.probe: it needs at least two validation documents with a title or two longer halves; raise "
                "corpus.validation_fraction"
            )
        self._special = loading.special_tokens(corpus.tokenizer)
        max_tokens = corpus.manifest["config"]["rows"]["max_length"]
        max_tokens -= len(self._special.prefix) + len(self._special.suffix)
        backend = ordinary_text.backend(corpus.tokenizer)

        def encode(texts: list[str]) -> list[np.ndarray]:
            encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(encoding.ids[:max_tokens] or [self._special.pad]) for encoding in encodings]

        self._tasks = {task.name: (encode(task.queries), encode(task.targets)) for task in tasks}
        self.results: dict[str, dict[str, Any]] = {
            task: {"pairs": len(targets), BASELINE: retrieval_metrics(token_overlap(queries, targets))}
            for task, (queries, targets) in self._tasks.items()
        }

    def evaluate(self, name: str, model: Any) -> None:
        """Evaluate a model by the cosine of its mean-pooled states, and add it to `results`.

        Args:
            name: Its name in the results: start or trained.
            model: A transformers masked-language model in fp32.
        """
        for task, (queries, targets) in self._tasks.items():
            states = mean_states(model, [*queries, *targets], self._special)
            similarity = cosine(states[: len(queries)], states[len(queries) :])
            self.results[task][name] = retrieval_metrics(similarity)

    def describe(self) -> list[str]:
        """One line per task and model."""
        return [
            f"{task.replace('_', ' ')}, {result['pairs']} validation documents, {name.replace('_', ' ')}: recall@1 "
            f"{metrics['recall_at_1']:.1%}, recall@10 {metrics['recall_at_10']:.1%}, mean reciprocal rank "
            f"{metrics['mrr']:.3f}"
            for task, result in self.results.items()
            for name, metrics in result.items()
            if name != "pairs"
        ]
