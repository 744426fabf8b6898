"""The validation set of a run: rows that are not trained on, and some of a second source, always corrupted alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mlm_dist.batches.loader import validation_batches
from mlm_dist.batches.micro_batch import MicroBatch
from mlm_dist.batches.shapes import Rows
from mlm_dist.corpus import sentences
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading, ordinary_text
from mlm_dist.engine.protocol import Engine
from mlm_dist.evaluation.pseudo_likelihood import PseudoLikelihood, one_by_one
from mlm_dist.evaluation.validation import evaluate, unigram_baseline
from mlm_dist.objectives.figures import Validation
from mlm_dist.objectives.protocol import Objective
from mlm_dist.terminal.stage import Stage
from mlm_dist.terminal.stages import stage

BASELINE_ROWS = 256  # at a time


class ValidationSet:
    """The validation rows of a corpus; every rank makes one.

    Args:
        corpus: The corpus of the run.
        second: The corpus of `validation.second_source`, and the split of it to use; None without one.
        max_rows: Rows to use at most, evenly spaced; None for all.

    Attributes:
        total: Rows of the whole validation set.
    """

    def __init__(
        self,
        corpus: PreparedCorpus,
        second: tuple[PreparedCorpus, str] | None = None,
        max_rows: int | None = None,
    ) -> None:
        self._corpus = corpus
        rows = corpus.rows("validation")
        self.total = len(rows)
        self._rows: Rows = rows if max_rows is None or self.total <= max_rows else EvenlySpaced(rows, max_rows)
        self._second = None if second is None else second[0]
        if second is not None:
            # At most as many rows as the main corpus has, so that it takes no more time.
            self._second_rows = EvenlySpaced(second[0].rows(second[1]), len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def baseline(self, objective: Objective) -> dict[str, Any]:
        """Numbers of rows, the unigram baseline on them, and what the second source is; the same on every rank."""
        if not len(self):
            return {}
        batches = validation_batches(self._rows, objective.validation_corruption, BASELINE_ROWS)
        facts: dict[str, Any] = {
            "validation_rows": len(self),
            "validation_rows_total": self.total,
            "unigram_loss": unigram_baseline(self._corpus.token_counts, batches),
        }
        if self._second is not None:
            facts["second_source"] = self._second.manifest["sources"][0]["location"]
            facts["second_corpus"] = self._second.digest
        return facts

    def evaluate(self, engine: Engine, objective: Objective, micro_size: int, *, static: bool = False) -> Validation:
        """Evaluate the engine's model; collective.

        Args:
            engine: The engine.
            objective: The objective.
            micro_size: Rows per forward pass.
            static: Whether all micro-batches have the same shape.
        """

        def on(rows: Rows) -> Validation:
            corruption = objective.validation_corruption
            batches = validation_batches(rows, corruption, micro_size, engine.rank, engine.world_size, static=static)
            with stage("validation", len(rows), "rows", leaves_after=None) as shown:
                return evaluate(engine, objective, _counted(batches, shown, micro_size * engine.world_size))

        result = on(self._rows)
        return result if self._second is None else dataclasses.replace(result, second=on(self._second_rows))

    def pseudo_likelihood(
        self, engine: Engine, objective: Objective, count: int, micro_size: int
    ) -> PseudoLikelihood | None:
        """Evaluate the engine's model on sentences of the validation set, masking each token in turn; collective.

        Args:
            engine: The engine.
            objective: The objective.
            count: Number of sentences.
            micro_size: Rows per forward pass.

        Returns:
            None if `count` is 0, or if no sentence fits into a row.
        """
        if not count:
            return None
        tokenizer, max_length = self._corpus.tokenizer, self._corpus.manifest["config"]["rows"]["max_length"]
        special = loading.special_tokens(tokenizer)
        texts = (text for _, _, text in self._corpus.documents("validation"))
        backend = ordinary_text.backend(tokenizer)
        encoded = [backend.encode(sentence).ids for sentence in sentences.sample(texts, count)]
        encoded = [ids for ids in encoded if len(ids) <= max_length and set(ids) - set(special.all)]
        if not encoded:
            return None
        batches = one_by_one(encoded, special, micro_size, engine.rank, engine.world_size)
        with stage("scoring sentences", unit="batches", leaves_after=2) as shown:
            result = evaluate(engine, objective, shown.over(batches))
        return PseudoLikelihood(len(encoded), result.num_masked, -result.loss)


def _counted(batches: Iterable[MicroBatch], shown: Stage, rows: int) -> Iterator[MicroBatch]:
    """The batches; each counts, for all processes together, when it is done."""
    for batch in batches:
        yield batch
        shown.advance(min(rows, (shown.total or 0) - shown.done))


class EvenlySpaced:
    """Some rows of a split, evenly spaced over it; see `Rows`.

    Args:
        rows: The split.
        most: How many rows at most.
    """

    def __init__(self, rows: Rows, most: int) -> None:
        count = min(len(rows), most)
        self._rows, self._indices = rows, np.arange(count) * len(rows) // max(count, 1)

    def __len__(self) -> int:
        return len(self._indices)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._rows.take(self._indices[indices])

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""
        return self._rows.chunks(self._indices[indices])

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._rows.word_starts(self._indices[indices])
