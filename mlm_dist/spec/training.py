"""The optimizer, validation, checkpoints and the export."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    name: str
    layer_lr_decay: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float | None


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
        phase_ends: Phases with another one behind them; the checkpoint of the last step of each is kept as well.
    """

    every: int | None
    keep_last: int
    keep_best: bool
    resume: str
    phase_ends: int = 0

    @property
    def num_kept(self) -> int:
        """Checkpoints that stay on the disk."""
        return self.keep_last + self.keep_best + self.phase_ends


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
    """

    dtype: str
    checkpoint: str
    verify: bool
    push_to_hub: str | None
    format: str = "safetensors"
    license: str | None = None
    language: tuple[str, ...] = ()
