"""The facts of a run in words, from the `start` line of metrics.jsonl, which holds numbers and short names only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_dist.pages.formats import any_value, plural
from mlm_dist.pages.record import Record
from mlm_dist.training.result import describe_hours

SHARDING = {"ddp": "DDP", "fsdp2": "FSDP2", "zero1": "ZeRO-1", "zero2": "ZeRO-2", "zero3": "ZeRO-3"}
INITIALIZED_HEAD = "missing in the checkpoint; initialized with the unigram frequencies of the training rows"
OFFLOADED = {"optimizer": "optimizer state", "param": "parameters"}
# Fields that a fact below puts into words, or that are shown elsewhere.
_IN_WORDS = {
    *("kind", "resumed_from", "version", "unigram_loss", "corpus", "model", "from_scratch", "parameters"),
    *("init_from", "revision", "lm_head"),
    *("masked_head", "compile", "checkpointing", "world_size", "device", "sharding", "offload", "precision"),
    *("global_batch", "micro_batch", "accumulation", "rows", "samples", "steps", "warmup_steps", "hours"),
    *("peak_learning_rate", "optimizer", "schedule", "validation_only"),
    *("validation_rows", "validation_rows_total", "validation_sources"),
}


def run_facts(record: Record) -> dict[str, str]:
    """{name: text} of all that the run recorded when it started; a field that is missing is skipped."""
    start = record.start
    shares = [name for name in start if name.startswith("mix_")]
    facts = {
        "model": _model(start),
        "LM head": INITIALIZED_HEAD if start.get("lm_head") == "initialized" else "",
        "parameters": _number(start.get("parameters")),
        "processes": _processes(start),
        "batch": _batch(start),
        "training rows": _number(start.get("rows")),
        "validation rows": _validation_rows(start),
        "duration": _length(start),
        "optimizer": _optimizer(start),
        "logits": _choice(start.get("masked_head"), "at masked positions only", "at all positions"),
        "compilation": _mode(start.get("compile")),
        "activation checkpointing": _mode(start.get("checkpointing")),
        "corpus": str(start.get("corpus", "")),
        "mix of sources": ", ".join(f"{name.removeprefix('mix_')} {start[name]:g}" for name in shares),
        "validation only": ", ".join(start.get("validation_only") or ()),
        "unigram baseline": "" if start.get("unigram_loss") is None else f"loss {start['unigram_loss']:.4f}",
        "mlm_dist": str(start.get("version", "")),
    }
    names = [name for name in start if name not in (*_IN_WORDS, *shares)]
    others = {name.replace("_", " "): any_value(start[name]) for name in names}
    return {name: text for name, text in {**facts, **others}.items() if text}


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _choice(value: bool | None, if_true: str, if_false: str) -> str:
    return "" if value is None else if_true if value else if_false


def _model(start: Mapping[str, Any]) -> str:
    if "model" not in start:
        return ""
    revision = "" if start.get("revision") is None else f", revision {start['revision']}"
    weights = _choice(start.get("from_scratch"), ", from random weights", ", from pretrained weights")
    if "init_from" in start:
        weights = f", from the weights of {start['init_from']}, which has another size or tokenizer"
    return f"{start['model']}{revision}{weights}"


def _processes(start: Mapping[str, Any]) -> str:
    if "world_size" not in start:
        return ""
    parts = [plural(start["world_size"], "process", "processes")]
    if "device" in start:
        parts[0] += f" on {start['device']}"
    if (sharding := start.get("sharding", "none")) != "none":
        parts.append(SHARDING.get(sharding, str(sharding)))
    if offload := start.get("offload"):
        parts.append(f"{' and '.join(OFFLOADED.get(part, str(part)) for part in offload)} offloaded to the host")
    if "precision" in start:
        parts.append(f"precision {start['precision']}")
    return ", ".join(parts)


def _batch(start: Mapping[str, Any]) -> str:
    if "global_batch" not in start:
        return ""
    text = f"{plural(start['global_batch'], 'row')} per step"
    factors = [start.get(name) for name in ("micro_batch", "accumulation", "world_size")]
    if None in factors:
        return text
    return f"{text} = {' x '.join(f'{factor:,}' for factor in factors)} (micro-batch x accumulation x processes)"


def _length(start: Mapping[str, Any]) -> str:
    if start.get("hours") is not None:
        return describe_hours(start)
    nouns = {"steps": "step", "samples": "row", "warmup_steps": "warm-up step"}
    return ", ".join(plural(start[name], noun) for name, noun in nouns.items() if start.get(name) is not None)


def _optimizer(start: Mapping[str, Any]) -> str:
    parts = [str(start["optimizer"])] if "optimizer" in start else []
    if "schedule" in start:
        parts.append(f"{start['schedule']} schedule")
    if start.get("peak_learning_rate") is not None:
        parts.append(f"peak learning rate {start['peak_learning_rate']:.5g}")
    return ", ".join(parts)


def _validation_rows(start: Mapping[str, Any]) -> str:
    rows, total = start.get("validation_rows"), start.get("validation_rows_total")
    if rows is None or total is None or rows == total:
        return _number(rows)
    return f"{rows:,} of {total:,}, evenly spaced (validation.max_rows)"


def _mode(mode: str | None) -> str:
    return "" if mode is None else "off" if mode == "none" else str(mode)
