"""How good the model is, in tables: held-out figures over the run, by band, and what the validate job found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlm_dist.pages.elements import number, share, table
from mlm_dist.pages.record import Record

MAX_ROWS = 16  # of the table of held-out figures; the first and the last are among them
BANDS = {
    "frequent": "frequent: the first quarter of the text",
    "common": "common: the second",
    "uncommon": "uncommon: the third",
    "rare": "rare: the last, and what training never saw",
    "domain": "domain tokens, which were added",
}
QUESTIONS = {
    "title_to_body": "finding a document's text by its title",
    "half_to_half": "finding the second half of a document's text by the first",
}
ANSWERS = {"token_overlap": "common tokens alone", "start": "starting model", "trained": "trained model"}


def over_the_run(record: Record) -> str:
    """The held-out figures, update by update."""
    lines = list(record.validation.values())
    if not lines:
        return "<p class=note>Nothing was held out, or nothing was evaluated yet.</p>"
    step = max(1, math.ceil((len(lines) - 1) / (MAX_ROWS - 1)))
    shown = [*lines[:-1][::step], lines[-1]]
    has_second = "second_loss" in lines[-1]
    rows = [
        [f"{line['step']:,}", number(line["loss"]), number(line["perplexity"]), share(line["accuracy"])]
        + ([number(line.get("second_loss")), share(line.get("second_accuracy"))] if has_second else [])
        for line in shown
    ]
    heads = ["update", "loss", "perplexity", "accuracy", *(["second loss", "second accuracy"] if has_second else [])]
    some = "" if len(shown) == len(lines) else f", {len(shown)} of {len(lines)} evaluations"
    caption = f"On {lines[-1]['masked_tokens']:,} masked tokens of documents that were held out{some}"
    if has_second:
        source = record.start.get("second_source", "a second source")
        caption += f"; second: {lines[-1]['second_masked_tokens']:,} of {source}, which is not trained on"
    return table(caption, heads, rows, numbers=True)


def by_band(record: Record) -> str:
    """The held-out accuracy by band, at both ends of the run; nothing where there are no bands."""
    lines = list(record.validation.values())
    names = [name for name in BANDS if lines and lines[-1].get(f"accuracy_{name}") is not None]
    if not names:
        return ""
    ends = [lines[0], *lines[1:][-1:]]
    rows = [
        [
            BANDS[name],
            *(share(line.get(f"accuracy_{name}")) for line in ends),
            f"{lines[-1][f'masked_tokens_{name}']:,}",
        ]
        for name in names
    ]
    heads = ["", *(f"after update {line['step']:,}" for line in ends), "masked tokens"]
    return table("Held-out accuracy by how often a token stands in the training rows", heads, rows, numbers=True)


def by_sentences(validated: Mapping[str, Any] | None) -> str:
    """The pseudo-log-likelihood that the validate job found; nothing where it did not."""
    if validated is None or validated.get("pseudo_log_likelihood") is None:
        return ""
    row = [
        _who(validated),
        number(validated["pseudo_log_likelihood"]),
        number(validated["pseudo_perplexity"]),
        f"{validated['sentences']:,}",
        f"{validated['sentence_tokens']:,}",
    ]
    heads = ["", "pseudo-log-likelihood, nats per token", "pseudo-perplexity", "sentences", "tokens"]
    return table("Held-out sentences, each of their tokens masked in turn", heads, [row], numbers=True)


def by_probe(probe: Mapping[str, Any] | None) -> str:
    """What the models are worth for search; nothing where they were not probed."""
    if probe is None:
        return ""
    tables = []
    for asked, found in probe["questions"].items():
        rows = [
            [title, share(found[name]["recall_at_1"]), share(found[name]["recall_at_10"]), number(found[name]["mrr"])]
            for name, title in ANSWERS.items()
            if name in found
        ]
        pairs = found["pairs"]
        caption = (
            f"Search without labels: {QUESTIONS.get(asked, asked)}, among {pairs:,} held-out documents. Models compare "
            f"the means of their last states; trained is {_who(probe)}. Chance finds {share(1 / max(pairs, 1))} first"
        )
        heads = ["", "found first", "among the first ten", "mean reciprocal rank"]
        tables.append(table(caption, heads, rows, numbers=True))
    return "".join(tables)


def _who(found: Mapping[str, Any]) -> str:
    """Which model a job looked at."""
    return str(found["model"]) + (f", after update {found['step']:,}" if found.get("step") is not None else "")
