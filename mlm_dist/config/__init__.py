"""The config of a run, its sections, and how it is read from YAML files and flags."""

from mlm_dist.config.corpus import CorpusConfig, RowsConfig, TokenizerConfig
from mlm_dist.config.duration import Duration
from mlm_dist.config.flags import parse, parse_of_run
from mlm_dist.config.learning import BatchConfig, ContrastiveConfig, MaskingConfig, ModelConfig, OptimConfig
from mlm_dist.config.output import (
    CheckpointConfig,
    ExportConfig,
    LoggingConfig,
    TrackingConfig,
    ValidationConfig,
    WatchdogConfig,
)
from mlm_dist.config.search_model import parse_search_model
from mlm_dist.config.source import SourceConfig
from mlm_dist.config.tree import Config, flat, keys, to_dict, to_yaml, value_of

__all__ = [
    "BatchConfig",
    "CheckpointConfig",
    "Config",
    "ContrastiveConfig",
    "CorpusConfig",
    "Duration",
    "ExportConfig",
    "LoggingConfig",
    "MaskingConfig",
    "ModelConfig",
    "OptimConfig",
    "RowsConfig",
    "SourceConfig",
    "TokenizerConfig",
    "TrackingConfig",
    "ValidationConfig",
    "WatchdogConfig",
    "flat",
    "keys",
    "parse",
    "parse_of_run",
    "parse_search_model",
    "to_dict",
    "to_yaml",
    "value_of",
]
