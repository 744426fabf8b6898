"""A run: every section of its specification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from mlm_dist.config import Duration, LoggingConfig, ModelConfig, TrackingConfig, WatchdogConfig
from mlm_dist.credentials import without_credentials
from mlm_dist.spec.batch import BatchSpec
from mlm_dist.spec.corpus import CorpusSpec
from mlm_dist.spec.phase import PhaseSpec, num_steps
from mlm_dist.spec.training import CheckpointSpec, ExportSpec, OptimSpec, ValidationSpec


@dataclass(frozen=True)
class Spec:
    """A run.

    Args:
        output_dir: The run directory.
        seed: Random seed for order, masks, dropout and initial weights.
        launch: Processes, device, precision and sharding.
        model: The encoder; `from_scratch` and `compile` are decided.
        tokenizer_name: Where the tokenizer comes from, for messages.
        architecture: Its transformers configuration as far as it is known without the tokenizer of the corpus.
        shape: `engine.memory.Shape`, what the memory depends on in it.
        optim: The optimizer.
        phases: Its phases, in order; at least one.
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
    launch: Any
    corpus: CorpusSpec
    model: ModelConfig
    tokenizer_name: str
    architecture: Any
    shape: Any
    optim: OptimSpec
    phases: tuple[PhaseSpec, ...]
    validation: ValidationSpec
    checkpoint: CheckpointSpec
    export: ExportSpec
    tracking: TrackingConfig
    logging: LoggingConfig
    watchdog: WatchdogConfig
    written: Mapping[str, Any]

    @property
    def num_steps(self) -> int | None:
        """Steps of all phases; None while they are not known, and if a duration is in hours."""
        return num_steps(self.phases)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The sources that some phase trains on; empty for all of them."""
        mixes = [phase.mix for phase in self.phases]
        return tuple(dict.fromkeys(name for mix in mixes for name in mix)) if all(mixes) else ()

    @property
    def batches(self) -> list[BatchSpec]:
        """How a global batch is spread, in each phase."""
        return [phase.batch for phase in self.phases]

    @property
    def validation_micro_size(self) -> int:
        """Rows per process and forward pass of validation: at most the tokens of the first phase's micro-batch."""
        first = self.phases[0]
        return max(1, first.batch.micro_size * first.rows.max_length // self.corpus.rows.max_length)

    @property
    def memory(self) -> Any:
        """`engine.memory.Memory`: the largest estimate of the phases."""
        return max((phase.memory for phase in self.phases), key=lambda memory: memory.total)

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
