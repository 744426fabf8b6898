"""The data statement of a model card: sources, counts, cleaning, what was dropped, and the split, as Markdown."""

from __future__ import annotations

from typing import Any

from mlm_dist.corpus import summary
from mlm_dist.pages.formats import plural

DUPLICATES = {
    "none": "duplicates are kept",
    "exact": "documents with the same words are dropped but one",
    "near": "duplicates and near-duplicates are dropped but one",
}

# By the value of corpus.clean.
HOW = {
    None: "markup removed by the suffix of each file, records kept as they are",
    "none": "texts kept as they are",
}


def data_statement(manifest: dict[str, Any]) -> str:
    """Paragraphs and a list on the documents that a model was trained on.

    Args:
        manifest: The manifest of the corpus, without places on this machine.
    """
    documents, tokens, rows = manifest["documents"], manifest["tokens"], manifest["rows"]
    config = manifest["config"]
    lines = [f"- source: {_source(source)}" for source in manifest["sources"]]
    lines += [
        f"- documents: {plural(documents['found'], 'document')} found, {documents['kept']:,} kept",
        *(f"- dropped: {count:,} {reason}" for reason, count in documents["dropped"].items()),
        f"- cleaning: {_cleaning(manifest)}",
        f"- duplicates: {DUPLICATES.get(config['corpus']['deduplicate'], config['corpus']['deduplicate'])}",
        f"- split: {documents['train']:,} for training, {documents['validation']:,} for validation",
        f"- tokens: {tokens['kept']:,}; unknown to the tokenizer: {summary.percent_unknown(manifest)}",
        f"- rows: {rows['train']:,} for training and {rows['validation']:,} for validation, of up to "
        f"{plural(config['rows']['max_length'], 'token')} ({config['rows']['mode']})",
        f"- digest of the prepared corpus: {manifest['digest']}",
    ]
    return "\n".join(lines)


def _source(source: dict[str, Any]) -> str:
    count = source["documents"]["found"]
    return f"{summary.location(source)} ({source['kind']}, {plural(count, 'document')})"


def _cleaning(manifest: dict[str, Any]) -> str:
    """How markup was removed, and what is dropped for its size."""
    named = {(source.get("settings") or {}).get("clean") for source in manifest["sources"]}
    how = "; ".join(HOW.get(clean, f"markup removed as {clean}") for clean in sorted(named, key=str))
    return f"{how}; documents under {manifest['config']['corpus']['min_chars']:,} characters are dropped"
