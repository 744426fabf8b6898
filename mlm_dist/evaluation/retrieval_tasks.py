"""The retrieval tasks of a corpus: pairs from the structure of held-out documents, and the queries of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlm_dist.corpus import passages
from mlm_dist.corpus.retrieval_pairs import retrieval_pairs
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation import search_documents
from mlm_dist.evaluation.ranking_task import RankingTask
from mlm_dist.evaluation.task_files import QUERIES, Query

MAX_QUERIES = 500  # of one kind
MIN_PAIRS = 2
MAX_NAMED = 20  # training documents that the result names


def tasks_of_structure(corpus: PreparedCorpus) -> list[RankingTask]:
    """A task for each kind of retrieval pairs of which the held-out documents have some.

    Raises:
        ConfigError: They have none of any kind.
    """
    kinds = (one.limited(MAX_QUERIES) for one in retrieval_pairs(search_documents.held_out(corpus)))
    tasks = [
        RankingTask(one.kind, one.queries, one.passages, one.relevant, {"dropped": one.dropped})
        for one in kinds
        if len(one.queries) >= MIN_PAIRS and len(one.passages) >= MIN_PAIRS
    ]
    if not tasks:
        raise ConfigError(
            "validation.tasks: retrieval needs at least two held-out documents with titles, headings, links or two "
            "longer halves; raise corpus.validation_fraction"
        )
    return tasks


def task_of_queries(corpus: PreparedCorpus, queries: Sequence[Query], path: Path, max_words: int) -> RankingTask:
    """The task of finding the documents that answer queries, among them and the held-out documents.

    Args:
        corpus: The corpus that has the documents.
        queries: The queries.
        path: The file they are from.
        max_words: Words of a passage, which is the beginning of the body of a document.

    Raises:
        ConfigError: An id names no document of the corpus; it names the line.
    """
    lines = {id_: query.line for query in reversed(queries) for id_ in query.relevant}
    held_out = search_documents.held_out(corpus, lines)
    trained_on = search_documents.trained_on(corpus, lines.keys() - {document.id for document in held_out})
    documents = [*held_out, *trained_on]
    indices = {document.id: i for i, document in enumerate(documents)}
    for id_, line in lines.items():
        if id_ not in indices:
            sample = f"; ids are such as {documents[0].id!r}" if documents else ""
            raise ConfigError(
                f"{QUERIES}: line {line} of {path} names {id_!r}, but corpus {corpus.digest} has no such document: it "
                f"does not exist, or was dropped{sample}"
            )
    texts = [passages.shortened(passages.body(one) or one.text, max_words) for one in documents]
    ids = sorted(document.id for document in trained_on)
    about = {"relevant_training_documents": len(ids), "training_documents": ids[:MAX_NAMED]}
    relevant = [[indices[id_] for id_ in query.relevant] for query in queries]
    return RankingTask("queries", [query.text for query in queries], texts, relevant, about)
