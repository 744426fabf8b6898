"""What to do next with a run, each with the line to type."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mlm_dist.config import Config, CorpusConfig, Duration, to_dict
from mlm_dist.pages.formats import finite
from mlm_dist.pages.record import Record
from mlm_dist.pages.verdict import Verdict

# Keys that say where a model and its tokenizer come from, besides model.name_or_path.
_OF_THE_BEGINNING = {
    "model": ("revision", "from_scratch", "init_from"),
    "tokenizer": ("path", "train_vocab_size", "add_domain_tokens"),
}
LOWER = 0.3  # of the peak learning rate, for a run that got worse


@dataclass(frozen=True)
class NextStep:
    """Something to do.

    Args:
        text: What, and why.
        command: The line to type.
    """

    text: str
    command: str


def next_steps(record: Record, verdict: Verdict, run: Path, config: Mapping[str, Any]) -> list[NextStep]:
    """What helps most, first; nothing while the run is training.

    Args:
        record: The run.
        verdict: The verdict on it.
        run: Its directory.
        config: Its config, as nested dicts.
    """
    if not record.is_finished:
        return [NextStep("Resume it, if it was interrupted.", _again(run, ""))]
    steps: list[NextStep] = []
    if not record.validation:
        flags = "--corpus.validation_fraction 0.05"
        steps.append(
            NextStep("Train with a validation set, to see whether it learns.", _again(run, "validated", flags))
        )
    elif verdict.trend == "unknown" and verdict.outcome not in ("not_finite", "causal"):
        every = max((record.steps or record.step) // 10, 1)
        steps.append(
            NextStep("Validate more often, to see the trend.", _again(run, "validated", f"--validation.every {every}"))
        )
    if verdict.outcome == "causal":
        flags = f"{_masked(config)} --model.name_or_path {_quoted(run, '/model')}{_as_it_is(config)}"
        steps.append(NextStep("Continue with masked language modelling.", _again(run, "masked", flags)))
        return steps
    peak = finite(record.start.get("peak_learning_rate"))
    if verdict.outcome in ("not_finite", "worse") or verdict.trend == "rising":
        steps.append(NextStep("Train with a lower learning rate.", _again(run, "lower-rate", _lower(config, peak))))
    elif verdict.trend == "overfitting":
        often = "" if config["validation"]["every"] else f" --validation.every {max(record.step // 20, 1)}"
        flags = f"--validation.patience 3{often}"
        steps.append(
            NextStep(
                "Stop at the lowest validation loss and export it. More documents help most.",
                _again(run, "patient", flags),
            )
        )
    elif verdict.outcome in ("begun", "not_learnt") or verdict.trend == "falling":
        text, flags = _longer(config, stopped_early=(record.end or {}).get("stopped_early") is True)
        steps.append(NextStep(text, _again(run, "longer", flags)))
    if record.start.get("from_scratch") is True and verdict.outcome != "unknown":
        steps.append(
            NextStep(
                "Start from a pretrained model, which knows the language already. It has 110 million parameters: use a "
                "GPU, or expect hours.",
                f"mlm-dist train {_corpus_flags(config)} --preset continue --output_dir {_quoted(run, '-bert-base')}",
            )
        )
    if record.start.get("from_scratch") is False and verdict.trend == "flat":
        steps.append(
            NextStep(
                "Measure what it is worth for search, without labels.",
                f"mlm-dist validate {_quoted(run)} --validation.tasks retrieval",
            )
        )
    return steps


def _quoted(run: Path, suffix: str = "") -> str:
    return shlex.quote(f"{run}{suffix}")


def _again(run: Path, name: str, flags: str = "") -> str:
    """The line that runs the config again: in a new directory if it has a name."""
    line = f"mlm-dist train --config {shlex.quote(str(run / 'config.yaml'))}"
    return f"{line} {flags} --output_dir {_quoted(run, f'-{name}')}" if name else line


def _masked(config: Mapping[str, Any]) -> str:
    """The flags with which all phases learn masked language modelling."""
    phases = config.get("phases") or []
    flags = [f"--phases.{one['name']}.objective masked_lm" for one in phases if one.get("objective") == "causal_lm"]
    return " ".join(
        flags if phases and all("objective" in one for one in phases) else ["--objective masked_lm", *flags]
    )


def _lower(config: Mapping[str, Any], peak: float | None) -> str:
    """The flags with which all phases have a lower learning rate; `peak` is that of the first phase."""
    phases = config.get("phases") or []
    rates = {one["name"]: (one.get("optim") or {}).get("lr") for one in phases}
    flags = [f"--phases.{name}.optim.lr {LOWER * rate:.1g}" for name, rate in rates.items() if rate is not None]
    if phases and None not in rates.values():
        return " ".join(flags)
    of_run = config["optim"]["lr"] or (peak if not flags or rates[phases[0]["name"]] is None else None)
    return " ".join([f"--optim.lr {LOWER * of_run:.1g}" if of_run else "--optim.lr 1e-5", *flags])


def _as_it_is(config: Mapping[str, Any]) -> str:
    """The flags with which training continues from a run's model and its tokenizer, however the run got them."""
    default = to_dict(Config())
    return "".join(
        f" --{section}.{name} {json.dumps(default[section][name])}"
        for section, names in _OF_THE_BEGINNING.items()
        for name in names
        if config[section][name] != default[section][name]
    )


def _longer(config: Mapping[str, Any], *, stopped_early: bool) -> tuple[str, str]:
    """What trains longer, and its flags: after an early stop, a longer duration would change nothing."""
    if stopped_early:
        patience = 2 * (config["validation"]["patience"] or 1)
        return "Raise validation.patience, which ended the run early.", f"--validation.patience {patience}"
    phases = config.get("phases") or []
    duration = Duration.parse(phases[-1]["duration"] if phases else config["optim"]["duration"])
    key, value = f"phases.{phases[-1]['name']}.duration" if phases else "optim.duration", 2 * duration.value
    text = "Train the last phase twice as long." if phases else "Train twice as long."
    return text, f'--{key} "{int(value) if value == int(value) else value} {duration.unit}"'


def _corpus_flags(config: Mapping[str, Any]) -> str:
    """The flags that name the documents: the keys of corpus that are not the default."""
    default, corpus = CorpusConfig(), config["corpus"]
    values = {item.name: corpus.get(item.name) for item in fields(default) if item.name not in ("sources", "export")}
    changed = {name: value for name, value in values.items() if value != getattr(default, name)}
    changed |= {f"sources.{name}": source for name, source in (corpus.get("sources") or {}).items()}
    if "source" not in changed and not corpus.get("sources"):
        changed = {"source": default.source} | changed
    return " ".join(f"--corpus.{name} {shlex.quote(_text(value))}" for name, value in changed.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
