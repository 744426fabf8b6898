"""Parts of a model that are not trained."""

from __future__ import annotations

from typing import Any

from mlm_dist.errors import ModelError
from mlm_dist.model.layers import depths


def frozen_parameters(model: Any, *, freeze_embeddings: bool, trainable_layers: int | None) -> set[str]:
    """The names of the parameters that are not trained.

    Args:
        model: A transformers model.
        freeze_embeddings: Whether the token embeddings, and an output matrix tied to them, are among them.
        trainable_layers: How many of the last layers are trained, with the head alone; None for all parameters.

    Raises:
        ModelError: The model has fewer layers.
    """
    frozen: set[str] = set()
    if freeze_embeddings:
        table = model.get_input_embeddings().weight
        frozen |= {name for name, parameter in model.named_parameters() if parameter is table}
    if trainable_layers is not None:
        depth = depths(model)
        num_layers = max(depth.values()) - 1
        if trainable_layers > num_layers:
            raise ModelError(
                f"model.trainable_layers: {trainable_layers} is more than the {num_layers} layers of the model"
            )
        frozen |= {name for name, at in depth.items() if at <= num_layers - trainable_layers}
    return frozen
