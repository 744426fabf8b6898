"""The report of a run as one HTML file that needs no other file and no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlm_dist.pages.corpus_table import corpus_table
from mlm_dist.pages.curves import curves, notes_on_curves
from mlm_dist.pages.documents import Sample, dropped
from mlm_dist.pages.examples import Comparison, example_cards, summary_of_examples
from mlm_dist.pages.formats import duration
from mlm_dist.pages.jinja import render
from mlm_dist.pages.model_use import embedding_program, fill_mask_program
from mlm_dist.pages.next_steps import NextStep, next_steps
from mlm_dist.pages.phase_table import phase_table
from mlm_dist.pages.record import Record
from mlm_dist.pages.resolved import planned_rates
from mlm_dist.pages.run_facts import run_facts
from mlm_dist.pages.status import status
from mlm_dist.pages.summary_tiles import summary_tiles
from mlm_dist.pages.tables import Table
from mlm_dist.pages.task_tables import task_tables
from mlm_dist.pages.validation_tables import by_band, by_source, of_pairs, of_sentences, over_the_run
from mlm_dist.pages.verdict import Verdict, verdict

# Headings of the sections, by their anchors.
HEADINGS = {
    "programs": "Use this model",
    "examples": "Before and after training",
    "curves": "Curves",
    "phases": "Phases",
    "validation": "Validation",
    "corpus": "Corpus",
    "facts": "Run",
}
# The order of the sections with a trained model, and without one: predictions of an untrained model say little.
SECTIONS = ["programs", "examples", "curves", "phases", "validation", "corpus", "facts"]
SECTIONS_BEFORE = ["programs", "curves", "phases", "validation", "examples", "corpus", "facts"]
SECONDS_TO_RELOAD = 30  # of the page of a running run


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
        tasks: Results of its tasks.
        samples: Cleaned documents.
        resolved: resolved.yaml: every value as it was decided.
        config: The config as nested dicts, for the lines to type.
        run: The run directory, for the lines to type.
        model: The exported model; None if there is none.
        is_running: Whether the run writes the page while it trains.
    """

    name: str
    record: Record
    corpus: dict[str, Any] | None = None
    comparison: Comparison | None = None
    config_yaml: str = ""
    warnings: Sequence[str] = ()
    validation: dict[str, Any] | None = None
    tasks: dict[str, Any] | None = None
    samples: Sequence[Sample] = ()
    resolved: Mapping[str, Any] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    run: Path | None = None
    model: str | None = None
    is_running: bool = False


def page(content: Content) -> str:
    """The page as HTML; all text is escaped."""
    record, comparison = content.record, content.comparison
    tables = (
        of_pairs(record),
        over_the_run(record),
        by_source(record),
        by_band(record),
        of_sentences(content.validation),
    )
    judged = verdict(record) if record.start or record.train or record.validation else None
    shown = {
        "programs": [] if content.model is None else _programs(content.model, comparison),
        "examples": example_cards(comparison),
        "curves": curves(record, planned_rates(content.resolved)),
        "validation": [*filter(None, tables), *task_tables(content.tasks)],
        "corpus": corpus_table(content.corpus),
        "facts": _facts(record),
        "phases": phase_table(record, content.resolved),
    }
    has_trained = comparison is not None and comparison.after is not None
    order = sorted(shown, key=(SECTIONS if has_trained else SECTIONS_BEFORE).index)
    return render(
        "report.html.jinja",
        **shown,
        has_trained=has_trained,
        sections=[(name, HEADINGS[name]) for name in order if shown[name]],
        title=content.name,
        status=status(record, is_running=content.is_running),
        reload=SECONDS_TO_RELOAD if content.is_running else None,
        warnings=content.warnings,
        verdict=judged,
        next_steps=_next_steps(content, judged),
        tiles=summary_tiles(record, comparison),
        about_examples=summary_of_examples(comparison),
        about_curves=notes_on_curves(record),
        dropped=dropped(content.corpus),
        samples=content.samples,
        config_yaml=content.config_yaml,
        footer=_footer(content),
    )


def _next_steps(content: Content, judged: Verdict | None) -> list[NextStep]:
    if content.run is None or content.is_running or judged is None or not (content.config and content.record.start):
        return []
    return next_steps(content.record, judged, content.run, content.config)


def _programs(model: str, comparison: Comparison | None) -> list[str]:
    example = comparison.examples[0] if comparison is not None and comparison.examples else None
    return [fill_mask_program(model, example), embedding_program(model)]


def _facts(record: Record) -> Table | None:
    facts = run_facts(record)
    if record.end is not None and "seconds" in record.end:
        facts["time since the last start"] = duration(record.end["seconds"])
    return Table("Settings and environment", ["", ""], list(facts.items()), numbers=False) if facts else None


def _footer(content: Content) -> str:
    version = content.record.start.get("version")
    parts = [f"mlm_dist {version}." if version else "mlm_dist.", "Losses are in nats per predicted token."]
    if content.samples or (content.comparison is not None and content.comparison.examples):
        parts.append("This file contains sentences of the documents.")
    return " ".join(parts)
