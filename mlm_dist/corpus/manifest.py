"""The manifest of a prepared corpus: where it comes from, what it holds, what was dropped and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlm_dist.corpus import selection
from mlm_dist.corpus.dropped_documents import DroppedList
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.shard_store import ShardKeys, ShardStore
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.corpus.store import FORMAT, SPLITS, PreparedCorpus


def describe(
    store: ShardStore,
    inputs: CorpusInputs,
    shards: Sequence[Shard],
    keys: Sequence[ShardKeys],
    chosen: selection.Selection,
    dropped: DroppedList,
) -> dict[str, Any]:
    """The manifest of a corpus whose shards are finished: the sums of their figures.

    Args:
        store: The corpus in preparation.
        inputs: What it is made from.
        shards: All shards, in order.
        keys: Their keys.
        chosen: The selection of their documents.
        dropped: What `dropped_documents.write` returned.
    """
    of_documents = [store.figures(key.documents) for key in keys]
    of_rows = [store.figures(key.rows) for key in keys]
    num_dropped = count_dropped(of_documents, chosen)
    kept = chosen.count(selection.TRAIN) + chosen.count(selection.VALIDATION)
    dependencies = inputs.dependencies

    def total(name: str) -> dict[str, int]:
        return dict(sorted(sum((Counter(figures[name]) for figures in of_documents), Counter()).items()))

    return {
        "format": FORMAT,
        "digest": inputs.digest,
        "sources": [
            _source(source, _Part.of(source, shards, of_documents, of_rows, chosen)) for source in inputs.sources
        ],
        "config": dependencies,
        "config_digest": hashlib.sha256(json.dumps(dependencies, sort_keys=True).encode()).hexdigest(),
        "documents": {
            "found": kept + sum(num_dropped.values()),
            "kept": kept,
            "dropped": num_dropped,
            "train": chosen.count(selection.TRAIN),
            "validation": chosen.count(selection.VALIDATION),
        },
        "tokens": {
            name: sum(figures[split][name] for figures in of_rows for split in SPLITS)
            for name in ("kept", "dropped", "padded", "unknown")
        },
        "domain_tokens": _domain_tokens(dependencies, store, of_rows),
        "rows": {split: sum(figures[split]["rows"] for figures in of_rows) for split in SPLITS},
        "row_counts": _row_counts(of_rows),
        "encodings": total("encodings"),
        "decoded": _decoded(of_documents),
        "notes": total("notes"),
        "dropped": dict(sorted(dropped.ids.items())),
        "duplicates": dict(sorted(dropped.duplicates.items())),
        "shards": [key.documents for key in keys],
    }


@dataclass(frozen=True)
class _Part:
    """The figures of one source: of its shards' documents and rows, and the sides of its documents."""

    of_documents: list[dict[str, Any]]
    of_rows: list[dict[str, Any]]
    side: np.ndarray

    @classmethod
    def of(
        cls,
        source: SourceFiles,
        shards: Sequence[Shard],
        of_documents: Sequence[dict[str, Any]],
        of_rows: Sequence[dict[str, Any]],
        chosen: selection.Selection,
    ) -> _Part:
        """The figures of a source."""
        mine = [i for i, shard in enumerate(shards) if shard.source is source]
        sides = chosen.split([figures["kept"] for figures in of_documents])
        return cls(
            [of_documents[i] for i in mine],
            [of_rows[i] for i in mine],
            np.concatenate([np.empty(0, np.int8), *(sides[i] for i in mine)]),
        )


def _source(source: SourceFiles, part: _Part) -> dict[str, Any]:
    """What the manifest says of one source."""
    train, validation = (int((part.side == code).sum()) for code in (selection.TRAIN, selection.VALIDATION))
    return {
        "name": source.name,
        "kind": source.kind,
        "location": source.location,
        "commit": source.commit,
        "sha256": source.digest(),
        "settings": source.settings(),
        "files": len(source.files),
        "dropped": {reason: len(paths) for reason, paths in source.dropped.items()},
        "unmatched": source.unmatched,
        "documents": {
            "found": len(part.side) + sum(sum(figures["num_dropped"].values()) for figures in part.of_documents),
            "kept": train + validation,
            "train": train,
            "validation": validation,
        },
        "rows": {split: sum(figures[split]["rows"] for figures in part.of_rows) for split in SPLITS},
        "row_counts": _row_counts(part.of_rows),
        "train_digest": _train_digest(part.of_rows),
    }


def _row_counts(of_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{split: counts of its rows}."""
    counts = dict.fromkeys(SPLITS, RowCounts())
    for figures in of_rows:
        for split in SPLITS:
            counts[split] += RowCounts.from_json(figures[split]["row_counts"])
    return {split: one.to_json() for split, one in counts.items()}


def _train_digest(of_rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A hash of the contents of all files with training rows; None if there are none."""
    contents = [
        file["sha256"]
        for figures in of_rows
        if figures["train"]["rows"]
        for name, file in figures["files"].items()
        if name.startswith("train/") and name.endswith(".arrow")
    ]
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16] if contents else None


def count_dropped(of_documents: Sequence[Mapping[str, Any]], chosen: selection.Selection) -> dict[str, int]:
    """{reason: documents dropped}, from the figures of all shards' documents and the selection."""
    counts = sum((Counter(figures["num_dropped"]) for figures in of_documents), Counter[str]())
    counts.update({reason: chosen.count(code) for code, reason in selection.REASONS.items()})
    return {reason: count for reason, count in sorted(counts.items()) if count}


def _decoded(of_documents: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """{character encoding: files} of the files that are not in Unicode, or have replaced bytes."""
    files: dict[str, set[str]] = {}
    for figures in of_documents:
        for encoding, names in figures["decoded"].items():
            files.setdefault(encoding, set()).update(names)
    return {encoding: sorted(files[encoding]) for encoding in sorted(files)}


def _domain_tokens(
    dependencies: Mapping[str, Any], store: ShardStore, of_rows: Sequence[Mapping[str, Any]]
) -> dict[str, float] | None:
    """The number of added words, and the tokens of all documents without them and with them."""
    if dependencies["tokenizer"]["add_domain_tokens"] is None:
        return None
    after = sum(figures[split][name] for figures in of_rows for split in SPLITS for name in ("kept", "dropped"))
    before = after + sum(figures[split]["saved"] for figures in of_rows for split in SPLITS)
    return {
        "added": len(PreparedCorpus(store.partial).domain_tokens),
        "tokens_before": before,
        "tokens_after": after,
        "percent_saved": round(100 * (before - after) / max(before, 1), 2),
    }
