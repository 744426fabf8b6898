"""What a model fills into blanks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mlm_dist.model.inference import evaluating
from mlm_dist.pages.blanks import Blank

NUM_FILLS = 5


@dataclass(frozen=True)
class Guess:
    """What a model makes of a blank.

    Args:
        fills: (text, probability) of the likeliest words, the likeliest first.
        probability: Of the word that stands there.
        place: Of that word among the fills, from 1; None where it is not among them.
    """

    fills: list[tuple[str, float]]
    probability: float
    place: int | None


def guess(model: Any, tokenizer: Any, blanks: Sequence[Blank]) -> list[Guess]:
    """Let a model fill blanks, on whatever device it is; its mode and its gradients stay as they are.

    A word of several tokens is filled from left to right, each token given those before it, by beam search; its
    probability is the product of theirs.

    Args:
        model: A transformers masked-language model.
        tokenizer: Its tokenizer.
        blanks: The blanks.
    """
    with evaluating(model):
        return [_guess(model, tokenizer, blank) for blank in blanks]


def _guess(model: Any, tokenizer: Any, blank: Blank) -> Guess:
    ids, places = blank.places(tokenizer)
    right = [ids[place] for place in places]
    masked = torch.tensor(ids)
    masked[places] = tokenizer.mask_token_id
    beams: list[tuple[list[int], float]] = [([], 0.0)]  # tokens and the sum of their log-probabilities
    total = 0.0
    for i, place in enumerate(places):
        rows = masked.repeat(len(beams) + 1, 1)  # the last one is filled with the word itself
        for row, tokens in zip(rows, [*(tokens for tokens, _ in beams), right[:i]], strict=True):
            row[places[:i]] = torch.tensor(tokens, dtype=rows.dtype)
        device = next(model.parameters()).device
        scores = model(input_ids=rows.to(device)).logits[:, place].float().log_softmax(-1).cpu()  # [rows, vocabulary]
        total += float(scores[-1, right[i]])
        best = scores[:-1].topk(min(NUM_FILLS, scores.shape[1]))
        longer = [
            ([*tokens, token], so_far + score)
            for (tokens, so_far), values, indices in zip(
                beams, best.values.tolist(), best.indices.tolist(), strict=True
            )
            for score, token in zip(values, indices, strict=True)
        ]
        beams = sorted(longer, key=lambda beam: (-beam[1], beam[0]))[:NUM_FILLS]
    found = [tokens for tokens, _ in beams]
    return Guess(
        [(tokenizer.decode(tokens).strip(), _probability(score)) for tokens, score in beams],
        _probability(total),
        found.index(right) + 1 if right in found else None,
    )


def _probability(log_probability: float) -> float:
    return round(float(torch.tensor(log_probability, dtype=torch.float64).exp()), 9)
