"""The search of a run: its exported model and, to compare, the model before training and BM25."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from mlm_dist import environment, system_errors
from mlm_dist.config import TrackingConfig, parse_of_run
from mlm_dist.corpus.store import SPLITS, PreparedCorpus
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError, CorpusError, ModelError, UserError
from mlm_dist.evaluation.bm25 import BM25, words
from mlm_dist.resolve import corpus_spec, resolve
from mlm_dist.run_dir import RunDir
from mlm_dist.search.index import Contents, SearchIndex
from mlm_dist.search.nearest import Nearest, best
from mlm_dist.search.passages import passages_of_corpus
from mlm_dist.search.run_corpus import run_corpus
from mlm_dist.search.sentence_model import SentenceModel, start_model, trained_model
from mlm_dist.spec import Spec
from mlm_dist.terminal.stages import stage

TRAINED, START, WORDS = "trained", "start", "bm25"
BM25_LIMIT = 100_000  # passages, whose words are in memory
Split = Literal["all", "train", "validation"]
Ranker = Callable[[str, int], Nearest]

logger = logging.getLogger(__name__)


class Hit(NamedTuple):
    """A passage that was found.

    Args:
        score: Cosine similarity of query and passage; of BM25, its score.
        document: Id of the document.
        heading: Title of the document and headings above the passage; empty without any.
        text: The passage.
    """

    score: float
    document: str
    heading: str
    text: str


class RunSearch:
    """The search of a run; it may be used from several threads.

    Args:
        index: The index of the exported model, whose passages are found.
        rankers: {name: how it ranks the passages} of all models.
    """

    def __init__(self, index: SearchIndex, rankers: Mapping[str, Ranker]) -> None:
        self._index, self._rankers, self._lock = index, rankers, threading.Lock()

    def __len__(self) -> int:
        """The number of passages."""
        return len(self._index)

    @property
    def models(self) -> list[str]:
        """The names of what can be searched with: trained, and start and bm25 if they are open."""
        return list(self._rankers)

    def hits(self, query: str, top: int = 5, model: str = TRAINED) -> list[Hit]:
        """The passages that fit a query best, best first; of equally good ones, the first in the corpus.

        Args:
            query: The query.
            top: The most passages.
            model: One of `models`.

        Raises:
            ConfigError: The query is empty, `top` is below 1, or there is no such model.
        """
        if not query.strip():
            raise ConfigError("search: the query is empty; write what you look for")
        if top < 1:
            raise ConfigError(f"--top: must be at least 1, got {top}")
        if model not in self._rankers:
            raise ConfigError(f"search: there is no model '{model}'; choose one of {', '.join(self.models)}")
        with self._lock:
            found = self._rankers[model](query, top)
            passages = self._index.read(found.indices)
        return [Hit(score, *passage) for score, passage in zip(found.scores.tolist(), passages, strict=True)]


@environment.restored()
@system_errors.explained()
def open_search(run: Path | str, split: Split = "all", *, start: bool | None = False, bm25: bool = False) -> RunSearch:
    """Open the search of a run. The first time, all passages are indexed in RUN/search.

    Args:
        run: Directory of a run with an exported model, whose prepared corpus is in the cache.
        split: The documents to search in: all, train or validation.
        start: Whether to open the model before training as well, which has an index of its own; None opens it if it
            can be loaded.
        bm25: Whether to open BM25 as well. Of over 100,000 passages it is not opened, with a warning.

    Raises:
        ConfigError: It is no run.
        ModelError: It has no exported model, or one that search cannot compute.
        CorpusError: Its corpus is not in the cache, or has no documents in this split.
    """
    config = parse_of_run([str(run)], prog="search")
    run_dir = RunDir(Path(run).expanduser())
    if not (run_dir.model / "config.json").is_file():
        raise ModelError(
            f"{run_dir.path} has no exported model; finish the run, or export a checkpoint with mlm-dist export "
            f"{shlex.quote(str(run))}"
        )
    corpus = run_corpus(run_dir, config.corpus, lambda: corpus_spec(config))
    splits = SPLITS if split == "all" else (split,)
    if not any(corpus.manifest["documents"][one] for one in splits):
        raise CorpusError(f"--split: corpus {corpus.digest} has no {split} documents; search with --split all")
    run_dir.search.mkdir(exist_ok=True)
    with stage("loading model", leaves_after=None):
        trained = trained_model(run_dir.model, run_dir.search)

    def index(name: str, model: SentenceModel) -> SearchIndex:
        max_words = trained.reading.max_words
        made_of = {"model": model.identity, "corpus": corpus.digest, "splits": [*splits], "max_words": max_words}
        passages = passages_of_corpus(corpus, splits, max_words)
        return SearchIndex.of(run_dir.search / f"{name}-{split}", Contents(made_of, passages, model.of_passages))

    def spec() -> Spec:
        return resolve(dataclasses.replace(config, tracking=TrackingConfig([])), Launch.read())

    opened = index(TRAINED, trained)
    rankers: dict[str, Ranker] = {TRAINED: _ranker(opened, trained)}
    if start is not False and (model := _start(spec, corpus, trained, is_needed=start is True)) is not None:
        rankers[START] = _ranker(index(START, model), model)
    if bm25 and (ranker := _bm25(opened)) is not None:
        rankers[WORDS] = ranker
    return RunSearch(opened, rankers)


def _ranker(index: SearchIndex, model: SentenceModel) -> Ranker:
    return lambda query, top: index.nearest(model.of_query(query), top)


def _start(
    spec: Callable[[], Spec], corpus: PreparedCorpus, trained: SentenceModel, *, is_needed: bool
) -> SentenceModel | None:
    """The model before training; None, with a warning, if it cannot be opened.

    Raises:
        UserError: It cannot be opened, and is needed.
    """
    try:
        with stage("loading start model", leaves_after=None):
            return start_model(spec(), corpus, trained)
    except UserError as error:
        if is_needed:
            raise
        logger.warning("the model before training is not shown: %s", error)
        return None


def _bm25(index: SearchIndex) -> Ranker | None:
    """The ranks of BM25; None, with a warning, of too many passages."""
    if len(index) > BM25_LIMIT:
        logger.warning(f"BM25 is not shown: {len(index):,} passages, and it takes at most {BM25_LIMIT:,}")
        return None
    with stage("counting words", leaves_after=2):
        texts = [passage.content for passage in index.passages()]
        if not any(map(words, texts)):
            return None
        found = BM25(texts)

    def rank(query: str, top: int) -> Nearest:
        scores = found.scores(query)
        indices = best(scores, top)
        indices = indices[scores[indices] > 0]
        return Nearest(indices.astype(np.int64), scores[indices])

    return rank
