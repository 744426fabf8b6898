"""What a masked-language model predicts for the word of a cloze example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mlm_dist.evaluation.cloze import ClozeExample
from mlm_dist.model.inference import evaluating

TOP_K = 5


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one cloze example.

    Args:
        top: (text, probability) of the most likely words, the most likely first.
        probability: Probability of the right word.
        rank: Rank of the right word among `top`, from 1; None if it is not among them.
    """

    top: list[tuple[str, float]]
    probability: float
    rank: int | None


def predict(model: Any, tokenizer: Any, examples: Sequence[ClozeExample]) -> list[Prediction]:
    """The model's predictions, computed without dropout on its own device; it stays in its mode.

    A word of several tokens is predicted from left to right by beam search, each token given those before it. Its
    probability is the product of the probabilities of its tokens.

    Args:
        model: A transformers masked-language model.
        tokenizer: Its tokenizer.
        examples: The examples.
    """
    with evaluating(model):
        return [_predict(model, tokenizer, example) for example in examples]


def _predict(model: Any, tokenizer: Any, example: ClozeExample) -> Prediction:
    ids, positions = example.encode(tokenizer)
    right = [ids[position] for position in positions]
    masked = torch.tensor(ids)
    masked[positions] = tokenizer.mask_token_id
    device = next(model.parameters()).device
    beams: list[tuple[list[int], float]] = [([], 0.0)]  # tokens and the sum of their log-probabilities
    log_probability = 0.0  # of the right word
    for i, position in enumerate(positions):
        rows = masked.repeat(len(beams) + 1, 1)  # the last row holds the right word
        for row, tokens in zip(rows, [*(tokens for tokens, _ in beams), right[:i]], strict=True):
            row[positions[:i]] = torch.tensor(tokens, dtype=rows.dtype)
        logits = model(input_ids=rows.to(device)).logits[:, position]  # [rows, vocabulary]
        scores = logits.float().log_softmax(-1).cpu()
        log_probability += float(scores[-1, right[i]])
        best = scores[:-1].topk(min(TOP_K, scores.shape[1]))
        longer = [
            ([*tokens, token], total + score)
            for (tokens, total), values, indices in zip(beams, best.values.tolist(), best.indices.tolist(), strict=True)
            for score, token in zip(values, indices, strict=True)
        ]
        beams = sorted(longer, key=lambda beam: (-beam[1], beam[0]))[:TOP_K]
    words = [tokens for tokens, _ in beams]
    return Prediction(
        [(tokenizer.decode(tokens).strip(), _probability(score)) for tokens, score in beams],
        _probability(log_probability),
        words.index(right) + 1 if right in words else None,
    )


def _probability(log_probability: float) -> float:
    return round(float(torch.tensor(log_probability, dtype=torch.float64).exp()), 9)
