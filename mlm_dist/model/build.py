"""A model with its weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlm_dist.config import ModelConfig
from mlm_dist.model import checkpoint_weights, lm_head, positions, saved_config
from mlm_dist.model.architecture import starts_from_scratch
from mlm_dist.model.frozen import frozen_parameters
from mlm_dist.model.growable import KEY
from mlm_dist.model.growth import grow
from mlm_dist.model.new_tokens import start_from_pieces
from mlm_dist.model.plain_copy import plain_copy
from mlm_dist.pretrained import Pretrained, locate
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)

Head = Literal["random", "checkpoint", "initialized"]


@dataclass(frozen=True)
class InitialModel:
    """A model before its first step.

    Args:
        model: The transformers model, in fp32 on the CPU.
        head: Where the weights of its head come from: random with those of the encoder, the checkpoint, or
            `lm_head.initialize` because the checkpoint has no head.
    """

    model: Any
    head: Head


def build(
    model: ModelConfig,
    architecture: Any,
    seed: int,
    domain_tokens: Mapping[int, Sequence[int]] | None = None,
    token_counts: np.ndarray | None = None,
    token_sources: Sequence[Sequence[int]] | None = None,
) -> InitialModel:
    """A transformers masked-language model in fp32 on the CPU; weights from scratch depend on the seed alone.

    With `model.freeze_embeddings` the token embeddings, and an output matrix tied to them, need no gradients; with
    `model.trainable_layers` those of the layers below, too.

    Args:
        model: The model.
        architecture: Its transformers configuration, see `architecture.architecture`.
        seed: The run's seed.
        domain_tokens: {id: ids of its pieces} of tokens that start as the mean of their pieces, if a checkpoint is
            loaded.
        token_counts: [vocabulary] occurrences of each token in the training rows, for the head of a checkpoint that has
            none; None if they are not known.
        token_sources: For each token, the tokens of `model.init_from` that it starts from; needed with `init_from`.

    Raises:
        ModelError: The weights of the checkpoint cannot be loaded or do not fit the architecture, the model cannot grow
            from `init_from`, or it has fewer layers than `model.trainable_layers`.
    """
    import torch
    from transformers import AutoModelForMaskedLM

    torch.manual_seed(seed)
    if model.init_from is not None:
        assert token_sources is not None
        start = _grown(model.init_from, architecture, token_sources, token_counts)
    elif starts_from_scratch(model):
        start = InitialModel(AutoModelForMaskedLM.from_config(architecture, dtype=torch.float32), "random")
    else:
        start = _load(model, architecture, domain_tokens or {}, token_counts)
    start.model.tie_weights()
    freeze, layers = model.freeze_embeddings, model.trainable_layers
    frozen = frozen_parameters(start.model, freeze_embeddings=freeze, trainable_layers=layers)
    for name, parameter in start.model.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    return start


def _grown(
    name: str, architecture: Any, token_sources: Sequence[Sequence[int]], token_counts: np.ndarray | None
) -> InitialModel:
    """A model of the configuration that grew from a smaller checkpoint, or one with another tokenizer."""
    import torch
    from transformers import AutoModelForMaskedLM

    pretrained = locate(name, KEY)
    with pretrained.named():
        saved = saved_config.read(pretrained)
        with stage("loading model", leaves_after=2):
            loaded = checkpoint_weights.load(pretrained, saved, saved)
    built = AutoModelForMaskedLM.from_config(architecture, dtype=torch.float32)
    grow(built, loaded.model, name, token_sources)
    return InitialModel(built, "checkpoint") if loaded.has_head else _with_head(built, pretrained, token_counts)


def _load(
    model: ModelConfig, architecture: Any, domain_tokens: Mapping[int, Sequence[int]], token_counts: np.ndarray | None
) -> InitialModel:
    """A checkpoint with the vocabulary and the positions of the configuration."""
    pretrained = locate(model.name_or_path, "model.name_or_path", model.revision)
    if pretrained.describe() != model.name_or_path:
        logger.info("model.name_or_path: taking the weights of %s", pretrained.describe())
    saved, as_saved = saved_config.read(pretrained), copy.deepcopy(architecture)
    as_saved.vocab_size = saved.vocab_size
    needs_stretching = positions.needs_stretching(saved, architecture)
    if needs_stretching:
        as_saved.max_position_embeddings = saved.max_position_embeddings
    with stage("loading model", leaves_after=2):
        loaded = checkpoint_weights.load(pretrained, as_saved, saved)
    built = loaded.model
    if needs_stretching:
        built = positions.stretched(built, architecture.max_position_embeddings)
    if architecture.vocab_size != built.config.vocab_size:
        built.resize_token_embeddings(architecture.vocab_size, mean_resizing=not domain_tokens)
        built = plain_copy(built)
    start_from_pieces(built, domain_tokens)
    if loaded.has_head:
        return InitialModel(built, "checkpoint")
    return _with_head(built, pretrained, token_counts)


def _with_head(model: Any, pretrained: Pretrained, token_counts: np.ndarray | None) -> InitialModel:
    """A model whose checkpoint has no head."""
    model.tie_weights()
    lm_head.initialize(model, token_counts)
    logger.info("%s: %s has no masked-LM head; it starts %s", pretrained.key, pretrained.name, lm_head.DESCRIPTION)
    return InitialModel(model, "initialized")
