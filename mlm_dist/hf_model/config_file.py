"""config.json of an exported model: written by transformers 5, read by 4.57 and by text-embeddings-inference, too.

Transformers 4 and other clients do not know `rope_parameters`. Where the older fields can say the same, they are
written beside it; transformers 5 prefers `rope_parameters`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_dist.files import write_json

# What a library notes about where a model came from; the files of an export name no place on this machine.
PRIVATE = {
    *("_name_or_path", "name_or_path", "is_local", "local_files_only", "_commit_hash", "_from_auto", "cache_dir"),
    *("tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "files_loaded", "slow_tokenizer_class"),
    *("token", "use_auth_token", "trust_remote_code", "revision", "subfolder", "proxies", "device_map", "gguf_file"),
}

logger = logging.getLogger(__name__)


def complete(folder: Path) -> None:
    """Add the fields of older clients to config.json of a folder, and remove what belongs to this machine."""
    path = folder / "config.json"
    values: dict[str, Any] = without_private(json.loads(path.read_text("utf-8")))
    if values.pop("auto_map", None) is not None:
        logger.info("config.json: auto_map is not exported, because the exported model needs no code of its own")
    older = older_fields(values)
    if older is None:
        logger.warning(
            "the rotary angles of the exported model cannot be written for transformers 4: load it with transformers 5"
        )
    write_json(
        path,
        values | {name: value for name, value in (older or {}).items() if name not in values},
        indent=2,
        durable=False,
    )


def without_private(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values without those that say where a file was on this machine."""
    return {
        name: value
        for name, value in values.items()
        if name not in PRIVATE and not (isinstance(value, str) and Path(value).is_absolute() and len(value) > 1)
    }


def older_fields(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of transformers 4 that say what `rope_parameters` and `layer_types` say; None if there are none.

    Args:
        values: Content of config.json.
    """
    rope = values.get("rope_parameters")
    if not rope:
        return {}
    if "rope_theta" in rope or "rope_type" in rope:
        older = {"rope_theta": rope.get("rope_theta")}
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        return older if scaling.get("rope_type", "default") == "default" else older | {"rope_scaling": scaling}
    full, sliding = rope.get("full_attention"), rope.get("sliding_attention")
    period = _period(values.get("layer_types") or ())
    if full is None or sliding is None or period is None:
        return None
    if any(part.get("rope_type", "default") != "default" for part in (full, sliding)):
        return None  # transformers 4 would scale the angles of both kinds of layers
    thetas = {"global_rope_theta": full["rope_theta"], "local_rope_theta": sliding["rope_theta"]}
    return thetas | {"global_attn_every_n_layers": period}


def _period(layer_types: Sequence[str]) -> int | None:
    """n if every n-th layer, from the first one, has full attention and the others slide; None if no n says so."""
    for period in range(1, len(layer_types) + 1):
        if all((kind == "full_attention") == (i % period == 0) for i, kind in enumerate(layer_types)):
            return period
    return None
