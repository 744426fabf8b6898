"""The optimizer, validation, checkpoints and the export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlm_dist.errors import ConfigError


@dataclass(frozen=True)
class OptimSpec:
    """The optimizer; each phase has its learning rate.

    Args:
        name: A name of the registry `optim.OPTIMIZERS`.
        layer_lr_decay: Learning rate of a layer as a fraction of that of the layer above it.
        weight_decay: Decoupled, of matrices only.
        betas: Decay rates of the moments.
        eps: Epsilon.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; None turns clipping off.
        ema_decay: Decay of an exponential moving average of the weights; None keeps none.
    """

    name: str
    layer_lr_decay: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float | None
    ema_decay: float | None = None


@dataclass(frozen=True)
class ValidationSpec:
    """Validation during training.

    Args:
        every: Steps between validations; None at the start and the end only.
        max_rows: Rows of the validation set to use at most; None for all.
        patience: Validations without a lower loss after which training ends; None to train to the end.
    """

    every: int | None
    max_rows: int | None
    patience: int | None


@dataclass(frozen=True)
class CheckpointSpec:
    """Checkpoints.

    Args:
        every: Steps between checkpoints; None at the end only.
        keep_last: Checkpoints to keep.
        keep_best: Whether the checkpoint with the lowest validation loss is kept as well.
        resume: auto, never or a path.
        num_averaged: How many are averaged at the end, which are kept whatever a signal saves between them.
        phase_ends: Phases with another one behind them; the checkpoint of the last step of each is kept as well.
        store: Folder in an object store that the checkpoints are uploaded to; None for none.
    """

    every: int | None
    keep_last: int
    keep_best: bool
    resume: str
    num_averaged: int = 0
    phase_ends: int = 0
    store: str | None = None

    @property
    def num_kept(self) -> int:
        """Checkpoints that stay on the disk, with one that is being uploaded."""
        return self.keep_last + self.keep_best + self.phase_ends + (self.store is not None)

    def require_saved(self, average: int | Literal["ema"] | None, num_steps: int) -> None:
        """Refuse an average of more checkpoints than a run saves.

        Args:
            average: `ExportSpec.average`.
            num_steps: Steps of the whole run.

        Raises:
            ConfigError: It saves fewer.
        """
        num_saved = 1 if self.every is None else -(-num_steps // self.every)
        if isinstance(average, int) and num_saved < average:
            raise ConfigError(
                f"export.average: {average} checkpoints, but the run of {num_steps:,} steps saves {num_saved}; lower "
                f"checkpoint.every to {max(num_steps // average, 1)} or export.average"
            )


@dataclass(frozen=True)
class ExportSpec:
    """The exported model.

    Args:
        dtype: float32, bfloat16 or float16.
        checkpoint: newest, best, or the folder of a checkpoint.
        verify: Whether it is loaded in a new process and compared.
        push_to_hub: Repository to upload it to; None uploads nothing.
        format: safetensors, or onnx for an ONNX graph besides.
        license: Licence of the model; None if it is not stated.
        language: Languages of the documents; empty if they are not stated.
        average: ema for the exponential moving average of the weights, or how many checkpoints to average; None for the
            weights of one checkpoint.
    """

    dtype: str
    checkpoint: str
    verify: bool
    push_to_hub: str | None
    format: str = "safetensors"
    license: str | None = None
    language: tuple[str, ...] = ()
    average: int | Literal["ema"] | None = None

    @property
    def average_name(self) -> str | None:
        """The name of the average in records: ema or checkpoint_average; None for the weights of one checkpoint."""
        return "checkpoint_average" if isinstance(self.average, int) else self.average
