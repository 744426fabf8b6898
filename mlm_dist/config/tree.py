"""The config of a run: one frozen tree of dataclasses, each with its own checks.

Precision, the number of processes and sharding are not here: the accelerate file alone sets them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlm_dist.config.checks import Section
from mlm_dist.config.corpus import CorpusConfig, RowsConfig, TokenizerConfig
from mlm_dist.config.learning import BatchConfig, ContrastiveConfig, MaskingConfig, ModelConfig, OptimConfig
from mlm_dist.config.output import (
    CheckpointConfig,
    ExportConfig,
    LoggingConfig,
    TrackingConfig,
    ValidationConfig,
    WatchdogConfig,
)
from mlm_dist.config.phases import phases_of
from mlm_dist.errors import ConfigError


@dataclass(frozen=True)
class Config(Section):
    """A training run. Sections can be given as dicts: `Config(corpus={"source": "docs/"}, optim={"lr": 1e-4})`.

    Args:
        output_dir: The run directory.
        seed: Random seed for order, masks, dropout and initial weights.
        objective: What is learnt: masked_lm, causal_lm (predict each token from those before it), or an objective that
            another package registers.
        phases: Parts of the run that follow each other, a list: each has a name and a duration, and may set objective,
            any key of rows, masking, contrastive and batch, lr, warmup, schedule and floor of optim, and
            freeze_embeddings, trainable_layers and rope_theta of model. What a phase does not set is that of the run.
            Weights and moments are kept from phase to phase. Without phases the run is one.
        corpus: The documents.
        tokenizer: The tokenizer.
        rows: How documents become rows.
        masking: Which tokens are predicted.
        contrastive: What is learnt from pairs of texts.
        model: The encoder.
        batch: The batch, over all processes.
        optim: The optimizer and the length of the run.
        validation: Validation.
        checkpoint: Checkpoints and resuming from them.
        export: The exported model.
        tracking: Experiment trackers.
        logging: Progress lines.
        watchdog: The end of a run that hangs.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or cannot be used; the message names the key.
    """

    output_dir: str = "runs/quickstart"
    seed: int = 0
    objective: str = "masked_lm"
    phases: list[dict] = field(default_factory=list)  # type: ignore[type-arg]  # as corpus.sources
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    rows: RowsConfig = field(default_factory=RowsConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)

    def __post_init__(self) -> None:
        given = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        if not all(isinstance(given[name], Section) for name in _SECTIONS):
            from mlm_dist.config.flags import from_dicts

            for name, value in from_dicts(given).items():
                object.__setattr__(self, name, value)
        super().__post_init__()

    def check(self) -> None:
        """Refuse values that contradict each other."""
        self.require("seed", 0 <= self.seed < 2**63, "must be from 0 to 2^63 - 1")
        self.require_text("output_dir", "must name a folder")
        self.require_place("output_dir")
        phases = phases_of(self)
        frozen = [key for phase in phases if (key := phase.freezes_embeddings) is not None]
        if self.tokenizer.add_domain_tokens is not None and len(frozen) == len(phases):
            raise ConfigError(
                f"tokenizer.add_domain_tokens and {' and '.join(frozen)} exclude each other; give one of them"
            )
        for phase in phases:
            phase.check()
        if not self.corpus.holds_out:
            for key, is_set in (
                ("validation.patience", self.validation.patience is not None),
                ("export.checkpoint: best", self.export.checkpoint == "best"),
            ):
                if is_set:
                    raise ConfigError(f"{key} needs a validation set; set corpus.validation_fraction over 0")


_SECTIONS = [name for name, kind in typing.get_type_hints(Config).items() if dataclasses.is_dataclass(kind)]


def keys(tree: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every key of the tree: {dotted key: type}."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(tree)
    for item in dataclasses.fields(tree):
        kind = hints[item.name]
        if dataclasses.is_dataclass(kind):
            found |= keys(typing.cast(type, kind), f"{prefix}{item.name}.")
        else:
            found[prefix + item.name] = kind
    return found


def value_of(config: Config, key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(getattr, key.split("."), config)


def to_dict(config: Config) -> dict[str, Any]:
    """The config as nested dicts of the types that YAML and JSON have."""
    plain = dataclasses.asdict(config)
    plain["optim"]["betas"] = list(plain["optim"]["betas"])
    return plain


def to_yaml(config: Config | Mapping[str, Any]) -> str:
    """A config, or its nested dicts, as YAML that `flags.parse` reads back to an equal `Config`."""
    import yaml

    plain = to_dict(config) if isinstance(config, Config) else dict(config)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """{dotted key: value} of nested dicts, in the types that every tracker takes; lists and None become JSON."""
    values: dict[str, bool | int | float | str] = {}
    for name, value in tree.items():
        if isinstance(value, dict) and prefix + name in _SECTIONS:
            values |= flat(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return values
