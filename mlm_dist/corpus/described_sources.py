"""What a manifest says of its corpus, to compare it with a run without fetching the sources of the run."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlm_dist.corpus.sources import source_keys, without_credentials
from mlm_dist.corpus.store import FORMAT
from mlm_dist.spec import SourceSpec


def is_made_with(manifest: Mapping[str, Any], dependencies: Mapping[str, Any]) -> bool:
    """Whether a manifest has today's format, and the settings that `digests.dependencies` returned."""
    return manifest.get("format") == FORMAT and manifest.get("config") == json.loads(json.dumps(dependencies))


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
