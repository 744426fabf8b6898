"""What is removed from what leaves this machine: credentials from all of it, places on its disk from the model card."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from mlm_dist.config import Config
from mlm_dist.corpus.sources.git_address import without_credentials


def config_without_credentials(config: Config) -> Config:
    """The config without the names, passwords and tokens in the addresses of any key."""
    public: Config = _without_credentials(config)
    return public


def _without_credentials(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        values = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
        changed = {name: new for name, old in values.items() if (new := _without_credentials(old)) != old}
        return dataclasses.replace(value, **changed) if changed else value
    if isinstance(value, dict):
        return {name: _without_credentials(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_credentials(one) for one in value)
    return without_credentials(value) if isinstance(value, str) else value


def without_places(value: Any) -> Any:
    """A value of the config with the places of this machine shortened to the last part of their path.

    An absolute path names the user or the organization of the machine, and exists on no other one.
    """
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(one) for one in value]
    return without_place(value) if isinstance(value, str) else value


def without_place(text: str) -> str:
    """A text, or if it is an absolute path of this machine, its last part."""
    path = os.path.expanduser(text.removeprefix("file://"))
    return Path(path).name or "." if os.path.isabs(path) else text
