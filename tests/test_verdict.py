"""The verdict of the report: whether the model learnt, what its loss does, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlm_dist.config import Config, parse, to_dict
from mlm_dist.pages.next_steps import next_steps
from mlm_dist.pages.record import Record
from mlm_dist.pages.verdict import verdict

START = {"from_scratch": True, "unigram_loss": 6.0, "steps": 90, "peak_learning_rate": 1e-3}
RUN = Path("/runs/my run")


def record(
    losses: Mapping[int, float | None],
    train: Mapping[int, float | None] | None = None,
    *,
    masked_tokens: int = 40_000,
    skipped: int = 0,
    **start: Any,
) -> Record:
    """A finished run with these validation losses and training losses, by step."""
    validation = {
        step: {"step": step, "loss": loss, "accuracy": 0.25, "masked_tokens": masked_tokens}
        for step, loss in losses.items()
    }
    lines = {
        step: {"step": step, "loss": loss, "learning_rate": 1e-3, "skipped_steps": skipped, "spike": False}
        for step, loss in (train or {90: 5.0}).items()
    }
    return Record(START | start, [], lines, validation, {"step": 90})


def in_phase(name: str, run: Record) -> Record:
    """A run whose train lines are of this phase."""
    return replace(run, train={step: line | {"phase": name} for step, line in run.train.items()})


FALLING = {0: 8.0, 30: 6.0, 60: 5.0, 90: 4.0}
FLAT = {0: 8.0, 30: 5.0, 60: 4.01, 90: 4.0}
RISING = {0: 8.0, 30: 4.0, 60: 4.5, 90: 5.5}
PRETRAINED: dict[str, Any] = {"from_scratch": False}
# {name: (record, outcome, trend, part of the headline)}
RUNS = {
    "learnt": (record(FLAT), "learnt", "flat", "learnt to use context; its validation loss has levelled off."),
    "still falling": (record(FALLING), "learnt", "falling", "its validation loss is still falling."),
    "begun": (record({0: 8.0, 60: 5.6, 90: 5.5}), "begun", "flat", "began to use context"),
    "frequencies only": (record({0: 8.0, 60: 6.02, 90: 6.0}), "not_learnt", "flat", "only how frequent tokens are"),
    "overfits": (record(RISING, {30: 4.0, 60: 2.0, 90: 1.0}), "begun", "overfitting", "but it overfits"),
    "got worse": (record(RISING, {30: 4.0, 60: 5.0, 90: 6.0}), "begun", "rising", "its validation loss rises"),
    "worse": (record({0: 3.0, 60: 3.4, 90: 3.5}, **PRETRAINED), "worse", "rising", "worse than before training."),
    "adapted": (record({0: 3.0, 60: 2.01, 90: 2.0}, **PRETRAINED), "adapted", "flat", "adapted to the documents"),
    "unchanged": (record({0: 3.0, 60: 3.0, 90: 3.0}, **PRETRAINED), "unchanged", "flat", "did not change measurably"),
    "chance": (
        record({0: 3.0, 60: 2.95, 90: 2.9}, masked_tokens=100, **PRETRAINED),
        *("unchanged", "flat", "did not change measurably"),
    ),
    "not finite": (record({0: 8.0, 90: None}), "not_finite", "unknown", "the loss is not finite."),
    "recovered": (record(FLAT, {60: 5.0, 90: None}), "learnt", "flat", "learnt to use context"),
    "one validation": (record({0: 8.0}), "unknown", "unknown", "there is one validation."),
    "no validation set": (record({}), "unknown", "unknown", "there is no validation set."),
    "not finite without validation": (record({}, {90: None}), "not_finite", "unknown", "the loss is not finite."),
    "causal": (record(RISING, objective="causal_lm"), "causal", "unknown", "does not measure."),
    "causal without validation": (
        record({}, objective="causal_lm"),
        "causal",
        "unknown",
        "learnt to predict next tokens",
    ),
    "causal before its first step": (
        replace(record({0: 8.0}, objective="causal_lm"), train={}),
        "unknown",
        "unknown",
        "there is one validation.",
    ),
    "causal after another phase, which has not ended": (
        in_phase("first", record(FLAT, objective="causal_lm", phases={"first": 90, "last": 90})),
        "learnt",
        "flat",
        "learnt to use context",
    ),
    "causal after another phase": (
        in_phase("last", record(RISING, objective="causal_lm", phases={"first": 60, "last": 30})),
        "causal",
        "unknown",
        "does not measure.",
    ),
    "two validations": (record({0: 8.0, 90: 4.0}), "learnt", "unknown", "learnt to use context."),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_verdict_says_what_came_of_the_training(name: str) -> None:
    run, outcome, trend, headline = RUNS[name]
    found = verdict(run)
    assert (found.outcome, found.trend) == (outcome, trend)
    assert headline in found.headline


def test_a_causal_run_is_continued_with_masked_lm() -> None:
    (command,) = commands(record(RISING, objective="causal_lm"), "--objective=causal_lm")
    config = parsed(command)
    assert (config.objective, config.model.name_or_path) == ("masked_lm", f"{RUN}/model")


def test_continued_run_keeps_the_model_and_the_tokenizer_of_the_first() -> None:
    flags = ("--tokenizer.train_vocab_size=3000", "--tokenizer.add_domain_tokens=5", "--model.from_scratch=true")
    (command,) = commands(record(RISING, objective="causal_lm"), "--objective=causal_lm", *flags)
    config = parse([*flags, *shlex.split(command)[4:]])
    assert (config.tokenizer.train_vocab_size, config.tokenizer.add_domain_tokens) == (None, None)
    assert not config.model.from_scratch and "revision" not in command


def test_longer_run_of_phases_is_said_to_be_one_of_its_last_phase() -> None:
    config = to_dict(Config(phases=[{"name": name, "duration": "30 steps"} for name in ("a", "b")]))
    run = record(FALLING)
    step = next_steps(run, verdict(run), RUN, config)[0]
    assert step.text == "Train the last phase twice as long." and '--phases.b.duration "60 steps"' in step.command


def test_run_that_patience_ended_gets_more_of_it() -> None:
    run = replace(record(FALLING), end={"step": 90, "stopped_early": True})
    step = next_steps(run, verdict(run), RUN, to_dict(parse(["--validation.every=5", "--validation.patience=2"])))[0]
    assert step.text.startswith("Raise validation.patience") and " --validation.patience 4 " in step.command
    assert "duration" not in step.command


def of_phases(run: Record, *phases: dict[str, Any], **values: Any) -> str:
    """The first line to type after a run of phases."""
    config = to_dict(Config(phases=list(phases), **values))
    return next_steps(run, verdict(run), RUN, config)[0].command


def test_next_steps_set_the_keys_of_the_phases_that_have_their_own() -> None:
    """Those of the run have no effect there."""
    plain, other = {"name": "a", "duration": "1 steps"}, {"name": "b", "duration": "1 steps"}
    causal, masked = {"objective": "causal_lm"}, {"objective": "masked_lm"}
    run = record(RISING, objective="causal_lm")
    assert " --phases.a.objective masked_lm --phases.b.objective masked_lm --model" in of_phases(
        run, plain | causal, other | causal
    )
    command = of_phases(run, plain, other | causal, objective="causal_lm")
    assert " --objective masked_lm --phases.b.objective masked_lm --model" in command
    assert "config.yaml' --phases.b.objective masked_lm --model" in of_phases(run, plain | masked, other | causal)
    run = record({0: 8.0, 90: None})
    rates = [plain | {"optim": {"lr": 0.01}}, other | {"optim": {"lr": 0.002}}]
    assert "config.yaml' --phases.a.optim.lr 0.003 --phases.b.optim.lr 0.0006 --output" in of_phases(run, *rates)
    assert "config.yaml' --optim.lr 0.0003 --phases.b.optim.lr 0.0006 --output" in of_phases(run, plain, rates[1])
    command = of_phases(run, rates[0], other, optim={"lr": 0.1})
    assert "config.yaml' --optim.lr 0.03 --phases.a.optim.lr 0.003 --output" in command


def test_facts_hold_the_figures_behind_the_verdict() -> None:
    facts = " ".join(verdict(record(FLAT)).facts)
    assert "Validation loss 8 → 4 (4 lower than before training; 2 below the unigram baseline of 6" in facts
    assert "25% of masked tokens" in facts
    assert "The validation loss has levelled off: 0.01 lower than at step 60." in facts
    assert "No step was skipped." in facts
    assert (
        "3 steps of 90 (3.3%) were skipped: their gradients were not finite." in verdict(record(FLAT, skipped=3)).facts
    )


def test_flat_end_of_a_decayed_learning_rate_is_said_to_be_no_limit() -> None:
    run = record(FLAT)
    run.train[90]["learning_rate"] = 1e-5
    assert "decayed to 1% of its peak" in " ".join(verdict(run).facts)


def commands(run: Record, *flags: str) -> list[str]:
    config = to_dict(parse(["--corpus.source=my docs", *flags]))
    return [step.command for step in next_steps(run, verdict(run), RUN, config)]


def parsed(command: str) -> Config:
    """The config of a line to type; its --config names no file here."""
    words = shlex.split(command)
    assert words[:2] == ["mlm-dist", "train"]
    if "--config" in words:
        at = words.index("--config")
        assert words[at + 1] == str(RUN / "config.yaml")
        del words[at : at + 2]
    return parse(words[2:])


def test_lines_to_type_are_valid_and_do_what_the_verdict_calls_for() -> None:
    longer, pretrained = map(parsed, commands(record(FALLING), "--optim.duration=1.5 epochs"))
    assert longer.optim.duration == "3 epochs"
    assert longer.output_dir == f"{RUN}-longer"
    assert pretrained.model.name_or_path == "google-bert/bert-base-uncased"
    assert pretrained.corpus.source == "my docs"
    assert pretrained.output_dir == f"{RUN}-bert-base"
    patient = parsed(commands(record(RISING, {30: 4.0, 60: 2.0, 90: 1.0}))[0])
    assert patient.validation.patience == 3
    slower = parsed(commands(record({0: 8.0, 90: None}))[0])
    assert slower.optim.lr == pytest.approx(3e-4)
    validated = parsed(commands(record({}))[0])
    assert validated.corpus.validation_fraction == 0.05
    often = parsed(commands(record({0: 8.0, 90: 4.0}))[0])
    assert often.validation.every == 9
    (measure,) = commands(record({0: 3.0, 60: 2.01, 90: 2.0}, **PRETRAINED))
    assert shlex.split(measure) == ["mlm-dist", "validate", str(RUN), "--validation.tasks", "retrieval"]


def test_documents_of_a_new_run_are_named_with_all_their_settings() -> None:
    flags = ("--corpus.patterns=*.md,*.txt", "--corpus.min_chars=50", "--corpus.deduplicate=none")
    config = parsed(commands(record(FALLING), *flags)[1])
    expected = parse(["--corpus.source=my docs", *flags])
    assert config.corpus == expected.corpus


def test_named_sources_of_a_new_run_are_named_too() -> None:
    config = to_dict(parse(["--corpus.sources.manuals.source=a b", "--corpus.sources.more.source=c"]))
    run = record(FALLING)
    command = next_steps(run, verdict(run), RUN, config)[1].command
    assert parsed(command).corpus.sources == {"manuals": {"source": "a b"}, "more": {"source": "c"}}


def test_run_that_has_not_ended_is_resumed() -> None:
    run = record(FALLING)
    stopped = Record(run.start, [], run.train, run.validation, {"step": 50})
    assert [shlex.split(one) for one in commands(stopped)] == [
        ["mlm-dist", "train", "--config", str(RUN / "config.yaml")]
    ]


ROWS, OTHER_ROWS = (20, 100, ("own",)), (25, 120, ("more", "own"))


def on_rows(run: Record, *, until: int) -> Record:
    """A run whose validations up to a step were on other rows, as those of a run that a phase extended."""
    start = run.start | {"validation_rows": 25, "validation_rows_total": 120, "validation_sources": ["more", "own"]}
    return replace(run, start=start, rows={step: ROWS if step <= until else OTHER_ROWS for step in run.validation})


def test_losses_on_other_validation_rows_are_not_compared() -> None:
    found = verdict(on_rows(record({0: 8.0, 30: 4.0, 60: 5.0, 90: 4.5}), until=30))
    text = " ".join(found.facts)
    assert "Validation loss 5 → 4.5 (0.5 lower than at step 60; 1.5 below the unigram baseline of 6" in text
    assert "2 validations were on other validation rows, up to step 30; their losses are not compared." in text
    assert found.trend == "unknown" and "before training" not in text
    worse = verdict(on_rows(record({0: 8.0, 60: 5.0, 75: 5.5, 90: 6.0}, **PRETRAINED), until=0))
    assert worse.headline == "The model is worse than at step 60."
    one = verdict(on_rows(record({0: 8.0, 90: 5.0}), until=0))
    assert one.outcome == "unknown" and "there is one validation on the newest rows" in one.headline


def test_trend_is_that_since_the_validation_rows_changed() -> None:
    losses = {0: 9.0, 60: 6.0, 70: 5.0, 80: 4.01, 90: 4.0}
    assert verdict(on_rows(record(losses), until=0)).trend == "flat"


def test_unigram_baseline_on_other_rows_than_the_last_validation_is_not_compared() -> None:
    run = on_rows(record(FLAT), until=90)  # which was run again on other rows, without training
    assert run.unigram_loss is None and "unigram" not in " ".join(verdict(run).facts)
    assert on_rows(record(FLAT), until=0).unigram_loss == 6.0
