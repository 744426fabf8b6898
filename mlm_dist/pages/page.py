"""The report of a run as one HTML file that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mlm_dist.pages.corpus_table import corpus_table
from mlm_dist.pages.curves import curves
from mlm_dist.pages.examples import Comparison, example_cards
from mlm_dist.pages.formats import duration
from mlm_dist.pages.record import Record
from mlm_dist.pages.run_facts import run_facts
from mlm_dist.pages.status import status
from mlm_dist.pages.style import CSS
from mlm_dist.pages.summary_tiles import summary_tiles
from mlm_dist.pages.tables import section, table
from mlm_dist.pages.validation_tables import by_band, of_search, of_sentences, over_the_run

CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Content:
    """Everything the page shows. What is None or empty is not shown.

    Args:
        name: Name of the run.
        record: Its metrics.jsonl.
        corpus: The manifest of its corpus, or the part of it that is shown.
        comparison: Predictions of the starting and the trained model.
        config_yaml: The config as YAML, without credentials.
        warnings: What is missing on the page, and why.
        validation: Result of the validate job.
        probe: Result of its search probe.
    """

    name: str
    record: Record
    corpus: dict[str, Any] | None = None
    comparison: Comparison | None = None
    config_yaml: str = ""
    warnings: Sequence[str] = ()
    validation: dict[str, Any] | None = None
    probe: dict[str, Any] | None = None


def page(content: Content) -> str:
    """The page as HTML; all text is escaped."""
    record = content.record
    validation = over_the_run(record) + by_band(record) + of_sentences(content.validation) + of_search(content.probe)
    sections = [
        summary_tiles(record, content.comparison),
        section("Before and after training", example_cards(content.comparison)),
        section("Curves", curves(record)),
        section("Validation", validation),
        section("Corpus", corpus_table(content.corpus)),
        section("Run", _facts(record) + _config(content.config_yaml)),
    ]
    warnings = "".join(f'<p class="warn">{escape(warning)}</p>' for warning in content.warnings)
    name = escape(content.name)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">\n'
        f"<title>{name} · mlm_dist</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1><p class=soft>{escape(status(record))}</p>{warnings}</header>\n"
        f"<main>\n{''.join(sections)}</main>\n"
        f"<footer>{escape(_footer(content))}</footer>\n</body>\n</html>\n"
    )


def _facts(record: Record) -> str:
    facts = run_facts(record)
    if record.end is not None and "seconds" in record.end:
        facts["time since the last start"] = duration(record.end["seconds"])
    return table("Settings and environment", ["", ""], list(facts.items()), numbers=False) if facts else ""


def _config(config_yaml: str) -> str:
    return f"<details><summary>Config</summary><pre>{escape(config_yaml)}</pre></details>" if config_yaml else ""


def _footer(content: Content) -> str:
    version = content.record.start.get("version")
    parts = [f"mlm_dist {version}." if version else "mlm_dist.", "Losses are in nats per masked token."]
    if content.comparison is not None and content.comparison.examples:
        parts.append("This file contains sentences of the documents.")
    return " ".join(parts)
