"""Documents of the corpus on the page: the dropped ones by name, and samples of cleaned text."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlm_dist.corpus.store import PreparedCorpus

NUM_SAMPLES, SAMPLED_FROM, MOST_CHARS = 3, 300, 600
COUNTED_CHARS = 200_000  # of the validation documents, for `chars_per_token`


@dataclass(frozen=True)
class Dropped:
    """Documents that were dropped for one reason.

    Args:
        reason: The reason.
        count: How many.
        names: The first of them, with the document that a duplicate is one of.
    """

    reason: str
    count: int
    names: Sequence[str]


@dataclass(frozen=True)
class Sample:
    """A cleaned document.

    Args:
        id: Its id.
        chars: Characters of its text.
        text: The first of them.
    """

    id: str
    chars: int
    text: str


def dropped_names(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{reason: {count, names}} of the dropped documents of a manifest, which lists the first names of each reason."""
    originals = {id_: kept for kept, ids in manifest.get("duplicates", {}).items() for id_ in ids}
    counts = sum(
        (Counter(source["dropped"]) for source in manifest["sources"]), Counter(manifest["documents"]["dropped"])
    )
    return {
        reason: {
            "count": counts[reason],
            "names": [f"{id_} (of {originals[id_]})" if id_ in originals else id_ for id_ in ids],
        }
        for reason, ids in manifest["dropped"].items()
    }


def dropped(corpus: Mapping[str, Any] | None) -> list[Dropped]:
    """The dropped documents of a corpus that `StartingPoint` recorded."""
    reasons = {} if corpus is None else corpus.get("dropped", {})
    return [Dropped(reason, one["count"], one["names"]) for reason, one in reasons.items()]


def samples(corpus: PreparedCorpus) -> list[Sample]:
    """The beginnings of a few training documents, evenly spaced over the first `SAMPLED_FROM`."""
    first = list(itertools.islice(corpus.documents("train"), SAMPLED_FROM))
    stride = max(len(first) // NUM_SAMPLES, 1)
    return [Sample(id_, len(text), text[:MOST_CHARS]) for id_, _, text in first[::stride][:NUM_SAMPLES]]


def chars_per_token(corpus: PreparedCorpus) -> float | None:
    """Characters per token of the first validation documents, special tokens not counted; None if there are none."""
    chars = tokens = 0
    for _, _, text in corpus.documents("validation"):
        counted = text[: COUNTED_CHARS - chars]
        chars += len(counted)
        tokens += len(corpus.tokenizer.backend_tokenizer.encode(counted, add_special_tokens=False).ids)
        if chars >= COUNTED_CHARS:
            break
    return round(chars / tokens, 4) if tokens else None
