"""Rows that are pairs of a query and a passage: where both are, and which pairs cannot be each other's negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch

NUM_KEYS = 4


@dataclass(frozen=True)
class Pairs:
    """The pairs of a micro-batch.

    Args:
        spans: [pairs, 2, 2], int64: of the query and the passage of each pair, the first position in the flattened
            rows, and the one after the last.
        keys: [pairs, 4], int64: what the pair's document and its near-duplicates have in common; what only pairs of
            the headings of one document have in common, 0 for others; hashes of the query and of the passage. Pairs
            that agree in the first one but not in the second, or in one of the hashes, are not each other's negatives.
        gradient: [pairs, 2, hidden] the gradient of the loss of the global batch with respect to the vectors; None
            before it is computed, see `objectives.contrastive`.
        loss_sum: The sum of the losses of these pairs within the global batch, with `gradient`.
        random_state: State of the device's generator before the forward pass that `gradient` was computed from; None
            on the CPU, where dropout depends on the rows.
    """

    spans: torch.Tensor
    keys: torch.Tensor
    gradient: torch.Tensor | None = None
    loss_sum: torch.Tensor | None = None
    random_state: torch.Tensor | None = None

    @classmethod
    def of(cls, input_ids: np.ndarray, starts: np.ndarray, lengths: np.ndarray, groups: np.ndarray) -> Pairs:
        """The pairs of rows.

        Args:
            input_ids: [rows, length] tokens.
            starts: [2 * pairs] first position of each text in the flattened rows.
            lengths: [2 * pairs] tokens of each text.
            groups: [pairs, 2] the first two keys of each pair.
        """
        spans = np.stack([starts, starts + lengths], 1)
        flat = input_ids.reshape(-1)
        hashes = [_hash(flat[start:stop]) for start, stop in spans.tolist()]
        keys = np.concatenate([groups.astype(np.int64), np.array(hashes, np.int64).reshape(-1, 2)], 1)
        return cls(torch.from_numpy(spans.astype(np.int64).reshape(-1, 2, 2)), torch.from_numpy(keys))

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Pairs:
        """The same with all tensors changed, but for the state of a generator."""
        changed = {
            item.name: change(value)
            for item in dataclasses.fields(self)
            if isinstance(value := getattr(self, item.name), torch.Tensor) and item.name != "random_state"
        }
        return dataclasses.replace(self, **changed)


def _hash(ids: np.ndarray) -> int:
    digest = blake2b(np.ascontiguousarray(ids, np.int32).data, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
