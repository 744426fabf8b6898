"""The specification of a run: what will happen, with every open value of the config decided.

`resolve.resolve` makes it from the config and the launch. What depends on the rows is decided once they are known, by
`resolve.complete`. Below the jobs each part takes its own section of it, or plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlm_dist.config import CorpusConfig, Duration, LoggingConfig, MaskingConfig, ModelConfig, TrackingConfig

RowMode = Literal["truncate", "chunk", "pack"]
TokenizerKind = Literal["wordpiece", "bpe", "unigram"]
Schedule = Literal["linear", "cosine", "wsd", "constant"]


@dataclass(frozen=True)
class TokenizerSpec:
    """The tokenizer.

    Args:
        path: Folder or Hub name to load it from; None to train one on the documents.
        key: The config key that names `path`, for messages.
        train_vocab_size: Tokens of a trained one.
        train_kind: Kind of a trained one.
        add_domain_tokens: Words to add; 0 for none.
    """

    path: str | None
    key: str
    train_vocab_size: int
    train_kind: TokenizerKind
    add_domain_tokens: int


@dataclass(frozen=True)
class RowsSpec:
    """How documents become rows.

    Args:
        mode: truncate, chunk or pack.
        max_length: Tokens per row, special tokens included.
    """

    mode: RowMode
    max_length: int


@dataclass(frozen=True)
class CorpusSpec:
    """Everything a prepared corpus depends on.

    Args:
        documents: The source, cleaning, deduplication and the split.
        tokenizer: The tokenizer.
        rows: How documents become rows.
        needs_word_starts: Whether the positions at which words begin are stored with the rows.
        key: The config key that names the source, for messages.
    """

    documents: CorpusConfig
    tokenizer: TokenizerSpec
    rows: RowsSpec
    needs_word_starts: bool
    key: str = "corpus.source"


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most `limit`."""
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)


@dataclass(frozen=True)
class BatchSpec:
    """How a global batch is spread: micro_size x accumulation x world_size = global_size.

    Args:
        global_size: Rows per step, over all processes.
        micro_size: Rows per process and forward pass.
        accumulation: Forward passes per step.
        world_size: Number of processes.
        initial_size: Rows of the first step; global_size if the batch does not grow.
        initial_length: Tokens of the first rows; the length of a row if rows do not grow.
        ramp_tokens: Tokens over which both grow; 0 if neither does.
    """

    global_size: int
    micro_size: int
    accumulation: int
    world_size: int
    initial_size: int
    initial_length: int
    ramp_tokens: int = 0

    def describe(self) -> str:
        """The arithmetic, for people."""
        factors = f"{self.micro_size} x {self.accumulation} x {self.world_size}"
        return f"{self.global_size} rows per step = {factors} (micro-batch x accumulation x processes)"

    def accumulation_of(self, num_rows: int) -> int:
        """Forward passes of a step of fewer rows; the last one may lack some."""
        return -(-num_rows // (self.micro_size * self.world_size))

    def with_micro_size(self, micro_size: int) -> BatchSpec:
        """The same global batch in micro-batches of another size, which divides the rows of a process."""
        rows = self.micro_size * self.accumulation
        assert rows % micro_size == 0
        return replace(self, micro_size=micro_size, accumulation=rows // micro_size)

    def halved(self) -> BatchSpec:
        """The same global batch in micro-batches of half the size, or of the next smaller size that divides."""
        rows = self.micro_size * self.accumulation
        return self.with_micro_size(largest_divisor(rows, max(1, self.micro_size // 2)))


@dataclass(frozen=True)
class OptimSpec:
    """The optimizer and the length of the run.

    Args:
        name: A name of the registry `optim.optimizers.OPTIMIZERS`.
        lr: Peak learning rate.
        layer_lr_decay: Learning rate of a layer as a fraction of that of the layer above it.
        weight_decay: Decoupled, of matrices only.
        betas: Decay rates of the moments.
        eps: Epsilon.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; None turns clipping off.
        warmup: Steps, or under 1 a fraction of all steps.
        schedule: The learning rate after warm-up.
        duration: Length of the run.
    """

    name: str
    lr: float
    layer_lr_decay: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float
    max_grad_norm: float | None
    warmup: float
    schedule: Schedule
    duration: Duration


@dataclass(frozen=True)
class ValidationSpec:
    """Validation during training.

    Args:
        every: Steps between validations; None at the start and the end only.
        patience: Validations without a lower loss after which training ends; None to train to the end.
    """

    every: int | None
    patience: int | None


@dataclass(frozen=True)
class CheckpointSpec:
    """Checkpoints.

    Args:
        every: Steps between checkpoints; None at the end only.
        keep_last: Checkpoints to keep.
        keep_best: Whether the checkpoint with the lowest validation loss is kept as well.
        resume: auto, never or a path.
    """

    every: int | None
    keep_last: int
    keep_best: bool
    resume: str

    @property
    def num_kept(self) -> int:
        """Checkpoints that stay on the disk."""
        return self.keep_last + self.keep_best


@dataclass(frozen=True)
class ExportSpec:
    """The exported model.

    Args:
        dtype: float32, bfloat16 or float16.
        checkpoint: newest, best, or the folder of a checkpoint.
        verify: Whether it is loaded in a new process and compared.
        push_to_hub: Repository to upload it to; None uploads nothing.
    """

    dtype: str
    checkpoint: str
    verify: bool
    push_to_hub: str | None


@dataclass(frozen=True)
class Length:
    """How long a run is; None while the rows are not known, and for a run whose duration is in hours.

    Args:
        steps: Number of steps.
        samples: Rows they consume; the last step may be smaller than the others.
        warmup_steps: Steps over which the learning rate rises.
    """

    steps: int | None = None
    samples: int | None = None
    warmup_steps: int | None = None


@dataclass(frozen=True)
class Spec:
    """A run.

    Args:
        output_dir: The run directory.
        seed: Random seed for order, masks, dropout and initial weights.
        objective: Name of the objective.
        launch: Processes, device, precision and sharding.
        corpus: The corpus to train on.
        replay_source: Source of rows to replay; None for none.
        replay_share: Fraction of the training rows that are replayed; 0 for none.
        second_source: A second source to validate on; None for none.
        masking: Which tokens are predicted.
        model: The encoder; `from_scratch` is decided.
        tokenizer_name: Where the tokenizer comes from, for messages.
        architecture: Its transformers configuration as far as it is known without the tokenizer of the corpus.
        shape: `engine.memory.Shape`, what the memory depends on in it.
        memory: `engine.memory.Memory`, the estimate for a step on each device.
        batch: How a global batch is spread.
        optim: The optimizer and the duration.
        length: Steps, samples and warm-up steps.
        validation: Validation during training.
        checkpoint: Checkpoints.
        export: The exported model.
        tracking: Experiment trackers.
        logging: Progress lines.
        written: The config as it was written, with defaults and without credentials, for records and the report.
    """

    output_dir: Path
    seed: int
    objective: str
    launch: Any
    corpus: CorpusSpec
    replay_source: str | None
    replay_share: float
    second_source: str | None
    masking: MaskingConfig
    model: ModelConfig
    tokenizer_name: str
    architecture: Any
    shape: Any
    memory: Any
    batch: BatchSpec
    optim: OptimSpec
    length: Length
    validation: ValidationSpec
    checkpoint: CheckpointSpec
    export: ExportSpec
    tracking: TrackingConfig
    logging: LoggingConfig
    written: Mapping[str, Any]

    @property
    def has_static_shapes(self) -> bool:
        """Whether all micro-batches have the same shape, so that nothing is compiled twice."""
        return self.model.compile != "none"

    def to_yaml(self) -> str:
        """Every value as it was decided, as YAML, without credentials."""
        import yaml

        values = {item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name != "written"}
        values["corpus"]["documents"] = dict(self.written["corpus"])
        values["replay_source"] = self.written["corpus"]["replay_source"]
        values["second_source"] = self.written["validation"]["second_source"]
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """A value in the types that YAML has."""
    if isinstance(value, Duration | Path):
        return str(value)
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_plain(one) for one in (sorted(value) if isinstance(value, frozenset) else value)]
    if hasattr(value, "to_diff_dict"):  # a transformers configuration
        return _plain(value.to_diff_dict())
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
