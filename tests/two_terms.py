"""An objective with two terms: predict every token, and the first token of a row from the mean of its embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from mlm_dist.batches.micro_batch import Corrupted, MicroBatch
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine.protocol import Engine
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.figures import Validation
from mlm_dist.spec import PhaseSpec

NUM_CLASSES = 4  # of first tokens


class Unchanged:
    """Shows rows as they are, and predicts all tokens except special ones."""

    needs_words = is_causal = False

    def __init__(self, special_ids: list[int]) -> None:
        self._special_ids = special_ids

    def __call__(
        self, input_ids: np.ndarray, epochs: np.ndarray, samples: np.ndarray, *positions_of_parts: Any
    ) -> Corrupted:
        return Corrupted(input_ids, ~np.isin(input_ids, self._special_ids))

    def most_predicted(self, num_tokens: int) -> int:
        return num_tokens


class Losses(NamedTuple):
    tokens: torch.Tensor
    rows: torch.Tensor
    correct: torch.Tensor


class TwoHeads(nn.Module):
    """A transformers model with its head for tokens, and a second head for rows that is not exported."""

    def __init__(self, model: Any, *, masked_head: bool, packed: bool) -> None:
        super().__init__()
        self._core = [MaskedLanguageModel(model, masked_head=masked_head, packed=packed)]  # not a submodule
        self.model = model
        self._no_split_modules = self._core[0]._no_split_modules
        self.head = nn.Linear(model.get_input_embeddings().embedding_dim, NUM_CLASSES)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.num_parameters = sum(parameter.numel() for parameter in self.parameters())

    def train(self, mode: bool = True) -> TwoHeads:
        self._core[0].train(mode)
        return super().train(mode)

    def forward(self, input_ids: torch.Tensor, *inputs: Any) -> Losses:
        tokens = self._core[0](input_ids, *inputs)
        is_row = rows_of(input_ids.shape, inputs[1], inputs[2])
        logits = self.head(self.model.get_input_embeddings()(input_ids).mean(1)).float()
        wrong = nn.functional.cross_entropy(logits, input_ids[:, 1] % NUM_CLASSES, reduction="none")
        return Losses(tokens.loss_sum, (wrong * is_row).sum(), tokens.correct)

    def has_unused(self) -> bool:
        return self._core[0].has_unused()


def rows_of(shape: torch.Size, positions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """[rows] 1 for rows with a predicted token, 0 for those that fill the micro-batch."""
    found = torch.zeros(shape[0], device=positions.device)
    found[positions[labels >= 0] // shape[1]] = 1.0
    return found


class TwoTerms:
    """Reconstruction of tokens, and a class of each row: counts of tokens and of rows."""

    terms = ("tokens", "rows")
    num_sums = 5

    def __init__(self, special_ids: list[int]) -> None:
        self.corruption = self.validation_corruption = Unchanged(special_ids)

    @classmethod
    def create(cls, phase: PhaseSpec, seed: int, corpus: PreparedCorpus) -> TwoTerms:
        return cls(corpus.tokenizer.all_special_ids)

    def module(self, model: Any, *, masked_head: bool, packed: bool) -> TwoHeads:
        return TwoHeads(model, masked_head=masked_head, packed=packed)

    def count(self, batch: MicroBatch) -> Mapping[str, int]:
        is_row = rows_of(batch.input_ids.shape, batch.positions, batch.labels)
        return {"tokens": batch.num_predicted, "rows": int(is_row.sum())}

    def prepared(self, engine: Engine, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        return batches

    def loss(self, model: Any, batch: MicroBatch) -> Mapping[str, torch.Tensor]:
        losses = model(*batch.inputs)
        return {"tokens": losses.tokens, "rows": losses.rows}

    def evaluate(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        losses, counts = model(*batch.inputs), self.count(batch)
        sums = [losses.tokens, losses.rows, losses.correct.sum(), counts["tokens"], counts["rows"]]
        return torch.tensor([float(value) for value in sums], dtype=torch.float64)

    def figures(self, sums: list[float]) -> Validation:
        tokens, rows, correct, num_tokens, num_rows = sums
        return Validation(tokens / num_tokens + rows / num_rows, correct / num_tokens, int(num_tokens))
