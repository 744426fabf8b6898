"""Train BERT-like encoders with the masked-language-model objective on your own documents.

    from mlm_dist import Config, train

    result = train.run(Config(corpus={"source": "docs/"}))

The jobs are modules with a function `run(config)`: `plan`, `prepare`, `train`, `validate`, `export` and `report`.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # a library prints nothing unless logging is configured

if TYPE_CHECKING:
    from mlm_dist import export, plan, prepare, report, train, validate
    from mlm_dist.config import Config
    from mlm_dist.training.callbacks import Callback

__all__ = ["Callback", "Config", "export", "plan", "prepare", "report", "train", "validate"]


def __getattr__(name: str) -> Any:
    """Import jobs and classes when they are first used, so that the package itself imports nothing heavy."""
    if name == "Config":
        return importlib.import_module("mlm_dist.config").Config
    if name == "Callback":
        return importlib.import_module("mlm_dist.training.callbacks").Callback
    if name in __all__:
        return importlib.import_module(f"mlm_dist.{name}")
    raise AttributeError(f"module 'mlm_dist' has no attribute {name!r}")
