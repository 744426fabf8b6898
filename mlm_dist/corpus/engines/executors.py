"""The executors of datatrove: which classes they are, and which of their arguments a config may give."""

from __future__ import annotations

import importlib.util
import inspect
from typing import Any

from mlm_dist.config import CorpusConfig
from mlm_dist.errors import ConfigError

OPTIONS = "corpus.executor_options"
# Packages of each executor.
PACKAGES = {"local": ("datatrove",), "slurm": ("datatrove",), "ray": ("datatrove", "ray")}
# Arguments that other keys set.
KEYS = {"tasks": "corpus.tasks", "workers": "corpus.workers"}
# Arguments that would change which tasks run, in which order, or where their files are.
FIXED = {
    *("pipeline", "logging_dir", "depends", "skip_completed", "local_tasks", "local_rank_offset", "nodes_per_task"),
    *("job_id_retriever", "run_on_dependency_fail", "max_array_launch_parallel", "stagger_max_array_jobs"),
}


def require_packages(config: CorpusConfig) -> None:
    """Refuse an engine whose packages are not installed.

    Raises:
        ConfigError: Names the package and the extra.
    """
    if missing := _missing_packages(config):
        raise ConfigError(
            f"corpus.engine: datatrove with corpus.executor {config.executor} needs the package {missing[0]}; install "
            "it with: pip install 'mlm_dist[scale]'"
        )


def check(config: CorpusConfig) -> None:
    """Refuse options that the executor of a config does not have.

    Without the packages, nothing is known of them. A corpus that is prepared already does not need either.

    Raises:
        ConfigError: An option is unknown, missing or not free to choose.
    """
    if config.engine == "local" or _missing_packages(config):
        return
    parameters = inspect.signature(constructor(config.executor)).parameters
    free = [name for name in parameters if name not in FIXED and name not in KEYS]
    for name in config.executor_options:
        if name in KEYS:
            raise ConfigError(f"{OPTIONS}.{name}: set it with {KEYS[name]} instead")
        if name in parameters and name in FIXED:
            raise ConfigError(f"{OPTIONS}.{name}: is not free to choose; remove it")
        if name not in free:
            raise ConfigError(
                f"{OPTIONS}.{name}: executor {config.executor} has no such option; choose from {', '.join(free)}"
            )
    required = [name for name in free if parameters[name].default is inspect.Parameter.empty]
    if missing := [name for name in required if name not in config.executor_options]:
        raise ConfigError(f"{OPTIONS}: executor {config.executor} needs {' and '.join(missing)}; add them")


def constructor(executor: str) -> Any:
    """The class of an executor."""
    from mlm_dist.corpus.engines import datatrove_tasks

    return datatrove_tasks.EXECUTORS[executor]


def _missing_packages(config: CorpusConfig) -> list[str]:
    packages = () if config.engine == "local" else PACKAGES[config.executor]
    return [name for name in packages if importlib.util.find_spec(name) is None]
