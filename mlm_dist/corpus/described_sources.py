"""Sources as a manifest describes them, to compare them with those of a run without fetching these."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from mlm_dist.corpus.sources import source_keys, without_credentials
from mlm_dist.spec import SourceSpec


def are_described(described: Sequence[dict[str, Any]], sources: Sequence[SourceSpec]) -> bool:
    """Whether a manifest's sources have the addresses, settings and versions of packages of these."""
    if len(described) != len(sources):
        return False
    for one, source in zip(described, sources, strict=True):
        settings, config = one["settings"], source.config
        expected = (
            source.name,
            config.clean,
            config.text,
            config.encoding,
            config.separator,
            config.split,
            config.group,
        )
        names = ("name", "clean", "text", "encoding", "separator", "split", "group")
        if tuple(settings[key] for key in names) != expected or settings["options"] != source_keys.options(config):
            return False
        if one["location"] != without_credentials(config.source):
            return False
        if any(importlib.metadata.version(name) != version for name, version in settings["versions"].items()):
            return False
    return True
