"""A model with its weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mlm_dist.config import ModelConfig
from mlm_dist.errors import ModelError, reason
from mlm_dist.model import positions
from mlm_dist.model.architecture import starts_from_scratch
from mlm_dist.model.growth import grow
from mlm_dist.model.layers import depths
from mlm_dist.model.new_tokens import start_from_pieces


def build(
    model: ModelConfig,
    architecture: Any,
    seed: int,
    domain_tokens: Mapping[int, Sequence[int]] | None = None,
    token_sources: Sequence[Sequence[int]] | None = None,
) -> Any:
    """A transformers masked-language model in fp32 on the CPU; weights from scratch depend on the seed alone.

    With `model.freeze_embeddings` the token embeddings, and an output matrix tied to them, need no gradients; with
    `model.trainable_layers` those of the layers below, too.

    Args:
        model: The model.
        architecture: Its transformers configuration, see `architecture.architecture`.
        seed: The run's seed.
        domain_tokens: {id: ids of its pieces} of tokens that start as the mean of their pieces, if a checkpoint is
            loaded.
        token_sources: For each token, the tokens of `model.init_from` that it starts from; needed with `init_from`.

    Raises:
        ModelError: There are fewer layers than `model.trainable_layers`, the model cannot grow from `init_from`, or
            the weights of the checkpoint cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    torch.manual_seed(seed)
    if model.init_from is not None:
        assert token_sources is not None
        with _quiet():
            own = AutoConfig.from_pretrained(os.path.expanduser(model.init_from), trust_remote_code=False)
        source = _load(model.init_from, own, {}, "model.init_from")
        built = AutoModelForMaskedLM.from_config(architecture, dtype=torch.float32)
        grow(built, source, model.init_from, token_sources)
    elif starts_from_scratch(model):
        built = AutoModelForMaskedLM.from_config(architecture, dtype=torch.float32)
    else:
        built = _load(model.name_or_path, architecture, domain_tokens or {})
    built.tie_weights()
    if model.freeze_embeddings:
        built.get_input_embeddings().weight.requires_grad_(False)
    if model.trainable_layers is not None:
        _freeze_below(built, model.trainable_layers)
    return built


def _freeze_below(model: Any, num_trained: int) -> None:
    """Train the last layers and the head only."""
    depth = depths(model)
    num_layers = max(depth.values()) - 1
    if num_trained > num_layers:
        raise ModelError(f"model.trainable_layers: {num_trained} is more than the {num_layers} layers of the model")
    for name, parameter in model.named_parameters():
        if depth[name] <= num_layers - num_trained:
            parameter.requires_grad_(False)


def _load(
    name: str, architecture: Any, domain_tokens: Mapping[int, Sequence[int]], key: str = "model.name_or_path"
) -> Any:
    """A checkpoint with the vocabulary and the positions of the configuration."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    path = os.path.expanduser(name)
    with _quiet():
        saved, as_saved = AutoConfig.from_pretrained(path, trust_remote_code=False), copy.deepcopy(architecture)
        as_saved.vocab_size = saved.vocab_size
        needs_stretching = positions.needs_stretching(saved, architecture)
        if needs_stretching:
            as_saved.max_position_embeddings = saved.max_position_embeddings
        try:
            model = AutoModelForMaskedLM.from_pretrained(
                path, config=as_saved, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        except Exception as error:  # missing or broken weights, pickles, shapes that differ
            raise ModelError(f"{key}: the weights of {name} cannot be loaded ({reason(error)})") from None
    if needs_stretching:
        model = positions.stretched(model, architecture.max_position_embeddings)
    if architecture.vocab_size != model.config.vocab_size:
        model.resize_token_embeddings(architecture.vocab_size, mean_resizing=not domain_tokens)
    start_from_pieces(model, domain_tokens)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what transformers logs about the checkpoint, and its progress bar."""
    from transformers import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
