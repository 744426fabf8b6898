"""What is removed from what leaves this machine: credentials from all of it, places on its disk from the model card."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from mlm_dist.config import Config, value_of
from mlm_dist.corpus.sources.git_address import without_credentials

SOURCE_KEYS = ("corpus.source", "corpus.replay_source", "validation.second_source")


def config_without_credentials(config: Config) -> Config:
    """The config without the names, passwords and tokens in the addresses of its sources."""
    for key in SOURCE_KEYS:
        address = value_of(config, key)
        if address is not None:
            section, name = key.split(".")
            changed = dataclasses.replace(getattr(config, section), **{name: without_credentials(address)})
            config = dataclasses.replace(config, **{section: changed})
    sources = {
        name: values | {"source": without_credentials(values["source"])}
        for name, values in config.corpus.sources.items()
    }
    return dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, sources=sources))


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
