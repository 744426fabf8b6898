"""A checkpoint's weights in a masked-language model: every weight of either is used, reported or refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mlm_dist.errors import ModelError, reason
from mlm_dist.model import checkpoint_files, lm_head
from mlm_dist.model.checkpoint_names import plain_names
from mlm_dist.pretrained import Pretrained

MOST_NAMES = 3  # in a message
# Buffers that a model computes itself, which older checkpoints store.
_COMPUTED = re.compile(r"(^|[._])(position_ids|token_type_ids|inv_freq)$")
_POOLER = re.compile(r"(^|\.)pooler\.")  # what a masked-language model does not use

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A model with the weights of a checkpoint.

    Args:
        model: The transformers model, in fp32 on the CPU.
        has_head: Whether the checkpoint has the masked-LM head; if not, the head is the library's random one.
    """

    model: Any
    has_head: bool


def load(pretrained: Pretrained, config: Any, saved: Any) -> Loaded:
    """Load a checkpoint into the masked-language model of a configuration.

    The log names what was removed from the names of weights, what is not used, and a head that is missing.

    Args:
        pretrained: The checkpoint.
        config: The configuration of the model, with the vocabulary and the positions of the checkpoint.
        saved: The checkpoint's own configuration; where `config` differs, the user asked for it.

    Raises:
        ModelError: The weights cannot be read, encoder weights are missing or have another shape, or weights hold NaN
            or infinity.
    """
    stored = checkpoint_files.read(pretrained)
    names, removed = plain_names(stored, on_meta(config))
    if removed and not pretrained.is_run_checkpoint:  # mlm_dist holds its model as `model`, too
        what = ", ".join(removed)
        logger.info("%s: removed from the names of the weights of %s: %s", pretrained.key, pretrained.name, what)
    weights = {name: stored[original] for original, name in names.items()}
    try:
        model, info = _from_weights(config, weights)
    except Exception as error:  # the library raises many kinds, such as for weights that cannot be converted
        raise ModelError(
            f"model.name_or_path: the weights of {pretrained.name} cannot be loaded ({reason(error)})"
        ) from None
    head = lm_head.names(model)
    account = _Account(pretrained, model, info, on_meta(saved), head)
    account.refuse_other_shapes()
    account.refuse_missing()
    account.report_unused(weights)
    _refuse_not_finite(pretrained.name, model)
    return Loaded(model, not account.missing_head)


def on_meta(config: Any) -> Any:
    """The masked-language model of a configuration without memory for its weights."""
    from transformers import AutoModelForMaskedLM

    with torch.device("meta"):
        return AutoModelForMaskedLM.from_config(config)


def _from_weights(config: Any, weights: Mapping[str, torch.Tensor]) -> tuple[Any, dict[str, Any]]:
    """transformers' `from_pretrained` on weights in memory, and its loading info."""
    kind = type(on_meta(config))
    with _quiet():
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model.config.name_or_path = ""
    for parameter in model.parameters():
        # Stored tensors can be views of one file, or of each other.
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return model, info


class _Account:
    """What a loaded model lacks, and what it did not take.

    Args:
        pretrained: The checkpoint, for messages.
        model: The loaded model.
        info: The loading info of transformers.
        as_saved: The model of the checkpoint's own configuration.
        head: Names of the head's weights.
    """

    def __init__(
        self, pretrained: Pretrained, model: Any, info: Mapping[str, Any], as_saved: Any, head: set[str]
    ) -> None:
        self._name, self._key, self._model, self._info = pretrained.name, pretrained.key, model, info
        self._saved_shapes = {name: tuple(value.shape) for name, value in as_saved.state_dict().items()}
        missing = sorted(name for name in info["missing_keys"] if not _COMPUTED.search(name))
        self.missing_head = [name for name in missing if name in head]
        self._missing = [name for name in missing if name not in head and not _POOLER.search(name)]

    def refuse_other_shapes(self) -> None:
        """Refuse weights of another shape, and say whether the config or the checkpoint is the cause."""
        other = sorted(
            (name, tuple(found), tuple(wanted))
            for name, found, wanted in self._info["mismatched_keys"]
            if not _COMPUTED.search(name)
        )
        if not other:
            return
        name, found, wanted = other[0]
        listed = f"{listing([name for name, _, _ in other])}; the first is {list(found)}, not {list(wanted)}"
        if self._saved_shapes.get(name) == found:
            raise ModelError(
                f"model.overrides: they give {len(other)} weights of {self._name} another shape ({listed}); remove "
                "them, or start from random weights with --model.from_scratch true"
            )
        raise ModelError(
            f"model.name_or_path: {len(other)} weights of {self._name} have another shape than its config.json says "
            f"({listed}); use the config.json that belongs to the weights"
        )

    def refuse_missing(self) -> None:
        """Refuse missing encoder weights, and say whether the config or the checkpoint is the cause."""
        if not self._missing:
            return
        count = f"{len(self._missing)} of {len(self._model.state_dict())} weights"
        asked = [name for name in self._missing if name not in self._saved_shapes]
        if asked == self._missing:
            raise ModelError(
                f"model.overrides: they ask for {count} that {self._name} does not have ({listing(asked)}); remove "
                "them, or start from random weights with --model.from_scratch true"
            )
        unused = sorted(name for name in self._info["unexpected_keys"] if not _COMPUTED.search(name))
        instead = f"; it has {listing(unused)} instead" if unused else ""
        raise ModelError(
            f"model.name_or_path: {self._name} lacks {count} of its {self._model.config.model_type} model "
            f"({listing(self._missing)}){instead}; use the whole checkpoint, with the config.json that belongs to it"
        )

    def report_unused(self, weights: Iterable[str]) -> None:
        """Log the weights of the checkpoint that the model does not use."""
        ignored = self._model._keys_to_ignore_on_load_unexpected or []
        silently = {name for name in weights if any(re.search(pattern, name) for pattern in ignored)}
        mine, prefix = set(self._model.state_dict()), f"{self._model.base_model_prefix}."
        unused = {name for name in {*self._info["unexpected_keys"], *silently} - mine if not _COMPUTED.search(name)}
        full = {name: name if name.startswith(prefix) else prefix + name for name in unused}
        asked = sorted(name for name in unused if {name, full[name]} & set(self._saved_shapes))
        shapes = {re.sub(r"\d+", "N", name) for name in mine}
        layers = sorted(name for name in unused - {*asked} if re.sub(r"\d+", "N", full[name]) in shapes)
        rest = sorted(unused - {*asked, *layers})
        self._log(logger.info, "as model.overrides asked for, %s of %s are not used (%s)", asked)
        self._log(logger.warning, "%s of %s are not used, because its config.json has fewer layers (%s)", layers)
        self._log(logger.info, "%s of %s are not part of a masked-language model and not used (%s)", rest)

    def _log(self, log: Callable[..., None], line: str, names: Sequence[str]) -> None:
        if names:
            log(f"{self._key}: {line}", _plural(len(names)), self._name, listing(names))


def listing(names: Sequence[str]) -> str:
    """The first names, for messages."""
    return ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")


def _plural(count: int) -> str:
    return "1 weight" if count == 1 else f"{count} weights"


def _refuse_not_finite(name: str, model: Any) -> None:
    bad = [one for one, parameter in model.named_parameters() if not bool(torch.isfinite(parameter).all())]
    if bad:
        raise ModelError(
            f"model.name_or_path: {_plural(len(bad))} of {name} hold NaN or infinity ({listing(bad)}); use an earlier "
            "checkpoint of that model"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers logs about the checkpoint, and its progress bar."""
    from transformers import logging as theirs

    verbosity = theirs.get_verbosity()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
