"""Records of a run that are written before its first step."""

from __future__ import annotations

import logging
from pathlib import Path

from mlm_dist.config import to_yaml
from mlm_dist.corpora import Corpora
from mlm_dist.corpus import summary
from mlm_dist.engine.protocol import Engine
from mlm_dist.files import write_bytes
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import Spec
from mlm_dist.spec.settings import settings
from mlm_dist.terminal.console import text_of
from mlm_dist.training import watchdog

logger = logging.getLogger(__name__)


def begin(run_dir: RunDir, resume_from: Path | None, spec: Spec) -> None:
    """Archive what does not belong to the run, and write config.yaml; on rank 0.

    A run that begins from a checkpoint of another one takes over its metrics, so that curves are whole.
    """
    if archive := run_dir.archive(resume_from):
        logger.info("moved an earlier run to %s", archive)
    run_dir.clean()
    write_bytes(run_dir.config, to_yaml(spec.written).encode())
    if resume_from is not None and not run_dir.metrics.exists():
        origin = RunDir(resume_from.resolve().parent.parent)
        if origin.metrics.is_file():
            write_bytes(run_dir.metrics, origin.metrics.read_bytes())


def write_records(run_dir: RunDir, spec: Spec, corpora: Corpora, engine: Engine, step: int) -> None:
    """Write resolved.yaml, start the trackers, and log what the corpus is; on rank 0."""
    watchdog.archive(run_dir.logs)
    write_bytes(run_dir.resolved, spec.to_yaml().encode())
    decided = settings(spec.written, spec.to_dict())
    engine.start_trackers(spec.tracking, decided, run_dir.path.resolve().name, str(run_dir.path), step)
    logger.info(text_of(summary.table(corpora.main.manifest, str(corpora.main.folder))))
