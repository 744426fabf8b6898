"""The head of a masked-language model whose checkpoint has none: its initial weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

DESCRIPTION = "with the embeddings as output matrix and the unigram log-frequencies of the training rows as bias"


def names(model: Any) -> set[str]:
    """The names of the weights and buffers of a model's head: all that do not belong to its base model.

    Args:
        model: A transformers masked-language model.
    """
    if model.base_model is model:  # an architecture without a separate base model
        output = model.get_output_embeddings()
        of_output = {id(value) for value in (() if output is None else output.state_dict(keep_vars=True).values())}
        return {name for name, value in model.state_dict(keep_vars=True).items() if id(value) in of_output}
    return {name for name in model.state_dict() if not _is_of_base(model, name)}


def initialize(model: Any, token_counts: np.ndarray | None) -> None:
    """Initialize the head of a model so that it predicts the unigram frequencies, and a little of the encoder.

    The output matrix is the input embeddings where both have the same shape, tied or not. The bias holds the
    log-frequencies of the tokens, one added to each count as in the unigram baseline. The transform in front of them
    starts as the identity, because a random one hides what the encoder says; where it maps to smaller embeddings, it
    starts as the transpose of the encoder's own map from them. Draws no random numbers.
    `benchmarks/head_initialization.py` compares it with the library's initialization.

    Args:
        model: A transformers masked-language model with its final vocabulary, in fp32 on the CPU, not wrapped yet.
        token_counts: [tokens of the tokenizer] occurrences in the training rows; None leaves the bias at zero.
    """
    embeddings, output = model.get_input_embeddings().weight, model.get_output_embeddings()
    head = [module for name, module in model.named_modules() if not _is_of_base(model, name) and module is not output]
    with torch.no_grad():
        if output is not None and output.weight is not embeddings and output.weight.shape == embeddings.shape:
            output.weight.copy_(embeddings)
        for module in head:
            if isinstance(module, nn.Linear):
                _pass_on(model, module)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        biases = _biases(model, output, len(embeddings))
        for i, bias in enumerate(biases):
            bias.zero_()
            if i == 0 and token_counts is not None:
                bias.copy_(_log_frequencies(token_counts, len(bias)))


def _is_of_base(model: Any, name: str) -> bool:
    return name == model.base_model_prefix or name.startswith(f"{model.base_model_prefix}.")


def _pass_on(model: Any, layer: nn.Linear) -> None:
    """Make a layer of the head pass on what it gets; one with another kind of shape is left as it is."""
    size_out, size_in = layer.weight.shape
    if size_out == size_in:
        layer.weight.copy_(torch.eye(size_in))
    else:
        inverse = (one for one in model.base_model.modules() if isinstance(one, nn.Linear))
        widening = next((one for one in inverse if one.weight.shape == (size_in, size_out)), None)
        if size_out > size_in or widening is None:
            return
        layer.weight.copy_(widening.weight.T)
    if layer.bias is not None:
        layer.bias.zero_()


def _biases(model: Any, output: Any, vocab_size: int) -> list[torch.Tensor]:
    """The head's vectors with a value for each token, that of the output layer first; tied ones once."""
    own = [output.bias] if getattr(output, "bias", None) is not None else []
    others = [
        parameter
        for name, parameter in model.named_parameters()
        if not _is_of_base(model, name) and parameter.shape == (vocab_size,)
    ]
    return list({id(bias): bias for bias in (*own, *others)}.values())


def _log_frequencies(token_counts: np.ndarray, vocab_size: int) -> torch.Tensor:
    """[vocab_size] log-frequencies; rows of the vocabulary without a token count as tokens that do not occur."""
    counts = np.zeros(vocab_size)
    counts[: min(len(token_counts), vocab_size)] = token_counts[:vocab_size]
    return torch.from_numpy(np.log(counts + 1.0) - math.log(float(counts.sum()) + vocab_size)).float()
