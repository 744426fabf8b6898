"""Packed rows on a GPU in 16 bits against fp32 on the CPU: losses and gradients; called by benchmarks/gpu.py."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np

TOLERANCES = {"loss": 0.01, "gradients": 0.06}  # nats per token; relative to the norm of all gradients
LENGTH, ROWS, VOCABULARY = 256, 8, 1000
MODELS: dict[str, dict[str, Any]] = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": LENGTH + 2},
    # Every third layer attends to all of a document, the others to 16 tokens on each side.
    "modernbert": {"local_attention": 32},
}


class PackedRows:
    """Rows of random tokens in chunks of random lengths, some filled up with padding; see `shapes.Rows`."""

    groups: np.ndarray | None = None

    def __init__(self) -> None:
        from mlm_dist.corpus.row_counts import RowCounts

        self._random = np.random.default_rng(0)
        cuts = [np.sort(self._random.choice(np.arange(1, LENGTH), size=1 + i % 7, replace=False)) for i in range(ROWS)]
        self._chunks = [np.diff([0, *one, *([LENGTH] if i % 2 else [])]) for i, one in enumerate(cuts)]
        self._tokens = self._random.integers(5, VOCABULARY, size=(ROWS, LENGTH), dtype=np.int32)
        for row, chunks in zip(self._tokens, self._chunks, strict=True):
            row[chunks.sum() :] = 0
        self.counts = RowCounts.of(*self.chunks(np.arange(ROWS)))

    def __len__(self) -> int:
        return ROWS

    def take(self, indices: np.ndarray) -> np.ndarray:
        taken: np.ndarray = self._tokens[indices]
        return taken

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = [self._chunks[int(i)] for i in indices]
        return np.concatenate(chosen), np.array([len(one) for one in chosen])

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        return np.ones((len(indices), LENGTH), bool)


def compare(scale: Any) -> dict[str, Any]:
    """{model: its differences, and the names of the attention operators that ran}."""
    return {name: _compare(scale, name, overrides) for name, overrides in MODELS.items()}


def _compare(scale: Any, name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    from mlm_dist.batches import shapes
    from mlm_dist.batches.masking import Masker
    from mlm_dist.batches.micro_batch import Samples, assemble
    from mlm_dist.config import MaskingConfig
    from mlm_dist.objectives.masked_lm import MaskedLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 4, "intermediate_size": 256}
    ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if name == "modernbert":
        ids |= {"cls_token_id": 1, "sep_token_id": 2}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(name, **sizes, **ids, **overrides))
    objective = MaskedLM(Masker(MaskingConfig(), 0, 3, (0, 1, 2), VOCABULARY))
    device = torch.device("cuda" if scale.on_gpu else "cpu")
    tried = objective.module(copy.deepcopy(model), masked_head=True, packed=True).to(device)
    reference = objective.module(model, masked_head=True, packed=True)
    rows, indices = PackedRows(), np.arange(ROWS)
    filled_to = shapes.fixed(objective.corruption, rows, ROWS)  # with empty chunks at the end
    batch = assemble(rows, objective.corruption, Samples(np.zeros_like(indices), indices), ROWS, filled_to=filled_to)
    dtype = torch.bfloat16 if scale.precision == "bf16" else torch.float16
    expected = _gradients(objective, reference, batch, torch.device("cpu"), None)
    with torch.profiler.profile() as profile:
        found = _gradients(objective, tried, batch, device, dtype)
    count = sum(objective.count(batch).values())
    difference = abs(found[0] - expected[0]) / count
    norm = torch.linalg.vector_norm(expected[1])
    relative = float(torch.linalg.vector_norm(found[1] - expected[1]) / norm)
    names = {event.key for event in profile.key_averages() if "attn" in event.key or "attention" in event.key}
    return {
        "loss_per_token": found[0] / count,
        "difference_of_loss": difference,
        "difference_of_gradients": relative,
        "operators": sorted(names)[:20],
        "agrees": difference < TOLERANCES["loss"] and relative < TOLERANCES["gradients"],
    }


def _gradients(objective: Any, module: Any, batch: Any, device: Any, dtype: Any) -> tuple[float, Any]:
    """The loss, and all gradients in one vector."""
    import torch

    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        loss = torch.stack(list(objective.loss(module, batch.to(device)).values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [
        parameter.grad.flatten().float().cpu() for parameter in module.parameters() if parameter.grad is not None
    ]
    return float(loss.detach()), torch.cat(gradients)
