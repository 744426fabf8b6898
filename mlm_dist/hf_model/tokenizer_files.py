"""The tokenizer of an exported model: its own class and settings, and a limit that its positions can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlm_dist.corpus.tokenizer import loading
from mlm_dist.files import write_json
from mlm_dist.hf_model.config_file import without_private
from mlm_dist.model import positions

UNLIMITED = int(1e30)  # model_max_length of a tokenizer without a limit


def length_limit(config: Any, limit: int, max_length: int) -> int:
    """`model_max_length` of an exported tokenizer: what the original says, and at least a row, if positions allow it.

    Args:
        config: The model's transformers configuration.
        limit: `model_max_length` of the original tokenizer.
        max_length: Tokens per row.
    """
    usable = positions.max_positions(config)
    wanted = max(limit, max_length)
    return wanted if usable is None else min(wanted, usable)


def write(tokenizer: Any, original: Any, config: Any, max_length: int, folder: Path) -> int:
    """Write a tokenizer that transformers 4 and 5 load as the same class; returns its `model_max_length`.

    Args:
        tokenizer: The tokenizer of the rows.
        original: The tokenizer that the run names, whose limit and templates count; the same one if it has none.
        config: The model's transformers configuration.
        max_length: Tokens per row.
        folder: The folder to write to.
    """
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = original.chat_template
        tokenizer.save_pretrained(str(folder))
    finally:
        tokenizer.chat_template = template
    path = folder / "tokenizer_config.json"
    values: dict[str, Any] = without_private(json.loads(path.read_text("utf-8")))
    values.pop("auto_map", None)
    kept = {name: value for name, value in original.init_kwargs.items() if _is_plain(value)}
    values = without_private(kept) | values
    values |= {
        "tokenizer_class": loading.class_name(tokenizer),
        "model_max_length": length_limit(config, original.model_max_length, max_length),
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
    }
    extra = values.pop("extra_special_tokens", None)
    if isinstance(extra, dict):
        values["extra_special_tokens"] = extra
    elif extra:  # a list, which transformers 4 reads under this name only, and 5 under both
        values["additional_special_tokens"] = extra
    write_json(path, values, indent=2, durable=False)
    return int(values["model_max_length"])


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)
