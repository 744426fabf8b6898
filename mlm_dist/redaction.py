"""Credentials removed from what leaves this machine: model card, report, config.yaml and trackers."""

from __future__ import annotations

import dataclasses

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
