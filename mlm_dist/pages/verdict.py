"""The verdict at the top of the page: whether the model learnt, in words and with the figures behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mlm_dist.pages.formats import finite, number, percent, plural
from mlm_dist.pages.record import Record

Outcome = Literal[
    "unknown", "not_finite", "causal", "worse", "not_learnt", "begun", "learnt", "adapted", "finds", "unchanged"
]
Trend = Literal["unknown", "falling", "flat", "rising", "overfitting"]

CONTEXT = 0.1  # nats below the unigram baseline from which a model uses context, and not only token frequencies
WELL_BELOW = 1.0  # nats below it from which a model has learnt more than a beginning
LATE = 2 / 3  # of the run; what the loss does after it is its trend
FALLING = 0.05  # of the whole fall of the loss: a larger fall after `LATE` shows that it has not levelled off
LOW_RATE = 0.1  # of the peak rate
BEFORE = "before training"
HEADLINES: dict[Outcome, str] = {
    "unknown": "Too early to say whether the model learns",
    "not_finite": "Training failed: the loss is not finite",
    "causal": "The model learnt to predict next tokens, which its validation of masked tokens does not measure",
    "worse": f"The model is worse than {BEFORE}",
    "not_learnt": "The model has not learnt to use context yet, only how frequent tokens are",
    "begun": "The model began to use context",
    "learnt": "The model learnt to use context",
    "adapted": "The model adapted to the documents",
    "finds": f"The model finds passages better than {BEFORE}",
    "unchanged": "The model did not change measurably",
}
ENDINGS: dict[Trend, str] = {
    "overfitting": ", but it overfits: the validation loss rises",
    "rising": ", but its validation loss rises",
    "falling": ", and its validation loss is still falling",
    "flat": "; its validation loss has levelled off",
}


@dataclass(frozen=True)
class Verdict:
    """The verdict.

    Args:
        outcome: What came of the training so far.
        trend: What the validation loss does.
        headline: The outcome in a sentence.
        facts: Sentences with the figures behind it.
    """

    outcome: Outcome
    trend: Trend
    headline: str
    facts: list[str]

    @property
    def tone(self) -> str:
        """good, bad or neutral."""
        if self.outcome in ("not_finite", "worse", "not_learnt") or self.trend in ("rising", "overfitting"):
            return "bad"
        return "good" if self.outcome in ("learnt", "adapted", "finds", "begun") else "neutral"


def verdict(record: Record) -> Verdict:
    """The verdict on a run, as far as it is recorded."""
    losses = validation_losses(record)
    outcome = _outcome(record, losses)
    trend, about_trend = _trend(record, [] if outcome in ("not_finite", "causal") else losses)
    headline = HEADLINES[outcome]
    if outcome == "worse":
        headline = headline.replace(BEFORE, _since(losses[0][0]))
    if outcome == "unknown":
        headline += f": {_too_early(record, losses)}"
    elif outcome not in ("worse", "not_finite", "causal"):
        headline += ENDINGS.get(trend, "")
    figures = "" if outcome in ("unknown", "not_finite") or not losses else _figures(record, *losses[0])
    facts = [fact for fact in (figures, about_trend, _on_other_rows(record), _skipped(record), _spikes(record)) if fact]
    return Verdict(outcome, trend, f"{headline}.", facts)


def validation_losses(record: Record) -> list[tuple[int, float]]:
    """(step, validation loss) of the validations with a finite loss, on the rows of the last one.

    Of a run that ends with learning from pairs of texts, it is the loss on pairs.
    """
    name = _criterion(record)
    found = ((step, finite(line.get(name))) for step, line in record.comparable.items())
    return [(step, loss) for step, loss in found if loss is not None]


def margin(record: Record) -> float:
    """Differences of validation losses below this are taken for chance.

    Two standard errors of the mean difference, for differences with a standard deviation of 1 nat per masked token, or
    per pair; the same tokens are masked in all validations of a run.
    """
    lines = list(record.validation.values())
    counted = "masked_tokens" if _criterion(record) == "loss" else "pairs"
    return 2 / math.sqrt(max(int(lines[-1].get(counted, 1)), 1)) if lines else 0.0


def _criterion(record: Record) -> str:
    """The name of the loss that counts in validation lines."""
    lines = list(record.validation.values())
    return "pairs_loss" if lines and "pairs_loss" in lines[-1] else "loss"


def _outcome(record: Record, losses: list[tuple[int, float]]) -> Outcome:
    if _is_not_finite(record):
        return "not_finite"
    is_causal = record.start.get("objective") == "causal_lm" and _last_phase_has_begun(record)
    if is_causal or len(losses) < 2:
        return "causal" if is_causal else "unknown"
    start, result, chance = losses[0][1], finite(record.exported[_criterion(record)]) or 0.0, margin(record)
    if result > start + chance:
        return "worse"
    baseline, finds = record.unigram_loss, _criterion(record) == "pairs_loss"
    if finds or record.start.get("from_scratch") is False or baseline is None:
        better: Outcome = "finds" if finds else "adapted"
        return better if start - result > chance else "unchanged"
    if baseline - result >= max(WELL_BELOW, chance):
        return "learnt"
    return "begun" if baseline - result >= max(CONTEXT, chance) else "not_learnt"


def _last_phase_has_begun(record: Record) -> bool:
    """Whether a step of the last phase is recorded, whose objective the `start` line names."""
    phases = record.start.get("phases") or {}
    return bool(record.train) and all(name in record.phases for name in [*phases][-1:])


def _is_not_finite(record: Record) -> bool:
    """Whether the last validation loss is not finite; without validation, the last training loss."""
    if record.validation:
        return finite(record.exported.get(_criterion(record))) is None
    return bool(record.train) and finite(record.train[max(record.train)].get("loss")) is None


def _too_early(record: Record, losses: list[tuple[int, float]]) -> str:
    if losses:
        return "there is one validation" + (" on the newest rows" if _on_other_rows(record) else "")
    return "there is no validation set" if record.train else "there is no validation yet"


def _since(step: int) -> str:
    """When the first comparable validation was: before training, if no earlier one is on other rows."""
    return f"at step {step:,}" if step else BEFORE


def _on_other_rows(record: Record) -> str:
    others = [step for step in record.validation if not record.is_comparable(step)]
    if not others:
        return ""
    were = "validation was" if len(others) == 1 else "validations were"
    return f"{len(others)} {were} on other validation rows, up to step {max(others):,}; their losses are not compared."


def _figures(record: Record, first_step: int, start: float) -> str:
    if _criterion(record) == "pairs_loss":
        return _figures_of_pairs(record, first_step)
    result, baseline = finite(record.exported["loss"]) or 0.0, record.unigram_loss
    text = f"Validation loss {number(start)} → {number(result)}"
    text += f" ({number(abs(start - result))} {'lower' if result <= start else 'higher'} than {_since(first_step)}"
    if baseline is not None:
        side = "below" if result < baseline else "above"
        text += f"; {number(abs(baseline - result))} {side} the unigram baseline of {number(baseline)}, the loss of "
        text += "predicting by token frequency"
    accuracy = record.exported.get("accuracy")
    return f"{text})." if accuracy is None else f"{text}). It predicts {percent(accuracy)} of masked tokens exactly."


def _figures_of_pairs(record: Record, first_step: int) -> str:
    first, result = record.comparable[first_step], record.exported
    return (
        f"The passage of a query is the most similar of {result['pairs']:,} held-out passages for "
        f"{percent(result['pairs_recall_at_1'])} of the queries ({_since(first_step)} "
        f"{percent(first['pairs_recall_at_1'])}); mean reciprocal rank {number(first['pairs_mrr'])} → "
        f"{number(result['pairs_mrr'])}."
    )


def _trend(record: Record, losses: list[tuple[int, float]]) -> tuple[Trend, str]:
    """What the validation loss does at the end, and a sentence on it."""
    if len(losses) < 3:
        return "unknown", (
            "" if len(losses) < 2 else "The trend is unknown: it takes at least three validations (validation.every)."
        )
    chance, (last_step, last) = margin(record), losses[-1]
    best_step, best = min(losses, key=lambda pair: pair[1])
    if last > best + chance:
        text = f"The validation loss was lowest at step {best_step:,} ({number(best)}) and is {number(last)} now"
        if _training_fell(record, best_step):
            return "overfitting", f"{text}, while the training loss fell: the model overfits."
        return "rising", f"{text}: training got worse."
    first_step = losses[0][0]
    late_step, late = min(losses[:-1], key=lambda pair: abs(pair[0] - first_step - LATE * (last_step - first_step)))
    since = f"{number(abs(late - last))} {'lower' if late >= last else 'higher'} than at step {late_step:,}"
    if late - last > max(chance, FALLING * (losses[0][1] - last)):
        return "falling", f"The validation loss is still falling: {since}."
    return "flat", f"The validation loss has levelled off: {since}.{_decayed(record)}"


def _training_fell(record: Record, since: int) -> bool:
    """Whether the mean training loss after a step is lower than around it."""
    lines = [(step, loss) for step, line in record.train.items() if (loss := finite(line.get("loss"))) is not None]
    after = [loss for step, loss in lines if step > since]
    before = [loss for step, loss in lines if step <= since][-max(len(after), 1) :]
    return bool(after and before) and sum(after) / len(after) < sum(before) / len(before)


def _decayed(record: Record) -> str:
    newest = finite(record.train[max(record.train)].get("learning_rate")) if record.train else None
    peak = finite(record.start.get("peak_learning_rate"))
    if newest is None or not peak or newest >= LOW_RATE * peak:
        return ""
    share = percent(newest / peak)
    return f" The learning rate had decayed to {share} of its peak by then; a longer run may lead further."


def _skipped(record: Record) -> str:
    if not record.train:
        return ""
    skipped = int(record.train[max(record.train)].get("skipped_steps") or 0)
    if not skipped:
        return "No step was skipped."
    share = percent(skipped / max(record.step, 1))
    return (
        f"{plural(skipped, 'step')} of {record.step:,} ({share}) {'was' if skipped == 1 else 'were'} skipped: their "
        "gradients were not finite."
    )


def _spikes(record: Record) -> str:
    spikes = sum(bool(line.get("spike")) for line in record.train.values())
    return f"The loss spiked in {plural(spikes, 'logged step')}." if spikes else ""
