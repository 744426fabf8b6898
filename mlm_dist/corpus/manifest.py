"""What a prepared corpus says of itself: where it is from, what was kept of it, what was dropped, and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlm_dist.corpus import documents, selection
from mlm_dist.corpus.store import FORMAT, SPLITS, CorpusStore, PreparedCorpus, ShardKeys


def describe(store: CorpusStore, plan: Mapping[str, Any], shards: Sequence[ShardKeys]) -> dict[str, Any]:
    """The manifest of a corpus whose shards are made: their figures, added up.

    Args:
        store: Where the shards are.
        plan: Of the whole: `digest`, `source`, `source_digest`, and `config`, what the rows depend on besides.
        shards: All of them, in order.
    """
    read = [store.figures(shard.documents) for shard in shards]
    made = [store.figures(shard.rows) for shard in shards]
    chosen = selection.load(store.partial / "selection.npz")
    set_aside: dict[str, list[str]] = {reason: list(paths) for reason, paths in plan["source"]["set_aside"].items()}
    for id_, why in (pair for one in read for pair in one["set_aside"]):
        set_aside.setdefault(why, []).append(id_)
    copies: dict[str, list[str]] = {}
    ids = _ids(store, [shard.documents for shard in shards], chosen)
    for i in np.flatnonzero(chosen.is_dropped).tolist():
        set_aside.setdefault(selection.REASONS[int(chosen.side[i])], []).append(ids[i])
        copies.setdefault(ids[int(chosen.stayed[i])], []).append(ids[i])
    num_dropped = dropped(read, chosen)
    kept = chosen.count(selection.TRAIN) + chosen.count(selection.VALIDATION)
    source = plan["source"]

    def added(name: str) -> dict[str, int]:
        return dict(sorted(sum((Counter(one[name]) for one in read), Counter()).items()))

    return {
        "format": FORMAT,
        "digest": plan["digest"],
        "source": {
            "kind": source["kind"],
            "location": source["location"],
            "commit": source["commit"],
            "sha256": plan["source_digest"],
            "files": len(source["files"]),
            "set_aside": sum(map(len, source["set_aside"].values())),
        },
        "config": plan["config"],
        "config_digest": hashlib.sha256(json.dumps(plan["config"], sort_keys=True).encode()).hexdigest(),
        "documents": {
            "found": kept + sum(num_dropped.values()),
            "kept": kept,
            "dropped": num_dropped,
            "train": chosen.count(selection.TRAIN),
            "validation": chosen.count(selection.VALIDATION),
        },
        "tokens": {
            name: sum(one[split][name] for one in made for split in SPLITS) for name in ("kept", "dropped", "padded")
        },
        "domain_tokens": _domain_tokens(plan, store, made),
        "rows": {split: sum(one[split]["rows"] for one in made) for split in SPLITS},
        "encodings": added("encodings"),
        "notes": added("notes"),
        "set_aside": dict(sorted(set_aside.items())),
        "copies": dict(sorted(copies.items())),
        "shards": [shard.documents for shard in shards],
    }


def dropped(read: Sequence[dict[str, Any]], chosen: selection.Selection) -> dict[str, int]:
    """{reason: documents dropped}."""
    counts = Counter(why for one in read for _, why in one["set_aside"])
    counts.update({why: chosen.count(code) for code, why in selection.REASONS.items()})
    return {why: count for why, count in sorted(counts.items()) if count}


def _domain_tokens(
    plan: Mapping[str, Any], store: CorpusStore, made: Sequence[dict[str, Any]]
) -> dict[str, float] | None:
    """How many words were added, and the tokens of all documents before (each word in its pieces) and after."""
    if plan["config"]["tokenizer"]["add_domain_tokens"] is None:
        return None
    after = sum(one[split][name] for one in made for split in SPLITS for name in ("kept", "dropped"))
    before = after + sum(one[split]["saved"] for one in made for split in SPLITS)
    return {
        "added": len(PreparedCorpus(store.partial).domain_tokens),
        "tokens_before": before,
        "tokens_after": after,
        "percent_saved": round(100 * (before - after) / max(before, 1), 2),
    }


def _ids(store: CorpusStore, keys: Sequence[str], chosen: selection.Selection) -> dict[int, str]:
    """The ids of the documents that were dropped and of those that stayed in their place, by their numbers."""
    wanted = {*np.flatnonzero(chosen.is_dropped).tolist(), *chosen.stayed[chosen.is_dropped].tolist()}
    found: dict[int, str] = {}
    if wanted:
        start = 0
        for key in keys:
            names = documents.ids(store.documents(key))
            found |= {i: names[i - start] for i in range(start, start + len(names)) if i in wanted}
            start += len(names)
    return found
