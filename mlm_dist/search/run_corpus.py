"""The prepared corpus of a run, which its search needs in the cache."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import cached, pipeline
from mlm_dist.corpus.remote_corpora import STORED, RemoteCorpora
from mlm_dist.corpus.store import FORMAT, PreparedCorpus
from mlm_dist.errors import CorpusError, UserError
from mlm_dist.pages.record import read_record
from mlm_dist.run_dir import RunDir
from mlm_dist.spec import CorpusSpec

logger = logging.getLogger(__name__)


def run_corpus(run_dir: RunDir, config: CorpusConfig, spec: Callable[[], CorpusSpec]) -> PreparedCorpus:
    """The corpus that a run was trained on, else the one that its config describes now; from the cache.

    Its documents may be in `corpus.store`, from where they are read.

    Args:
        run_dir: The run directory.
        config: Its section `corpus`.
        spec: Gives what the config describes now.

    Raises:
        CorpusError: The cache has neither.
        ConfigError: The store cannot be read.
    """
    cache_dir = Path(config.cache_dir).expanduser().absolute()
    digest = str(read_record(run_dir.path).start.get("corpus", ""))
    recorded = pipeline.in_cache(cache_dir, digest) if re.fullmatch(r"[0-9a-f]+", digest) else None
    found = recorded if recorded is not None and _is_readable(recorded) else None
    if found is None:
        found = _prepared_again(spec)
        if found is None:
            is_old = recorded is not None
            problem = "was prepared by another version, or is damaged" if is_old else f"is not in {cache_dir}"
            raise CorpusError(
                f"corpus.cache_dir: the corpus of {run_dir.path} {problem}; prepare it again with mlm-dist prepare "
                f"--config {shlex.quote(str(run_dir.config))}"
            )
        logger.info("searching in %s, as the corpus of the run is not in the cache any more", found.folder)
    cached.use(found.folder)
    if found.folder.parent.name != STORED:
        return found
    if config.store is None:
        raise CorpusError(
            f"corpus.store: the documents of {run_dir.path} are in a store that its config does not name; prepare it "
            f"again with mlm-dist prepare --config {shlex.quote(str(run_dir.config))}"
        )
    remote = RemoteCorpora(config.store)
    return remote.opened(found, cache_dir / "blocks", int(config.block_cache_gb * 1e9))


def _is_readable(corpus: PreparedCorpus) -> bool:
    """Whether this version reads a corpus."""
    try:
        return bool(corpus.manifest["format"] == FORMAT)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _prepared_again(spec: Callable[[], CorpusSpec]) -> PreparedCorpus | None:
    """The corpus that is described now; None if it is not in the cache, or its documents are gone."""
    try:
        found, _ = pipeline.find(spec())
    except UserError as error:
        logger.info("the documents cannot be compared with those of prepared corpora: %s", error)
        return None
    return None if found is None or not _is_readable(found) else found
