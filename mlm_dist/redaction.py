"""What is removed from what leaves this machine: credentials from all of it, places on its disk from the model card."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlm_dist.config import Config
from mlm_dist.credentials import without_credentials


def config_without_credentials(config: Config) -> Config:
    """The config without the names, passwords and tokens in the addresses of any key."""
    public: Config = _with_texts(config, without_credentials)
    return public


def without_places(value: Any) -> Any:
    """A value of the config with the places of this machine shortened to the last part of their path.

    An absolute path names the user or the organization of the machine, and exists on no other one.
    """
    return _with_texts(value, without_place)


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """A value with every text in it changed."""
    if dataclasses.is_dataclass(value):
        values = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
        changed = {name: new for name, old in values.items() if (new := _with_texts(old, change)) != old}
        return dataclasses.replace(value, **changed) if changed else value  # type: ignore[type-var]
    if isinstance(value, dict):
        return {name: _with_texts(one, change) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_texts(one, change) for one in value)
    return change(value) if isinstance(value, str) else value


def without_place(text: str) -> str:
    """A text, or if it is an absolute path of this machine, its last part."""
    path = os.path.expanduser(text.removeprefix("file://"))
    return Path(path).name or "." if os.path.isabs(path) else text
