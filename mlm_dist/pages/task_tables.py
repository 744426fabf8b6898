"""Tables of tasks.json: the figures of a task before and after training, and their difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_dist.evaluation.task_result import METRICS
from mlm_dist.pages.formats import plural
from mlm_dist.pages.tables import Table
from mlm_dist.pages.validation_tables import evaluated_model

TITLES = {
    "title": "find the body of a document by its title",
    "heading": "find a section by its heading",
    "half": "find the second half of a document by the first",
    "link": "find a document by the text of a link to it",
    "queries": "find documents by the queries of validation.queries",
    "classification": "predict the label of a text, by cross-validation",
    "few_shot": "predict the label of a text, from 8 examples of each label",
    "token_classification": "predict the label of each word, by cross-validation",
}
MODELS = {
    "bm25": "BM25",
    "token_overlap": "token overlap (tf-idf)",
    "majority": "most frequent label",
    "start": "before training",
    "trained": "after training",
}
COUNTED = {
    "queries": ("query", "queries"),
    "passages": ("passage", "passages"),
    "texts": ("text", "texts"),
    "lines": ("line", "lines"),
    "words": ("word", "words"),
    "labels": ("label", "labels"),
}
MARK = " *"  # of a difference that is not 0


def task_tables(tasks: Mapping[str, Any] | None) -> list[Table]:
    """One table per task of the validate job, with a row per metric; none if it measured no task."""
    if tasks is None:
        return []
    return [
        _table(TITLES.get(name, name), task, f"The model after training is {evaluated_model(tasks)}.")
        for name, task in tasks["tasks"].items()
    ]


def _table(title: str, task: Mapping[str, Any], about: str) -> Table:
    models, differences = task["models"], task["trained_minus"]
    metrics = [*next(iter(models.values()))]
    heads = ["", *(MODELS.get(model, model) for model in models)]
    heads += [f"after minus {'before' if model == 'start' else MODELS.get(model, model)}" for model in differences]
    rows = [
        [
            METRICS.get(metric, metric),
            *(_interval(figures[metric], "{:.3f}") for figures in models.values()),
            *(_interval(figures[metric], "{:+.3f}") for figures in differences.values()),
        ]
        for metric in metrics
    ]
    caption = f"Task: {title}, {counts(task)}. "
    caption += about if "trained" in models else "Only the starting model was evaluated."
    caption += " In brackets: 95% intervals by bootstrap"
    caption += f";{MARK} marks a difference whose interval excludes 0." if differences else "."
    return Table(caption, heads, rows, numbers=True)


def counts(task: Mapping[str, Any]) -> str:
    """What a task is measured on, such as "20 queries, 40 passages"."""
    parts = [plural(task[name], *nouns) for name, nouns in COUNTED.items() if name in task]
    if task.get("relevant_training_documents"):
        number = task["relevant_training_documents"]
        parts.append(f"{plural(number, 'relevant document')} that the model was trained on")
    return ", ".join(parts)


def _interval(figure: Mapping[str, Any], form: str) -> str:
    mean, low, high = (form.format(figure[name]) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}){MARK if figure.get('excludes_zero') else ''}"
