"""The report of a run as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from mlm_dist.evaluation.fill_mask import NUM_FILLS, Guess
from mlm_dist.pages import quality
from mlm_dist.pages.blanks import Blank
from mlm_dist.pages.charts import Series, chart
from mlm_dist.pages.elements import finite, number, share, table
from mlm_dist.pages.record import Record
from mlm_dist.pages.style import CSS

NOTHING_FROM_ELSEWHERE = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Comparison:
    """What the starting and the trained model fill in.

    Args:
        blanks: The sentences.
        before: The starting model's guesses.
        after: The trained model's; None while there is none.
        step: The update the trained model is of.
    """

    blanks: Sequence[Blank]
    before: Sequence[Guess]
    after: Sequence[Guess] | None
    step: int


@dataclass(frozen=True)
class Content:
    """All that the page shows.

    Args:
        name: The run's.
        record: What the run wrote down.
        corpus: What its corpus was; None where that was not kept.
        comparison: Before and after; None where the starting model's guesses were not kept.
        config: The run's configuration as YAML, without credentials.
        warnings: What is missing in the page, and why.
        validated: What the validate job found; None where it did not run.
        probe: What its probe found; None where it did not run.
    """

    name: str
    record: Record
    corpus: dict[str, Any] | None
    comparison: Comparison | None
    config: str
    warnings: Sequence[str]
    validated: dict[str, Any] | None = None
    probe: dict[str, Any] | None = None


def page(content: Content) -> str:
    """The whole page; all text that is not ours is escaped."""
    record = content.record
    sections = [
        _tiles(content),
        _section("Before and after", _comparison(content.comparison)),
        _section("Curves", _curves(record)),
        _section(
            "Held-out figures",
            quality.over_the_run(record)
            + quality.by_band(record)
            + quality.by_sentences(content.validated)
            + quality.by_probe(content.probe),
        ),
        _section("Documents", _corpus(content.corpus)),
        _section("The run", _facts(record) + _configuration(content.config)),
    ]
    warnings = "".join(f'<p class="warn">{escape(warning)}</p>' for warning in content.warnings)
    name = escape(content.name)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{NOTHING_FROM_ELSEWHERE}">\n'
        f"<title>{name} · mlm_dist</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{name}</h1><p class=soft>{escape(_status(record))}</p>{warnings}</header>\n"
        f"<main>\n{''.join(sections)}</main>\n"
        f"<footer>Written by mlm_dist {escape(str(record.start.get('version', '')))}. Losses are in nats per masked "
        "token over the whole batch. This file holds sentences of the documents.</footer>\n</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n"


def _status(record: Record) -> str:
    updates = record.updates
    if updates is None:
        return "Nothing of this run was recorded yet."
    said = f"{record.start.get('model', 'A model')}: "
    if record.is_finished and record.end is not None:
        took = f" in {_duration(record.end['seconds'])}" if "seconds" in record.end and not record.resumed else ""
        if record.end.get("stopped_early"):
            said += f"finished early, after {record.end['step']:,} of {updates:,} updates{took}"
            said += ": the held-out loss got no better"
        else:
            said += f"finished after {updates:,} updates{took}"
        if record.end.get("best_step") is not None:
            said += f"; the model is that of update {record.end['best_step']:,}, which had the lowest held-out loss"
    elif record.end is not None:
        said += f"stopped after update {record.end.get('step', record.step):,} of {updates:,}"
    else:
        said += f"at update {record.step:,} of {updates:,}, still going or interrupted"
    if record.resumed:
        said += f"; taken up again after update {', '.join(f'{step:,}' for step in record.resumed)}"
    return said + "."


def _tiles(content: Content) -> str:
    record = content.record
    found: list[tuple[str, str, str]] = []
    lines = list(record.validation.values())
    unigram = record.start.get("unigram_loss")
    if lines:
        first, last = lines[0], record.exported
        note = "" if unigram is None else f"{number(unigram)} by word frequencies alone"
        found.append(("Held-out loss", _change(number(first["loss"]), number(last["loss"]), lines), note))
        accuracy = _change(share(first["accuracy"]), share(last["accuracy"]), lines)
        found.append(("Held-out accuracy", accuracy, f"of {last['masked_tokens']:,} masked tokens"))
    comparison = content.comparison
    if comparison is not None and comparison.blanks:
        before, total = _in_top(comparison.before), len(comparison.blanks)
        value = f"{before} → {_in_top(comparison.after)}" if comparison.after is not None else str(before)
        found.append(("Right word among the first five", f"{value} of {total}", "held-out sentences below"))
    if record.train:
        speeds = sorted(line["tokens_per_second"] for line in record.train.values())
        found.append(("Tokens per second", f"{speeds[len(speeds) // 2]:,.0f}", "median over the run"))
    tiles = (
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for title, value, note in found
    )
    return f'<dl class="tiles">{"".join(tiles)}</dl>\n' if found else ""


def _change(before: str, after: str, lines: Sequence[Any]) -> str:
    return f"{before} → {after}" if len(lines) > 1 else before


def _in_top(guesses: Iterable[Guess]) -> int:
    return sum(guess.place is not None for guess in guesses)


def _comparison(comparison: Comparison | None) -> str:
    if comparison is None:
        return "<p class=note>What the starting model fills in was not recorded, so there is nothing to compare.</p>"
    if not comparison.blanks:
        return (
            "<p class=note>The held-out documents hold no sentence with a word to guess: nothing is held out, or it is "
            "no prose.</p>"
        )
    count = len(comparison.blanks)
    said = f"Among the first five was the right word of {_in_top(comparison.before)} of {count} before training"
    if comparison.after is None:
        said += "; no trained model is there yet"
    else:
        said += f", and of {_in_top(comparison.after)} after update {comparison.step:,}"
    about = (
        f"{said}. The sentences are from documents that were held out of training. Words come first that these "
        "documents use more than the tokenizer's vocabulary lets expect, and some documents more than others; neither "
        "model took part in the choice."
    )
    after: Sequence[Guess | None] = comparison.after if comparison.after is not None else [None] * count
    cards = (
        _blank(blank, first, second, comparison.step)
        for blank, first, second in zip(comparison.blanks, comparison.before, after, strict=True)
    )
    return f'<p class=soft>{escape(about)}</p><div class="blanks">{"".join(cards)}</div>'


def _blank(blank: Blank, before: Guess, after: Guess | None, step: int) -> str:
    sentence = (
        f"{escape(blank.sentence[: blank.start])}<mark>{escape(blank.word)}</mark>{escape(blank.sentence[blank.end :])}"
    )
    columns = [("Before", before), (f"After update {step:,}", after)]
    heads = "".join(f"<th scope=col>{escape(title)}</th>" for title, guess in columns if guess is not None)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_fill(guess, i)}</td>" for _, guess in columns if guess is not None) + "</tr>"
        for i in range(NUM_FILLS)
    )
    chances = " → ".join(f"{100 * guess.probability:.2g}%" for _, guess in columns if guess is not None)
    return (
        f'<article class="blank"><p>{sentence}</p><p class=soft>{escape(blank.document)}</p>'
        f'<table class="fills"><caption>The first five guesses for “{escape(blank.word)}”</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="count soft">Chance of “{escape(blank.word)}”: {escape(chances)}</p></article>'
    )


def _fill(guess: Guess, i: int) -> str:
    if i >= len(guess.fills):
        return ""
    text, probability = guess.fills[i]
    is_right = guess.place == i + 1
    width = f"{min(max(probability, 0.0), 1.0):.1%}"
    name = f"{'✓ ' if is_right else ''}{text or '(space)'}"
    return (
        f'<div class="fill{" right" if is_right else ""}" style="--share:{width}"><span>{escape(name)}</span>'
        f"<span>{escape(share(probability))}</span></div>"
    )


def _curves(record: Record) -> str:
    train, held_out = record.train, record.validation
    last = max([record.step, 1])
    losses = [
        Series("training", [(step, finite(line["loss"])) for step, line in train.items()], "a"),
        Series("held out", [(step, finite(line["loss"])) for step, line in held_out.items()], "b"),
    ]
    if any("second_loss" in line for line in held_out.values()):
        points = [(step, finite(line.get("second_loss"))) for step, line in held_out.items()]
        losses.append(Series(f"second source: {record.start.get('second_source', '')}", points, "d"))
    unigram = record.start.get("unigram_loss")
    if unigram is not None:
        losses.append(Series("word frequencies alone", [(0, unigram), (last, unigram)], "c"))
    charts = [chart("Loss", losses, number, resumed=record.resumed)]
    if held_out:
        accuracy = [(step, finite(line["accuracy"])) for step, line in held_out.items()]
        charts.append(chart("Held-out accuracy", [Series("accuracy", accuracy, "b")], share, resumed=record.resumed))
    for title, key, show in (
        ("Learning rate", "learning_rate", _small),
        ("Gradient norm", "grad_norm", number),
        ("Tokens per second", "tokens_per_second", _thousands),
        ("Skipped updates, all in all", "skipped_steps", _thousands),
    ):
        points = [(step, finite(line.get(key))) for step, line in train.items()]
        if key == "skipped_steps" and train and not any(value for _, value in points):
            charts.append(_no_skips())
            continue
        may_be_log = key == "grad_norm"
        charts.append(
            chart(title, [Series(title.lower(), points)], show, resumed=record.resumed, may_be_log=may_be_log)
        )
    marks = " A dotted upright line is where the run was taken up again." if record.resumed else ""
    spikes = [step for step, line in train.items() if line.get("spike")]
    stood_out = f" The loss stood out after update {', '.join(f'{step:,}' for step in spikes[:12])}." if spikes else ""
    said = f"<p class=soft>{escape((marks + stood_out).strip())}</p>" if marks or stood_out else ""
    return f'{said}<div class="grid">{"".join(charts)}</div>'


def _no_skips() -> str:
    said = "None: the numbers of every update were finite."
    return f'<figure class="chart"><figcaption><h3>Skipped updates</h3></figcaption><p class=note>{said}</p></figure>'


def _corpus(corpus: dict[str, Any] | None) -> str:
    if corpus is None:
        return "<p class=note>What the documents were was not recorded.</p>"
    source, documents, tokens, rows = (corpus[key] for key in ("source", "documents", "tokens", "rows"))
    where = source["location"] + (f" at {source['commit']}" if source.get("commit") else "")
    all_tokens = max(tokens["kept"] + tokens["dropped"], 1)
    places = max((rows["train"] + rows["validation"]) * corpus["config"]["rows"]["max_length"], 1)
    mode = corpus["config"]["rows"]["mode"]
    found = [
        ["documents found", f"{documents['found']:,}", ""],
        *(
            [f"dropped: {why}", f"{count:,}", share(count / max(documents["found"], 1))]
            for why, count in documents["dropped"].items()
        ),
        ["kept to train on", f"{documents['train']:,}", share(documents["train"] / max(documents["found"], 1))],
        [
            "kept, held out",
            f"{documents['validation']:,}",
            share(documents["validation"] / max(documents["found"], 1)),
        ],
        ["tokens kept", f"{tokens['kept']:,}", share(tokens["kept"] / all_tokens)],
        [f"tokens dropped by rows.mode {mode}", f"{tokens['dropped']:,}", share(tokens["dropped"] / all_tokens)],
        ["places padded", f"{tokens['padded']:,}", share(tokens["padded"] / places)],
        ["rows to train on", f"{rows['train']:,}", ""],
        ["rows held out", f"{rows['validation']:,}", ""],
    ]
    notes = [[f"{name}", f"{count:,}", ""] for name, count in corpus.get("notes", {}).items()]
    return table(f"{source['kind']} {where}", ["", "number", "share"], found + notes, numbers=True)


def _facts(record: Record) -> str:
    facts = {name: value for name, value in record.start.items() if name not in ("kind", "resumed_from")}
    if record.end is not None and "seconds" in record.end:
        facts["time since it was started last"] = _duration(record.end["seconds"])
    if not facts:
        return "<p class=note>Nothing was recorded yet.</p>"
    rows = [[name.replace("_", " "), _plain(value)] for name, value in facts.items()]
    return table("What the run said of itself when it began", ["", ""], rows, numbers=False)


def _configuration(config: str) -> str:
    if not config:
        return ""
    return f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>"


def _small(value: float) -> str:
    return "0" if value == 0 else f"{value:.3g}"


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
