"""The validation set of a run: rows that are not trained on, of all sources, always corrupted alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlm_dist.batches.loader import validation_batches
from mlm_dist.batches.micro_batch import MicroBatch
from mlm_dist.batches.shapes import RowCounts, Rows
from mlm_dist.corpus import sentences
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading, ordinary_text
from mlm_dist.engine.protocol import Engine
from mlm_dist.evaluation.pair_validation import evaluate_pairs
from mlm_dist.evaluation.pseudo_likelihood import PseudoLikelihood, one_by_one
from mlm_dist.evaluation.validation import evaluate, sums, unigram_baseline
from mlm_dist.objectives.figures import Validation
from mlm_dist.objectives.protocol import Objective
from mlm_dist.terminal.stage import Stage
from mlm_dist.terminal.stages import stage

BASELINE_ROWS = 256  # at a time
MOST_PAIRS = 4096
SIDE_ROWS = 64  # of masked tokens, if no phase learns to predict them


class _Part(NamedTuple):
    """The validation rows of a source: a span of some rows."""

    source: str
    rows: Rows
    span: range


class ValidationSet:
    """The validation rows of a corpus; every rank makes one.

    The figures of a validation are over the rows of the sources that are trained on. If none of them has validation
    rows, they are over those of all sources. With several sources, each has figures of its own as well.

    Args:
        corpus: The corpus of the run.
        trained_on: Names of the sources that are trained on; empty for all of them.
        max_rows: Rows of these sources to use at most, evenly spaced; None for all. Each other source has as many rows
            at most.
        pairs: The corpus with pairs of texts, of which as many are used at most; None if the run does not end with
            learning from pairs.
        predicts: Whether a phase of the run learns to predict tokens. Otherwise at most `SIDE_ROWS` rows are used.

    Attributes:
        total: Rows of the whole validation set, of the sources that count.
        description: These rows in words. Losses on rows of other words cannot be compared.
        apart: Names of the sources that do not count.
    """

    def __init__(
        self,
        corpus: PreparedCorpus,
        trained_on: Collection[str] = (),
        max_rows: int | None = None,
        pairs: PreparedCorpus | None = None,
        *,
        predicts: bool = True,
    ) -> None:
        self._corpus, rows = corpus, corpus.rows("validation")
        parts, counted = _parts(corpus, trained_on)
        self._pairs = None if pairs is None else _chosen_pairs(pairs, trained_on, max_rows)
        if not predicts:
            max_rows = SIDE_ROWS if max_rows is None else min(max_rows, SIDE_ROWS)
        self.apart = tuple(name for name in parts if name not in counted)
        self.total = sum(len(parts[name]) for name in counted)
        chosen = evenly_spaced([parts[name] for name in counted], self.total if max_rows is None else max_rows)
        self._sources = sorted(filter(None, counted))  # a source without a name is the only one
        of_sources = f" of {', '.join(counted)}" if self._sources else ""
        self.description = f"{len(chosen):,} of {self.total:,} validation rows{of_sources}"
        self._rows: Rows = ChosenRows(rows, chosen)
        # The chosen rows are in the order of the table, so those of each source lie side by side.
        ends = {name: np.searchsorted(chosen, [parts[name].start, parts[name].stop]) for name in counted}
        self._counted = [_Part(name, self._rows, range(int(a), int(b))) for name, (a, b) in ends.items() if a < b]
        others = {name: evenly_spaced([parts[name]], len(chosen)) for name in self.apart}
        self._others = [_Part(name, ChosenRows(rows, some), range(len(some))) for name, some in others.items()]

    def __len__(self) -> int:
        return len(self._rows)

    def baseline(self, objective: Objective) -> dict[str, Any]:
        """Numbers of rows, the unigram baseline on them, their sources and those apart; the same on every rank."""
        if not len(self):
            return {}
        batches = validation_batches(self._rows, objective.validation_corruption, BASELINE_ROWS)
        facts: dict[str, Any] = {
            "validation_rows": len(self),
            "validation_rows_total": self.total,
            "unigram_loss": unigram_baseline(self._corpus.token_counts, batches),
        }
        facts |= {"validation_sources": self._sources} if self._sources else {}
        return facts | ({"validation_only": list(self.apart)} if self.apart else {})

    def evaluate(self, engine: Engine, objective: Objective, micro_size: int, *, static: bool = False) -> Validation:
        """Evaluate the engine's model; collective.

        Args:
            engine: The engine.
            objective: The objective.
            micro_size: Rows per forward pass.
            static: Whether all micro-batches have the same shape.
        """
        ranks, parts = (engine.rank, engine.world_size), [*self._counted, *self._others]

        def on(part: _Part) -> list[float]:
            corruption = objective.validation_corruption
            batches = validation_batches(part.rows, corruption, micro_size, *ranks, span=part.span, static=static)
            return sums(engine, objective, _counted(batches, shown, micro_size * engine.world_size))

        with stage("validation", sum(len(part.span) for part in parts), "rows", leaves_after=None) as shown:
            found = {part.source: on(part) for part in parts}
        total = [sum(values) for values in zip(*(found[part.source] for part in self._counted), strict=True)]
        sources = {name: objective.figures(one) for name, one in found.items()} if len(found) > 1 else {}
        of_pairs = None
        if self._pairs is not None and len(self._pairs):
            of_pairs = evaluate_pairs(engine, self._pairs, micro_size, static=static)
        return dataclasses.replace(objective.figures(total), sources=sources, pairs=of_pairs)

    def pseudo_likelihood(
        self, engine: Engine, objective: Objective, count: int, micro_size: int
    ) -> PseudoLikelihood | None:
        """Evaluate the engine's model on sentences of the sources that count, masking each token in turn; collective.

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
        documents = self._corpus.documents("validation")
        # The name of its source begins the id of a document, if there are several sources.
        texts = (text for id_, _, text in documents if not self.apart or id_.split("/")[0] not in self.apart)
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


def _parts(corpus: PreparedCorpus, trained_on: Collection[str]) -> tuple[dict[str, range], list[str]]:
    """The validation rows of each source that has some, and the names of those that count."""
    parts = {name: part for name, part in corpus.source_rows("validation").items() if part}
    return parts, [name for name in parts if name in trained_on] or list(parts)


def _chosen_pairs(corpus: PreparedCorpus, trained_on: Collection[str], most: int | None) -> Rows:
    parts, counted = _parts(corpus, trained_on)
    rows = corpus.rows("validation")
    most = MOST_PAIRS if most is None else min(most, MOST_PAIRS)  # they are compared with each other
    return ChosenRows(rows, evenly_spaced([parts[name] for name in counted], most))


def evenly_spaced(parts: Sequence[range], most: int) -> np.ndarray:
    """At most so many indices of some parts, evenly spaced over them."""
    ends = np.cumsum([0, *map(len, parts)])
    count = min(int(ends[-1]), most)
    places = np.arange(count) * int(ends[-1]) // max(count, 1)
    part = np.searchsorted(ends, places, side="right") - 1
    chosen: np.ndarray = np.array([part.start for part in parts], np.int64)[part] + places - ends[part]
    return chosen


class ChosenRows:
    """Some rows of a split; see `Rows`.

    Args:
        rows: The split.
        indices: [n] which of them.
    """

    def __init__(self, rows: Rows, indices: np.ndarray) -> None:
        self._rows, self._indices = rows, indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def counts(self) -> RowCounts:
        """See `Rows`; those of the split."""
        return self._rows.counts

    @property
    def groups(self) -> np.ndarray | None:
        """See `Rows`."""
        groups = self._rows.groups
        return None if groups is None else groups[self._indices]

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._rows.take(self._indices[indices])

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""
        return self._rows.chunks(self._indices[indices])

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._rows.word_starts(self._indices[indices])
