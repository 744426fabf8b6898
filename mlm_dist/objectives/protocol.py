"""What an objective is: how rows are corrupted, what is counted, the loss, and the figures of a validation.

The loop, the training step, checkpoints and the export use these methods only. Losses travel as sums with their counts:
a training step adds the counts of each term over the global batch, then divides each sum once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from mlm_dist.batches.micro_batch import Corruption, MicroBatch
from mlm_dist.engine.protocol import Engine
from mlm_dist.objectives.figures import Validation


class Objective(Protocol):
    """What a model learns.

    Attributes:
        terms: Names of the terms of its loss; the loss is the sum of the terms' means.
        corruption: How training rows are corrupted.
        validation_corruption: How rows of a validation set are corrupted, the same in every run.
        num_sums: Length of what `evaluate` returns.
    """

    @property
    def terms(self) -> tuple[str, ...]:
        """See the class."""
        ...

    @property
    def corruption(self) -> Corruption:
        """See the class."""
        ...

    @property
    def validation_corruption(self) -> Corruption:
        """See the class."""
        ...

    @property
    def num_sums(self) -> int:
        """See the class."""
        ...

    def module(self, model: Any, *, masked_head: bool, packed: bool) -> Any:
        """A `engine.protocol.LossModel`: an `nn.Module` around a transformers model, called with `MicroBatch.inputs`.

        Args:
            model: The transformers model, its attribute `model`.
            masked_head: Whether to compute logits at predicted positions only.
            packed: Whether rows hold several chunks, which must not attend to each other.
        """
        ...

    def count(self, batch: MicroBatch) -> Mapping[str, int]:
        """{term: number of things its sum is over}."""
        ...

    def prepared(self, engine: Engine, batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """The micro-batches of a step with what the loss of each needs to know of all others; collective.

        Called before the first backward pass of a step.

        Args:
            engine: The engine.
            batches: This rank's micro-batches.
        """
        ...

    def loss(self, model: Any, batch: MicroBatch) -> Mapping[str, torch.Tensor]:
        """{term: sum over the micro-batch}, scalars in fp32.

        Args:
            model: The module, as the engine has wrapped it.
            batch: A micro-batch on the model's device.
        """
        ...

    def evaluate(self, model: Any, batch: MicroBatch) -> torch.Tensor:
        """[num_sums] sums over a micro-batch, in double precision if the device has it; without gradients."""
        ...

    def figures(self, sums: list[float]) -> Validation:
        """The figures of a validation, from the sums over all micro-batches of all ranks."""
        ...
