"""The validation loss of any model, measured by one function: in fp32, with masks that are always the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def masked_lm(corpus: Any, seed: int = 0) -> Any:
    """The objective for the tokenizer of a corpus: its training rows have 15% of the tokens masked, by a seed."""
    from mlm_dist.config import MaskingConfig
    from mlm_dist.objectives.masked_lm import MaskedLM

    return MaskedLM.with_masks(MaskingConfig(probability=0.15), seed, corpus)


def load(folder: Path) -> Any:
    """The module of a saved model, in fp32."""
    import torch
    from transformers import AutoModelForMaskedLM

    from mlm_dist.model.masked_lm import MaskedLanguageModel

    return MaskedLanguageModel(AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32))


def validate(objective: Any, module: Any, batches: Iterable[Any]) -> Any:
    """The figures of a module on batches."""
    import torch

    module.eval()
    with torch.no_grad():
        totals = torch.zeros(objective.num_sums, dtype=torch.float64)
        for batch in batches:
            totals += objective.evaluate(module, batch)
    module.train()
    return objective.figures(totals.tolist())
