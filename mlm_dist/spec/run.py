"""A run: every section of its specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from mlm_dist.config import Duration, LoggingConfig, MaskingConfig, ModelConfig, TrackingConfig, WatchdogConfig
from mlm_dist.credentials import without_credentials
from mlm_dist.spec.batch import BatchSpec
from mlm_dist.spec.corpus import CorpusSpec
from mlm_dist.spec.training import CheckpointSpec, ExportSpec, Length, OptimSpec, ValidationSpec


@dataclass(frozen=True)
class Spec:
    """A run.

    Args:
        output_dir: The run directory.
        seed: Random seed for order, masks, dropout and initial weights.
        objective: Name of the objective.
        launch: Processes, device, precision and sharding.
        corpus: The corpus to train on.
        mix: {source: share} of the training rows; empty to shuffle the rows of all sources together.
        masking: Which tokens are predicted.
        model: The encoder; `from_scratch` and `compile` are decided.
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
        watchdog: The end of a run that hangs.
        written: The config as it was written, with defaults and without credentials, for records and the report.
    """

    output_dir: Path
    seed: int
    objective: str
    launch: Any
    corpus: CorpusSpec
    mix: Mapping[str, float]
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
    watchdog: WatchdogConfig
    written: Mapping[str, Any]

    @property
    def has_static_shapes(self) -> bool:
        """Whether all micro-batches have one shape: nothing is compiled twice, and a GPU's memory keeps its blocks."""
        return self.model.compile != "none" or self.launch.device.kind != "cpu"

    def to_yaml(self) -> str:
        """`to_dict` as YAML."""
        import yaml

        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def to_dict(self) -> dict[str, Any]:
        """Every value as it was decided, in the types that YAML has, without credentials."""
        values: dict[str, Any] = {
            item.name: _plain(getattr(self, item.name)) for item in fields(self) if item.name != "written"
        }
        values["corpus"].pop("sources")  # they are a part of the documents
        values["corpus"]["documents"] = dict(self.written["corpus"])
        return values


def _plain(value: Any) -> Any:
    """A value in the types that YAML has, its texts without credentials."""
    if hasattr(value, "to_dict"):  # a transformers configuration; some do not give their fields one by one
        return _plain(value.to_dict())
    if is_dataclass(value) and not isinstance(value, Duration):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple | frozenset):
        return [_plain(one) for one in (sorted(value) if isinstance(value, frozenset) else value)]
    return value if value is None or isinstance(value, bool | int | float) else without_credentials(str(value))
