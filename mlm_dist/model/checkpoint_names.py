"""The names of a checkpoint's weights: those of transformers, without what other libraries put in front."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

# Modules that wrap a model or a part of it, of torch.compile, DDP, DeepSpeed, FSDP, checkpointing and Lightning.
WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
# Attributes under which training code keeps its model: Lightning, Composer, sentence-transformers, distillation.
HOLDERS = {"model", "net", "network", "backbone", "encoder", "student", "auto_model", "base_model", "0"}
MOST_PREFIX_PARTS = 4
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of layer norms, in checkpoints converted from TensorFlow
# FlexBERT, the ModernBERT of its authors' repository, is that of transformers with other names (their
# src/convert_to_hf.py changes nothing else).
_FLEXBERT = re.compile(r"(^|\.)bert\.encoder\.layers\.\d")


def plain_names(names: Iterable[str], model: Any) -> tuple[dict[str, str], list[str]]:
    """The names that a transformers model has for the weights of a checkpoint.

    Segments of wrappers are removed wherever they are. The prefix in front of all others is the one without which most
    names are the model's; weights that do not begin with it keep their name.

    Args:
        names: The names in the checkpoint.
        model: The transformers model.

    Returns:
        {name in the checkpoint: name}, without weights that another one replaces; and what was removed or renamed, for
        the log.
    """
    expected = _expected(model)
    found = {name: name for name in names}
    removed: list[str] = []
    wrappers = sorted({part for name in found for part in name.split(".") if part in WRAPPERS})
    if wrappers and not set(found) <= expected:
        found = {name: _without_wrappers(short, expected) for name, short in found.items()}
        removed += [f"{part}." for part in wrappers if any(f"{part}." in name for name in set(found) - expected)]
    if model.config.model_type == "modernbert" and any(_FLEXBERT.search(name) for name in found.values()):
        found = {name: re.sub(r"(^|\.)bert\.(encoder\.(?=layers\.))?", r"\1model.", one) for name, one in found.items()}
        removed.append("the names of FlexBERT")
    prefix = _prefix(found.values(), expected)
    if prefix:
        removed.append(prefix)
        rest = {name: short for name, short in found.items() if not short.startswith(prefix)}
        found = {name: short.removeprefix(prefix) for name, short in found.items() if name not in rest}
        taken = set(found.values())
        found |= {name: short for name, short in rest.items() if short not in taken}
    return found, removed


def _expected(model: Any) -> set[str]:
    """The names of a model's weights, and those of its base model alone."""
    names = set(model.state_dict())
    prefix = f"{model.base_model_prefix}."
    return names | {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _without_wrappers(name: str, expected: Collection[str]) -> str:
    return name if name in expected else ".".join(part for part in name.split(".") if part not in WRAPPERS)


def _prefix(names: Collection[str], expected: Collection[str]) -> str:
    """The prefix of holders without which most names are expected; the shortest such one."""
    prefixes = {""}
    for name in names:
        parts = name.split(".")[:MOST_PREFIX_PARTS]
        for i, part in enumerate(parts):
            if part not in HOLDERS:
                break
            prefixes.add(".".join(parts[: i + 1]) + ".")

    def num_expected(prefix: str) -> int:
        shorts = {_renewed(name.removeprefix(prefix)) for name in names if name.startswith(prefix)}
        return len(shorts & set(expected))

    return max(sorted(prefixes, key=len), key=num_expected)


def _renewed(name: str) -> str:
    head, _, last = name.rpartition(".")
    return f"{head}.{_OLD_NAMES[last]}" if head and last in _OLD_NAMES else name
