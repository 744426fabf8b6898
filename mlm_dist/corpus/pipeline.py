"""The corpus pipeline: documents -> clean -> deduplicate -> split -> tokenize -> rows on disk.

Any number of processes gives the same digest and the same bytes. There is no process group: ranks meet through files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlm_dist.corpus import cached, digests, exported_documents, filters, summary
from mlm_dist.corpus.engines import executors, slurm_jobs
from mlm_dist.corpus.engines.datatrove_engine import DatatroveEngine
from mlm_dist.corpus.engines.local import LocalEngine
from mlm_dist.corpus.engines.task_plan import FOLDER, TaskPlan
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.ownership import require_own
from mlm_dist.corpus.plan import Plan
from mlm_dist.corpus.preparation import Preparation
from mlm_dist.corpus.remote_corpora import RemoteCorpora
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.shard_store import ShardStore
from mlm_dist.corpus.sources import SourceFiles, acquire, is_local, source_keys, without_credentials
from mlm_dist.corpus.store import FORMAT, PreparedCorpus
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import lock
from mlm_dist.spec import CorpusSpec, SourceSpec
from mlm_dist.system_errors import named

logger = logging.getLogger(__name__)


def prepare(spec: CorpusSpec, rank: int = 0, world_size: int = 1) -> PreparedCorpus:
    """Prepare the corpus that a spec describes, unless the cache has it. Every process calls it.

    Args:
        spec: The corpus.
        rank: This process.
        world_size: Number of processes, which divide the work.

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
        plan = Plan.agreed(ranks, lambda: _start(spec, cache_dir, tokenizer, remote, locks))
        store = ShardStore(cache_dir, plan.digest)
        if plan.inputs is not None:
            with named(store.partial):
                _run(spec, plan.inputs, store, tokenizer, ranks)
        ranks.see([store.folder / "manifest.json"])  # on a slow shared disk, a new name is seen late
        corpus = PreparedCorpus(store.folder)
        cached.use(store.folder)
        if remote is not None:
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
    if all(is_local(source.config.source, source.source_key) for source in spec.sources):
        found = _acquire(spec, cache_dir)
        folder = cache_dir / digests.corpus_key([source.digest() for source in found], dependencies)
        sizes = {source.name: sum(size for size, _ in source.states.values()) for source in found}
        return (PreparedCorpus(folder) if (folder / "manifest.json").is_file() else None), sizes
    paths = sorted(cache_dir.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for corpus in (PreparedCorpus(path.parent) for path in paths if path.parent.suffix != ".partial"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            manifest = corpus.manifest
            is_alike = manifest["format"] == FORMAT and manifest["config"] == json.loads(json.dumps(dependencies))
            if is_alike and _are_described(manifest["sources"], spec.sources):
                return corpus, None
    return None, None


def _acquire(spec: CorpusSpec, cache_dir: Path) -> list[SourceFiles]:
    """The files of all sources.

    Raises:
        CorpusError: A source cannot be used.
    """
    return [acquire(source.config, cache_dir, source.source_key, source.name) for source in spec.sources]


def _are_described(described: Sequence[dict[str, Any]], sources: Sequence[SourceSpec]) -> bool:
    """Whether a manifest's sources have the addresses, settings and versions of packages of these."""
    if len(described) != len(sources):
        return False
    for one, source in zip(described, sources, strict=True):
        settings, config = one["settings"], source.config
        expected = (
            source.name,
            config.clean,
            config.text,
            config.encoding,
            config.separator,
            config.split,
            config.group,
        )
        names = ("name", "clean", "text", "encoding", "separator", "split", "group")
        if tuple(settings[key] for key in names) != expected or settings["options"] != source_keys.options(config):
            return False
        if one["location"] != without_credentials(config.source):
            return False
        if any(importlib.metadata.version(name) != version for name, version in settings["versions"].items()):
            return False
    return True


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
) -> Plan:
    """Fetch the source, compute the digest, and look whether the corpus is prepared. Runs on rank 0 alone."""
    logger.info("looking at %s", ", ".join(without_credentials(source.config.source) for source in spec.sources))
    found = _acquire(spec, cache_dir)
    _check_export(spec, found)
    dependencies = digests.dependencies(spec, tokenizer)
    inputs = CorpusInputs(digests.corpus_key([source.digest() for source in found], dependencies), found, dependencies)
    path = cache_dir / f"{inputs.digest}.lock"
    try:
        held = lock(path, wait=False)
    except BlockingIOError:
        logger.info("another run is preparing the same rows; waiting for it")
        held = lock(path, wait=True)
    locks.callback(held.release)
    store = ShardStore(cache_dir, inputs.digest)
    for folder in filter(Path.is_dir, (store.folder, store.partial)):
        require_own(folder, "corpus.cache_dir")
    is_prepared = store.find() is not None or (remote is not None and remote.fetch(store, dependencies))
    if not is_prepared:
        executors.require_packages(spec.documents)
        filters.load(spec.documents.filters)
        if spec.documents.executor != "slurm" or not slurm_jobs.are_usable(store.partial / FOLDER):
            store.begin()
        count = sum(len(source.files) for source in found)
        logger.info("preparing %s file%s into %s", f"{count:,}", "" if count == 1 else "s", store.folder)
    return Plan(inputs.digest, None if is_prepared else inputs)


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
