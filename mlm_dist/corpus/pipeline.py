"""The corpus pipeline: documents -> clean -> deduplicate -> split -> tokenize -> rows on disk.

Any number of processes gives the same digest and the same bytes. There is no process group: ranks meet through files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_dist.corpus import cached, digests, exported_documents, filters, summary
from mlm_dist.corpus.described_sources import are_described, is_made_with
from mlm_dist.corpus.engines import executors, slurm_jobs
from mlm_dist.corpus.engines.datatrove_engine import DatatroveEngine
from mlm_dist.corpus.engines.local import LocalEngine
from mlm_dist.corpus.engines.task_plan import FOLDER, TaskPlan
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.ownership import require_own
from mlm_dist.corpus.plan import Plan
from mlm_dist.corpus.preparation import Preparation
from mlm_dist.corpus.remote_corpora import STORED, RemoteCorpora
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.sources import SourceFiles, acquire, is_local, without_credentials
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import lock
from mlm_dist.spec import CorpusSpec
from mlm_dist.system_errors import named

logger = logging.getLogger(__name__)


def prepare(spec: CorpusSpec, rank: int = 0, world_size: int = 1, *, is_job: bool = False) -> PreparedCorpus:
    """Prepare the corpus that a spec describes, unless the cache has it. Every process calls it.

    Args:
        spec: The corpus.
        rank: This process.
        world_size: Number of processes, which divide the work.
        is_job: Whether the user wants the corpus prepared from the documents as they are now. Otherwise, with
            `corpus.rows_from` store, documents on a network are not fetched if the store has a corpus of them.

    Raises:
        CorpusError: The source cannot be used, no document is left to train on, or the tokenizer knows no token of the
            documents.
        ConfigError: A package that the engine or a filter needs is not installed, or a filter cannot run.
        ModelError: The tokenizer cannot be loaded.
        PeerError: Another process failed.
    """
    cache_dir = _cache_dir(spec)
    purpose = json.dumps([dataclasses.asdict(spec.documents), *map(dataclasses.asdict, spec.sources)], sort_keys=True)
    tokenizer = CorpusTokenizer(spec.tokenizer, spec.rows.max_length)
    meeting = Rendezvous(cache_dir / "rendezvous", rank, world_size, purpose)
    with named(cache_dir), meeting as ranks, contextlib.ExitStack() as locks:
        remote = None if spec.documents.store is None else RemoteCorpora(spec.documents.store)
        plan = Plan.agreed(ranks, lambda: _start(spec, cache_dir, tokenizer, remote, locks, is_job=is_job))
        store = ShardStore(cache_dir, plan.digest)
        if plan.inputs is not None:
            with named(store.partial):
                _run(spec, plan.inputs, store, tokenizer, ranks)
        folder = cache_dir / STORED / plan.digest if plan.is_stored else store.folder
        ranks.see([folder / "manifest.json"])  # on a slow shared disk, a new name is seen late
        corpus = PreparedCorpus(folder)
        cached.use(folder)
        if remote is not None and plan.is_stored:
            corpus = remote.opened(corpus, cache_dir / "blocks", int(spec.documents.block_cache_gb * 1e9))
        elif remote is not None:
            ranks.lead("store", lambda: remote.upload(corpus))
        if rank == 0:
            summary.warn_of_unknown(corpus.manifest)
        if spec.documents.export is not None:
            path = Path(spec.documents.export).expanduser()
            ranks.lead("export", lambda: exported_documents.write(corpus.documents(), path))
        return corpus


def _run(
    spec: CorpusSpec, inputs: CorpusInputs, store: ShardStore, tokenizer: CorpusTokenizer, ranks: Rendezvous
) -> None:
    """Prepare and publish the corpus with the engine that the spec names."""
    if spec.documents.engine == "local":
        LocalEngine(Preparation(spec, inputs, store, tokenizer), store, ranks).run()
        return

    def launch() -> None:
        plan = TaskPlan.write(spec, inputs, store)
        DatatroveEngine(Preparation(spec, inputs, store, tokenizer), plan, spec.documents.executor_options).run()

    ranks.lead("engine", launch)


def find(spec: CorpusSpec) -> tuple[PreparedCorpus | None, dict[str, int] | None]:
    """Look for the corpus that a spec describes in the cache; fetches nothing.

    Returns:
        The corpus, or None. For a source on the network it is the one that was prepared last. Also {source: bytes of
        its files}, or None if one is on the network.

    Raises:
        CorpusError: The source cannot be used.
        ModelError: The tokenizer cannot be loaded.
    """
    cache_dir = Path(spec.documents.cache_dir).expanduser().absolute()
    dependencies = digests.dependencies(spec, CorpusTokenizer(spec.tokenizer, spec.rows.max_length))
    if _are_local(spec):
        found = _acquire(spec, cache_dir)
        digest = digests.corpus_key([source.digest() for source in found], dependencies)
        sizes = {source.name: sum(size for size, _ in source.states.values()) for source in found}
        return in_cache(cache_dir, digest), sizes
    paths = [path for pattern in ("*", f"{STORED}/*") for path in cache_dir.glob(f"{pattern}/manifest.json")]
    paths.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for corpus in (PreparedCorpus(path.parent) for path in paths if path.parent.suffix != ".partial"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            manifest = corpus.manifest
            if is_made_with(manifest, dependencies) and are_described(manifest["sources"], spec.sources):
                return corpus, None
    return None, None


def in_cache(cache_dir: Path, digest: str) -> PreparedCorpus | None:
    """The corpus of a digest in a cache, also if its documents and rows are in a store; None if it is not there."""
    folders = (cache_dir / digest, cache_dir / STORED / digest)
    return next((PreparedCorpus(one) for one in folders if (one / "manifest.json").is_file()), None)


def _are_local(spec: CorpusSpec) -> bool:
    return all(is_local(source.config.source, source.source_key) for source in spec.sources)


def _acquire(spec: CorpusSpec, cache_dir: Path) -> list[SourceFiles]:
    """The files of all sources.

    Raises:
        CorpusError: A source cannot be used.
    """
    return [acquire(source.config, cache_dir, source.source_key, source.name) for source in spec.sources]


def _cache_dir(spec: CorpusSpec) -> Path:
    """The cache, which is made if it does not exist.

    Raises:
        CorpusError: It cannot be made, or other users can change it.
    """
    try:
        cache_dir = Path(spec.documents.cache_dir).expanduser().absolute()
        cache_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise CorpusError(
            f"corpus.cache_dir: cannot use {spec.documents.cache_dir} ({reason(error)}); name another folder"
        ) from None
    require_own(cache_dir, "corpus.cache_dir")
    return cache_dir


def _start(
    spec: CorpusSpec,
    cache_dir: Path,
    tokenizer: CorpusTokenizer,
    remote: RemoteCorpora | None,
    locks: contextlib.ExitStack,
    *,
    is_job: bool,
) -> Plan:
    """Fetch the source, compute the digest, and look whether the corpus is prepared. Runs on rank 0 alone."""
    dependencies, locations = digests.dependencies(spec, tokenizer), [source.config.source for source in spec.sources]
    shown = ", ".join(map(without_credentials, locations))
    if remote is not None and spec.documents.rows_from == "store" and not is_job and not _are_local(spec):
        digest = remote.find(dependencies, spec.sources)
        if digest is not None and (plan := _prepared(spec, cache_dir, digest, dependencies, remote, locks)):
            logger.info("using the corpus that was prepared of %s; its documents are not looked at", shown)
            return plan
    logger.info("looking at %s", shown)
    found = _acquire(spec, cache_dir)
    _check_export(spec, found)
    inputs = CorpusInputs(digests.corpus_key([source.digest() for source in found], dependencies), found, dependencies)
    if plan := _prepared(spec, cache_dir, inputs.digest, dependencies, remote, locks):
        return plan
    store = ShardStore(cache_dir, inputs.digest)
    executors.require_packages(spec.documents)
    filters.load(spec.documents.filters)
    if spec.documents.executor != "slurm" or not slurm_jobs.are_usable(store.partial / FOLDER):
        store.begin()
    count = sum(len(source.files) for source in found)
    logger.info("preparing %s file%s into %s", f"{count:,}", "" if count == 1 else "s", store.folder)
    return Plan(inputs.digest, inputs)


def _prepared(
    spec: CorpusSpec,
    cache_dir: Path,
    digest: str,
    dependencies: dict[str, Any],
    remote: RemoteCorpora | None,
    locks: contextlib.ExitStack,
) -> Plan | None:
    """The plan for a corpus that is prepared, here or in the store, else None; it is locked from here on."""
    path = cache_dir / f"{digest}.lock"
    try:
        held = lock(path, wait=False)
    except BlockingIOError:
        logger.info("another run is preparing the same rows; waiting for it")
        held = lock(path, wait=True)
    locks.callback(held.release)
    store = ShardStore(cache_dir, digest)
    for folder in filter(Path.is_dir, (store.folder, store.partial)):
        require_own(folder, "corpus.cache_dir")
    if store.find() is not None:
        return Plan(digest, None)
    if remote is not None and spec.documents.rows_from == "store":
        return Plan(digest, None, is_stored=True) if remote.fetch_index(cache_dir, digest, dependencies) else None
    return Plan(digest, None) if remote is not None and remote.fetch(store, dependencies) else None


def _check_export(spec: CorpusSpec, found: Sequence[SourceFiles]) -> None:
    """Refuse to overwrite a document.

    Raises:
        CorpusError: `corpus.export` is a file of a source.
    """
    if spec.documents.export is None:
        return
    path = os.path.realpath(os.path.expanduser(spec.documents.export))
    for source in found:
        is_target = source.records and any(os.path.realpath(source.root / name) == path for name in source.files)
        if is_target or path.removeprefix(os.path.join(os.path.realpath(source.root), "")) in source.files:
            raise CorpusError(
                f"corpus.export: {spec.documents.export} is a file of {source.key} and would be lost; name another file"
            )
