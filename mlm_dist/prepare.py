"""Prepare a corpus: documents -> clean -> deduplicate -> split -> tokenize -> rows on disk.

    python mlm_dist/prepare.py --corpus.source docs/
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/prepare.py --corpus.source docs/

Any number of processes gives the same digest and the same bytes. There is no process group: ranks meet through files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist import runtime
from mlm_dist.config import Config
from mlm_dist.corpus import documents, manifest, row_shards, selection, summary
from mlm_dist.corpus.readers import reader
from mlm_dist.corpus.rendezvous import Meeting
from mlm_dist.corpus.sources import git, source_files
from mlm_dist.corpus.store import FORMAT, CorpusStore, PreparedCorpus, ShardKeys, words_key
from mlm_dist.corpus.tokenizer import domain_tokens, encoding, loading, training
from mlm_dist.corpus.tokenizer.training_texts import TrainingTexts
from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import lock, write_json
from mlm_dist.model.architecture import default_row_mode, tokenizer_source


def main(config: Config) -> None:
    """Prepare the corpus that a config describes, or find it prepared, and show what is in it."""
    corpus = prepare(config)
    runtime.show(summary.table(corpus.manifest, str(corpus.folder)))


def prepare(config: Config) -> PreparedCorpus:
    """Return the rows a config describes, making them if they are not there; call it on every process.

    Raises:
        CorpusError: The source cannot be used, or nothing of it can be trained on.
        ModelError: `rows.mode` is left open, and there is no such model.
        PeerError: Another process failed.
    """
    config = _settled(config)
    try:
        cache_dir = Path(config.corpus.cache_dir).expanduser().absolute()
        cache_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise CorpusError(
            f"corpus.cache_dir: cannot use {config.corpus.cache_dir} ({reason(error)}); name another folder"
        ) from None
    purpose = json.dumps(dataclasses.asdict(config.corpus), sort_keys=True)
    with (
        Meeting(cache_dir / "meetings", *runtime.rank_and_world_size(), purpose) as meeting,
        contextlib.ExitStack() as held,
    ):
        named = functools.cache(lambda: _named_tokenizer(config))  # it is loaded once, and by rank 0 alone
        plan = meeting.lead("plan", lambda: _plan(config, cache_dir, held, named))
        store = CorpusStore(cache_dir, plan["digest"])
        if not plan["ready"]:
            _make(config, store, plan, meeting, named)
        corpus = PreparedCorpus(store.place)
        if config.corpus.export is not None:
            to = Path(config.corpus.export).expanduser()
            meeting.lead("export", lambda: documents.export(corpus.documents(), to))
        return corpus


def find(config: Config) -> tuple[PreparedCorpus | None, int | None]:
    """The rows a config describes, if an earlier job left them in the cache; fetches nothing.

    Returns:
        The corpus, of a source on the network the one prepared last; and the bytes of the source's files, if those are
        here.
    """
    cache_dir = Path(config.corpus.cache_dir).expanduser().absolute()
    config = _settled(config)
    name, described = config.corpus.source, _described(config, _named_tokenizer(config))
    is_here = name == "python-docs" or (Path(name).expanduser().exists() and not git.is_repository(name))
    if is_here:
        source = source_files.acquire(config.corpus, cache_dir)
        place = cache_dir / _key(source.digest(), described)
        size = sum(size for size, _ in source.states.values())
        return (PreparedCorpus(place) if (place / "manifest.json").is_file() else None), size
    location = git.without_credentials(name)
    paths = sorted(cache_dir.glob("*/manifest.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for corpus in (PreparedCorpus(path.parent) for path in paths if path.parent.suffix != ".partial"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = corpus.manifest
            made_from = found["source"]["location"], found["config"]
            if found["format"] == FORMAT and made_from == (location, json.loads(json.dumps(described))):
                return corpus, None
    return None, None


def _settled(config: Config) -> Config:
    """The config with what it leaves open about rows decided."""
    return dataclasses.replace(
        config, rows=dataclasses.replace(config.rows, mode=config.rows.mode or default_row_mode(config.model))
    )


def _make(config: Config, store: CorpusStore, plan: dict[str, Any], meeting: Meeting, named: Callable[[], Any]) -> None:
    """Make the rows, each process its share of the shards."""
    source = source_files.Source(**plan["source"] | {"root": Path(plan["source"]["root"])})
    work = reader.shards(source)
    settings = documents.described(config.corpus)
    keys = [_documents_key(settings, source, shard) for shard in work]
    mine = meeting.share([shard.size for shard in work])

    for i in mine:
        if not store.is_finished(keys[i]):
            found = documents.write(config.corpus, source, work[i].parts, store.documents(keys[i]))
            store.finish(keys[i], [store.documents(keys[i])], dataclasses.asdict(found))

    def decide() -> str:
        meeting.wait_for([store.mark(key) for key in keys])
        chosen = _select(config, store, keys)
        tokenizer = _make_tokenizer(config, store, keys, chosen, named)
        chosen.save(store.partial / "selection.npz")
        return loading.digest(tokenizer)

    shards: list[ShardKeys] = []
    if mine or meeting.rank == 0:  # whoever has no share waits for the end alone: all else may be gone by then
        tokenizer_digest = meeting.lead("decisions", decide)
        sides = _sides(store, keys, selection.load(store.partial / "selection.npz"))
        is_named = (
            meeting.rank == 0
            and tokenizer_source(config.model, config.tokenizer) is not None
            and config.tokenizer.add_domain_tokens is None
        )
        tokenizer = named() if is_named else loading.load(str(store.partial / "tokenizer"))
        encoder, special = encoding.Encoder(tokenizer), loading.special_tokens(tokenizer)
        domain = PreparedCorpus(store.partial).domain_tokens
        made_by = _key(tokenizer_digest, list(domain.items()))
        shortens = np.zeros(len(tokenizer), np.int64)  # the documents by so many tokens, each time it stands in them
        shortens[list(domain)] = [len(pieces) - 1 for pieces in domain.values()]
        shards = [ShardKeys(key, _rows_key(config, key, made_by, side)) for key, side in zip(keys, sides, strict=True)]

        def tokenize(i: int) -> None:
            if not store.is_finished(shards[i].rows):
                row_shards.make(config.rows, store, encoder, special, shortens, sides[i], shards[i])

        # While the tokens of one shard are computed, those of another are made into rows and written.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(tokenize, mine))
        if _needs_words(config):
            shards = [shard._replace(words=words_key(shard.rows)) for shard in shards]
            marking = encoding.Encoder(tokenizer, marking=True)
            for i in mine:
                if not store.is_finished(shards[i].words):
                    row_shards.mark_words(config.rows, store, marking, special, sides[i], shards[i])

    def publish() -> None:
        meeting.wait_for([store.mark(key) for _, *made in shards for key in made if key])
        store.publish(manifest.describe(store, plan, shards), shards, row_shards.token_counts(store, shards))

    meeting.lead("publish", publish)


def _plan(config: Config, cache_dir: Path, held: contextlib.ExitStack, named: Callable[[], Any]) -> dict[str, Any]:
    """Find the source, derive the digest, and see whether the work has been done before."""
    runtime.say(f"looking at {git.without_credentials(config.corpus.source)}")
    source = source_files.acquire(config.corpus, cache_dir)
    _check_export(config, source)
    described = _described(config, named())
    digest = _key(source.digest(), described)
    place = cache_dir / f"{digest}.lock"
    try:
        locked = lock(place, wait=False)
    except BlockingIOError:
        runtime.say("another run is preparing the same rows; waiting for it")
        locked = lock(place, wait=True)
    held.callback(locked.release)
    store = CorpusStore(cache_dir, digest)
    ready = store.find() is not None
    if not ready:
        store.begin()
        runtime.say(f"preparing {len(source.files):,} files into {store.place}")
    plain = vars(source) | {"root": str(source.root)}
    return {"digest": digest, "ready": ready, "source": plain, "config": described, "source_digest": source.digest()}


def _check_export(config: Config, source: source_files.Source) -> None:
    """Refuse to write over a document."""
    if config.corpus.export is not None:
        to = os.path.realpath(os.path.expanduser(config.corpus.export))
        if to.removeprefix(os.path.join(os.path.realpath(source.root), "")) in source.files:
            raise CorpusError(
                f"corpus.export: {config.corpus.export} is a file of corpus.source and would be lost; name another one"
            )


def _named_tokenizer(config: Config) -> Any:
    """The tokenizer the config names; None where one is to be trained."""
    path = tokenizer_source(config.model, config.tokenizer)
    return None if path is None else loading.load(*path)


def _described(config: Config, named: Any) -> dict[str, Any]:
    """Everything but the documents that the rows depend on; `named` is the tokenizer, unless one is to be trained."""
    tokenizer: dict[str, Any]
    if named is not None:
        tokenizer = {"sha256": loading.digest(named)}
    else:
        vocab_size = config.tokenizer.train_vocab_size or loading.DEFAULT_VOCAB_SIZE
        tokenizer = {"train_vocab_size": vocab_size, "train_kind": config.tokenizer.train_kind}
    tokenizer["add_domain_tokens"] = config.tokenizer.add_domain_tokens
    names = ("deduplicate", "near_threshold", "validation_fraction")
    corpus = documents.described(config.corpus) | {name: getattr(config.corpus, name) for name in names}
    needed = {"words": True} if _needs_words(config) else {}
    return {"corpus": corpus, "tokenizer": tokenizer, "rows": dataclasses.asdict(config.rows)} | needed


def _needs_words(config: Config) -> bool:
    """Whether it must be known where words begin."""
    return config.masking.unit != "token"


def _documents_key(settings: dict[str, Any], source: source_files.Source, shard: reader.Shard) -> str:
    """The name of a shard's documents: a hash of all they depend on."""
    parts = [(part.path, part.start, part.stop, source.files[part.path]) for part in shard.parts]
    return _key(settings, source.records, parts)


def _rows_key(config: Config, documents_key: str, tokenizer: str, side: np.ndarray) -> str:
    """The name of a shard's rows: a hash of all they depend on."""
    return _key(documents_key, tokenizer, dataclasses.asdict(config.rows), side.tobytes().hex())


def _key(*parts: Any) -> str:
    text = json.dumps([FORMAT, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _select(config: Config, store: CorpusStore, keys: Sequence[str]) -> selection.Selection:
    """Decide for all documents at once which stay, and on which side."""
    measures = [documents.measures(store.documents(key)) for key in keys]
    corpus = config.corpus
    return selection.select(
        np.concatenate([text_keys for text_keys, _ in measures] or [np.empty((0, selection.KEY_BYTES), np.uint8)]),
        [signatures for _, signatures in measures],
        deduplicate=corpus.deduplicate,
        near_threshold=corpus.near_threshold,
        validation_fraction=corpus.validation_fraction,
    )


def _sides(store: CorpusStore, keys: Sequence[str], chosen: selection.Selection) -> list[np.ndarray]:
    """What was decided on the documents of each shard."""
    sizes = [store.figures(key)["kept"] for key in keys]
    return np.split(chosen.side, np.cumsum(sizes)[:-1])


def _make_tokenizer(
    config: Config, store: CorpusStore, keys: Sequence[str], chosen: selection.Selection, named: Callable[[], Any]
) -> Any:
    """Take the tokenizer the config names, or train one on the training documents, and keep it with the rows."""
    num_train = chosen.count(selection.TRAIN)
    if not (num_train or chosen.count(selection.VALIDATION)):
        reasons = manifest.dropped([store.figures(key) for key in keys], chosen)
        said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "no documents in it"
        raise CorpusError(
            f"corpus.source: {git.without_credentials(config.corpus.source)} has no document left to train on "
            f"({said}); name another source or change corpus.min_chars"
        )
    if config.corpus.validation_fraction > 0 and not (num_train and chosen.count(selection.VALIDATION)):
        raise CorpusError(
            "corpus.source: there is only one distinct document, so none can be held out; add documents or set "
            "corpus.validation_fraction to 0"
        )
    tokenizer, wanted = named(), config.tokenizer.add_domain_tokens
    if tokenizer is None or wanted is not None:
        is_train = [side == selection.TRAIN for side in _sides(store, keys, chosen)]
        texts = TrainingTexts(list(zip(map(store.documents, keys), is_train, strict=True)))
        learnt_from = f"on {num_train:,} documents ({texts.describe()})"
    if tokenizer is None:
        kind, vocab_size = config.tokenizer.train_kind, config.tokenizer.train_vocab_size or loading.DEFAULT_VOCAB_SIZE
        runtime.say(f"training a {training.NAMES[kind]} tokenizer of {vocab_size:,} tokens {learnt_from}")
        tokenizer = training.train(kind, texts, vocab_size, config.rows.max_length)
    added: list[domain_tokens.DomainToken] = []
    if wanted is not None:
        tokenizer, added = domain_tokens.add(tokenizer, texts(), wanted)
        runtime.say(f"added {len(added):,} domain tokens, counted {learnt_from}")
    loading.save(tokenizer, store.partial / "tokenizer")
    write_json(store.partial / "domain_tokens.json", [dataclasses.asdict(one) for one in added], indent=1)
    return tokenizer


if __name__ == "__main__":
    runtime.run(main, prog="prepare.py", description=__doc__)
