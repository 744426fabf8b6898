"""The probe: the same questions to the starting model, to the trained one, and to the tokens themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation import questions, retrieval
from mlm_dist.evaluation.embeddings import mean_states

OVERLAP = "token_overlap"


class Probe:
    """Questions about the held-out documents of a corpus, and who answered them how well.

    Args:
        corpus: Texts are seen up to the length of its rows, by models and by the comparison of tokens alike.

    Raises:
        ConfigError: The held-out documents raise no questions.
    """

    def __init__(self, corpus: PreparedCorpus) -> None:
        asked = questions.ask((id_, text) for id_, _, text in corpus.documents("validation"))
        if not asked:
            raise ConfigError(
                "validation.probe: not even two held-out documents have a title or two halves of some length; raise "
                "corpus.validation_fraction"
            )
        self._special = loading.special_tokens(corpus.tokenizer)
        room = corpus.manifest["config"]["rows"]["max_length"]
        room -= len(self._special.prefix) + len(self._special.suffix)
        backend = corpus.tokenizer.backend_tokenizer

        def encoded(texts: list[str]) -> list[np.ndarray]:
            found = backend.encode_batch_fast(texts, add_special_tokens=False)
            return [np.array(one.ids[:room] or [self._special.pad]) for one in found]

        self._asked = {one.name: (encoded(one.queries), encoded(one.targets)) for one in asked}
        self.answers: dict[str, dict[str, Any]] = {
            name: {"pairs": len(targets), OVERLAP: retrieval.figures(retrieval.token_overlap(queries, targets))}
            for name, (queries, targets) in self._asked.items()
        }

    def put_to(self, name: str, model: Any) -> None:
        """Let a transformers masked-language model in fp32 answer, by the cosine of its mean-pooled states."""
        for asked, (queries, targets) in self._asked.items():
            states = mean_states(model, [*queries, *targets], self._special)
            likeness = retrieval.cosine(states[: len(queries)], states[len(queries) :])
            self.answers[asked][name] = retrieval.figures(likeness)

    def describe(self) -> list[str]:
        """A line for each question and who answered it."""
        return [
            f"{asked.replace('_', ' ')} of {found['pairs']} held-out documents, by {name.replace('_', ' ')}: recall@1 "
            f"{one['recall_at_1']:.1%}, recall@10 {one['recall_at_10']:.1%}, mean reciprocal rank {one['mrr']:.3f}"
            for asked, found in self.answers.items()
            for name, one in found.items()
            if name != "pairs"
        ]
