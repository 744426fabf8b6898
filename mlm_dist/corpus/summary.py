"""The summary of a prepared corpus that a job prints."""

from __future__ import annotations

import logging
from typing import Any

from rich.table import Table

from mlm_dist.corpus.sources.matching_files import in_words

WARNED = 0.01  # share of unknown tokens that a job warns about
KINDS = 5  # of files that match no pattern, which are shown

logger = logging.getLogger(__name__)


def unknown_share(manifest: dict[str, Any]) -> float:
    """The share of a corpus's tokens that are the unknown token, because the vocabulary lacks their text."""
    tokens = manifest["tokens"]
    return float(tokens.get("unknown", 0)) / max(int(tokens["kept"]) + int(tokens.get("dropped", 0)), 1)


def percent_unknown(manifest: dict[str, Any]) -> str:
    """`unknown_share` for people; 0% only if there are none."""
    share = unknown_share(manifest)
    return f"{share:.1%}" if share >= 0.0005 or not share else "under 0.1%"


def warn_of_unknown(manifest: dict[str, Any]) -> None:
    """Log a warning if more than `WARNED` of the tokens are unknown."""
    share = unknown_share(manifest)
    if share > WARNED:
        logger.warning(
            "%s of the tokens are unknown to the tokenizer: it was made for other languages, and the model cannot "
            "learn these words. Name another tokenizer, or set tokenizer.train_vocab_size to train one",
            f"{share:.1%}",
        )


def locations(manifest: dict[str, Any]) -> str:
    """Where the documents of a corpus come from, in one line."""
    return ", ".join(map(location, manifest["sources"]))


def location(source: dict[str, Any]) -> str:
    """Where the documents of a source of a manifest come from."""
    name = f"{source['name']}: " if source["name"] else ""
    return name + str(source["location"]) + (f" at commit {source['commit']}" if source["commit"] else "")


def table(manifest: dict[str, Any], folder: str) -> Table:
    """Documents found, kept and dropped; tokens kept, dropped and padded; rows."""
    documents, tokens, rows = manifest["documents"], manifest["tokens"], manifest["rows"]
    shown = Table(title=f"Corpus {folder}", title_justify="left", show_header=False)
    shown.add_column(style="bold")
    shown.add_column(justify="right")
    shown.add_column(overflow="fold")  # a long address is shown whole
    for source in manifest["sources"]:
        shown.add_row("source", source["kind"], location(source))
        shown.add_row("files", f"{source['files']:,}", f"{sum(source['dropped'].values()):,} dropped")
        if source["unmatched"]:
            count, kinds = sum(source["unmatched"].values()), in_words(source["unmatched"], KINDS)
            shown.add_row("", f"{count:,}", f"not matched by patterns: {kinds}")
        if len(manifest["sources"]) > 1:
            kept, found = source["documents"]["kept"], source["documents"]["found"]
            shown.add_row("", f"{found:,}", f"documents found, {kept:,} kept")
    shown.add_row("documents", f"{documents['found']:,}", "found")
    for reason, count in documents["dropped"].items():
        shown.add_row("", f"{count:,}", f"dropped: {reason}")
    shown.add_row(
        "", f"{documents['kept']:,}", f"kept: {documents['train']:,} train, {documents['validation']:,} validation"
    )
    if documents["validation"] and not manifest["config"]["corpus"]["signed"]:
        shown.add_row("split", "", "near-duplicates were not searched")
    for note, count in manifest["notes"].items():
        shown.add_row("", f"{count:,}", note)
    total = max(tokens["kept"] + tokens["dropped"], 1)
    shown.add_row("tokens", f"{tokens['kept']:,}", f"kept ({tokens['kept'] / total:.1%})")
    shown.add_row("", f"{tokens['unknown']:,}", f"unknown to the tokenizer ({percent_unknown(manifest)})")
    domain = manifest["domain_tokens"]
    if domain is not None:
        before = f"{domain['tokens_before']:,} tokens without them, {domain['percent_saved']:.1f}% saved"
        shown.add_row("", f"{domain['added']:,}", f"domain tokens: {before}")
    mode = manifest["config"]["rows"]["mode"]
    shown.add_row("", f"{tokens['dropped']:,}", f"dropped by rows.mode {mode} ({tokens['dropped'] / total:.1%})")
    positions = (rows["train"] + rows["validation"]) * manifest["config"]["rows"]["max_length"]
    shown.add_row("", f"{tokens['padded']:,}", f"padding ({tokens['padded'] / max(positions, 1):.1%} of positions)")
    shown.add_row("rows", f"{rows['train']:,}", f"train, {rows['validation']:,} validation")
    return shown
