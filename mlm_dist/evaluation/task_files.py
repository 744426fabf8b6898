"""The files of tasks: queries with the documents that answer them, and texts or words with labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from mlm_dist.corpus.plain_text import without_surrogates
from mlm_dist.errors import ConfigError, reason
from mlm_dist.evaluation.label_splits import NUM_FOLDS

QUERIES, LABELS = "validation.queries", "validation.labels"
MAX_TEXTS = 10_000
MAX_WORDS = 20_000


class Query(NamedTuple):
    """A query of the user.

    Args:
        text: The query.
        relevant: Ids of the documents that answer it, each once.
        line: Its line in the file, from 1.
    """

    text: str
    relevant: tuple[str, ...]
    line: int


class LabelledTexts(NamedTuple):
    """Texts with a label each.

    Args:
        texts: The texts.
        labels: Their labels.
    """

    texts: list[str]
    labels: list[str]


class LabelledWords(NamedTuple):
    """Lines of words with a label each.

    Args:
        lines: The words of each line.
        labels: Their labels.
    """

    lines: list[list[str]]
    labels: list[list[str]]


def read_queries(path: Path) -> list[Query]:
    """The queries of a file of JSON lines, such as {"query": "reset a password", "relevant": ["login.md"]}.

    Raises:
        ConfigError: The file cannot be read, or a line is no query; it names the line.
    """
    queries: dict[str, Query] = {}
    for number, record in _records(path, QUERIES):
        query, relevant = record.get("query"), record.get("relevant")
        if not _is_text(query):
            raise _wrong(QUERIES, path, number, 'has no text in "query"')
        if not isinstance(relevant, list) or not relevant or not all(map(_is_text, relevant)):
            raise _wrong(QUERIES, path, number, 'needs a list of ids of documents in "relevant"')
        text = without_surrogates(query)
        if text in queries:
            problem = f"has the query of line {queries[text].line}; give all its documents in one line"
            raise _wrong(QUERIES, path, number, problem)
        queries[text] = Query(text, tuple(dict.fromkeys(relevant)), number)
    return [*queries.values()]


def read_labels(path: Path) -> LabelledTexts | LabelledWords:
    """The texts or words of a file of JSON lines, with their labels; the first line says which they are.

    Lines are {"text": "my screen is black", "label": "hardware"} or {"tokens": ["Ada", "writes"], "labels": ["NAME",
    "O"]}.

    Raises:
        ConfigError: The file cannot be read, a line is no labelled text, there are too many, or too few of a label.
    """
    records = [*_records(path, LABELS)]
    return _words(path, records) if "tokens" in records[0][1] else _texts(path, records)


def _texts(path: Path, records: list[tuple[int, dict[str, Any]]]) -> LabelledTexts:
    for number, record in records:
        if not _is_text(record.get("text")) or not _is_text(record.get("label")):
            raise _wrong(LABELS, path, number, 'needs texts in "text" and "label", or lists in "tokens" and "labels"')
    found = LabelledTexts(
        [without_surrogates(one["text"]) for _, one in records], [one["label"].strip() for _, one in records]
    )
    counts = Counter(found.labels)
    label, least = min(counts.items(), key=lambda item: item[1])
    if least < NUM_FOLDS:
        raise ConfigError(
            f"{LABELS}: {path} has too few texts of the label {label!r}, {least}; give at least {NUM_FOLDS} of each, "
            "or remove the label"
        )
    _check_number(path, len(counts), len(records), MAX_TEXTS, "texts")
    return found


def _words(path: Path, records: list[tuple[int, dict[str, Any]]]) -> LabelledWords:
    for number, record in records:
        words, labels = record.get("tokens"), record.get("labels")
        for name, some in (("tokens", words), ("labels", labels)):
            if not isinstance(some, list) or not some or not all(map(_is_text, some)):
                raise _wrong(LABELS, path, number, f'needs a list of texts in "{name}"')
        if len(record["tokens"]) != len(record["labels"]):
            problem = f"has {len(record['tokens'])} tokens and {len(record['labels'])} labels; give one for each"
            raise _wrong(LABELS, path, number, problem)
    found = LabelledWords(
        [[*map(without_surrogates, one["tokens"])] for _, one in records], [one["labels"] for _, one in records]
    )
    if len(records) < NUM_FOLDS:
        raise ConfigError(f"{LABELS}: {path} has {len(records)} lines of words; give at least {NUM_FOLDS}")
    num_labels = len({label for some in found.labels for label in some})
    _check_number(path, num_labels, sum(map(len, found.labels)), MAX_WORDS, "words")
    return found


def _check_number(path: Path, num_labels: int, count: int, most: int, noun: str) -> None:
    if num_labels < 2:
        raise ConfigError(f"{LABELS}: all {noun} of {path} have one label; give examples of two or more")
    if count > most:
        raise ConfigError(f"{LABELS}: {path} has {count:,} {noun}; give a sample of at most {most:,}")


def _records(path: Path, key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of each line that is not blank, at least one."""
    number, has_some = 0, False
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise _wrong(key, path, number, "is no JSON object")
                    has_some = True
                    yield number, record
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path} is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{key}: cannot read {path} ({reason(error)}); name a file of JSON lines") from None
    except (ValueError, RecursionError):
        raise _wrong(key, path, number, "is not JSON") from None
    if not has_some:
        raise ConfigError(f"{key}: {path} has no lines; give some, or remove the task from validation.tasks")


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _wrong(key: str, path: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(f"{key}: line {number} of {path} {problem}")
