"""How worth.py judges a run: the retrieval tasks of the validate job, and the folder of a document as its label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from mlm_dist.corpus.passages import OutlinedDocument, body, shortened
from mlm_dist.corpus.retrieval_pairs import PASSAGE_WORDS
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.evaluation.classification_task import ClassificationTask
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.evaluation.retrieval_tasks import tasks_of_structure

BASELINE, METRIC = "bm25", "ndcg_at_10"
MAX_TOKENS = 256  # of a text that are read
LEAST, MAX_DEPTH = 8, 6  # documents of a label, and folders above each other


def judge(model: Any, corpus: PreparedCorpus, *, with_baseline: bool) -> dict[str, Any]:
    """nDCG@10 of each query of each kind, and the accuracy of the classifier; None if the folders are no labels.

    Args:
        model: A transformers masked-language model in fp32.
        corpus: The corpus with its tokenizer.
        with_baseline: Whether to measure BM25 as well.
    """
    encoder = TextEncoder(model, corpus.tokenizer, MAX_TOKENS)
    kinds: dict[str, dict[str, list[float]]] = {}
    for task in tasks_of_structure(corpus):
        if with_baseline:
            task.measure_baselines(encoder)
        task.measure("trained", dict(zip(task.texts, encoder.encode(task.texts), strict=True)))
        kinds[task.name] = {
            name: [round(float(one), 4) for one in values[METRIC]] for name, values in task.values.items()
        }
    documents = [OutlinedDocument(*one) for split in ("train", "validation") for one in corpus.outlines(split)]
    return {"documents": len(documents), "kinds": kinds, "accuracy": _accuracy(documents, encoder)}


def _accuracy(documents: list[OutlinedDocument], encoder: TextEncoder) -> float | None:
    """The accuracy of predicting in which folder a document is."""
    labels = folder_labels([one.id for one in documents])
    kept = [i for i, label in enumerate(labels) if label is not None]
    if not kept:
        return None
    texts = [shortened(body(documents[i]), PASSAGE_WORDS) or documents[i].text for i in kept]
    task = ClassificationTask(texts, [str(labels[i]) for i in kept])
    task.measure("trained", encoder)
    return task.results()[0].models["trained"]["accuracy"].mean


def folder_labels(ids: Sequence[str]) -> list[str | None]:
    """The folder of each document at the first depth that divides half of them into folders of at least 8 documents.

    None for documents of smaller folders, and for all if there is no such depth.
    """
    parts = [PurePosixPath(id_).parent.parts for id_ in ids]
    for depth in range(1, MAX_DEPTH):
        labels = ["/".join(one[:depth]) for one in parts]
        counts = Counter(labels)
        kept = [label if counts[label] >= LEAST else None for label in labels]
        if len({*kept} - {None}) > 1 and 2 * sum(label is not None for label in kept) >= len(ids):
            return kept
    return [None] * len(ids)
