"""Prepare a corpus: documents -> clean -> deduplicate -> split -> tokenize -> rows on disk.

    python mlm_dist/prepare.py --corpus.source docs/
    accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/prepare.py --corpus.source docs/

Any number of processes gives the same digest and the same bytes. There is no process group: ranks meet through files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from mlm_dist import job
from mlm_dist.config import Config
from mlm_dist.corpus import git, reading, rows, selection, sources, summary, tokens
from mlm_dist.corpus.meeting import Meeting
from mlm_dist.corpus.store import FORMAT, SPLITS, CorpusStore, PreparedCorpus
from mlm_dist.errors import CorpusError, reason
from mlm_dist.files import write_json
from mlm_dist.modeling.build import tokenizer_of


def main(config: Config) -> None:
    """Prepare the corpus that a config describes, or find it prepared, and show what is in it."""
    corpus = prepare(config)
    job.show(summary.table(corpus.manifest, str(corpus.folder)))


def prepare(config: Config) -> PreparedCorpus:
    """Return the rows a config describes, making them if they are not there; call it on every process.

    Raises:
        CorpusError: The source cannot be used, or nothing of it can be trained on.
        PeerError: Another process failed.
    """
    try:
        cache_dir = Path(config.corpus.cache_dir).expanduser().absolute()
        cache_dir.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise CorpusError(
            f"corpus.cache_dir: cannot use {config.corpus.cache_dir} ({reason(error)}); name another folder"
        ) from None
    with Meeting(cache_dir / "meetings", *job.rank_and_world_size()) as meeting, contextlib.ExitStack() as held:
        plan = meeting.lead("plan", lambda: _plan(config, cache_dir, held))
        store = CorpusStore(cache_dir, plan["digest"])
        if plan["ready"]:
            return PreparedCorpus(store.place)
        source = sources.Source(**plan["source"] | {"root": Path(plan["source"]["root"])})
        work = reading.shards(source)

        shards = range(len(work))
        mine = meeting.mine(shards)

        for shard in mine:
            _read_shard(config, store, source, work[shard], shard)
        if mine or meeting.rank == 0:  # whoever has no share waits for the end alone: all else may be gone by then
            meeting.wait_for([store.counts("documents", shard) for shard in shards])
            chosen, starts = _select(config, store, len(work))
            meeting.lead("tokenizer", lambda: _make_tokenizer(config, store, chosen, starts))
            tokenizer = tokens.load(str(store.partial / "tokenizer"))
            encoder, special = tokens.Encoder(tokenizer), tokens.special_tokens(tokenizer)
        for shard in mine:
            side = chosen.side[starts[shard] : starts[shard + 1]]
            _tokenize_shard(config, store, encoder, special, side, shard)

        def publish() -> None:
            meeting.wait_for([store.counts("rows", shard) for shard in shards])
            _publish(store, plan, chosen, starts)

        meeting.lead("publish", publish)
        return PreparedCorpus(store.place)


def _plan(config: Config, cache_dir: Path, held: contextlib.ExitStack) -> dict[str, Any]:
    """Find the source, derive the digest, and see whether the work has been done before."""
    from filelock import FileLock, Timeout

    job.say(f"looking at {git.without_credentials(config.corpus.source)}")
    source = sources.acquire(config.corpus, cache_dir)
    described = _described(config)
    parts = [FORMAT, source.digest(), described]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    lock = FileLock(cache_dir / f"{digest}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        job.say("another run is preparing the same rows; waiting for it")
        lock.acquire()
    held.callback(lock.release)
    store = CorpusStore(cache_dir, digest)
    ready = store.find() is not None
    if not ready:
        store.begin()
        job.say(f"preparing {len(source.files):,} files into {store.place}")
    plain = dataclasses.asdict(source) | {"root": str(source.root)}
    return {"digest": digest, "ready": ready, "source": plain, "config": described, "source_digest": source.digest()}


def _described(config: Config) -> dict[str, Any]:
    """Everything but the documents that the rows depend on."""
    path = tokenizer_of(config)
    tokenizer: dict[str, Any] = {"train_vocab_size": config.tokenizer.train_vocab_size or tokens.DEFAULT_VOCAB_SIZE}
    if path is not None:
        tokenizer = {"sha256": tokens.digest(tokens.load(*path))}
    names = ("min_chars", "deduplicate", "validation_fraction")
    corpus = {name: getattr(config.corpus, name) for name in names}
    return {"corpus": corpus, "tokenizer": tokenizer, "rows": dataclasses.asdict(config.rows)}


def _read_shard(
    config: Config, store: CorpusStore, source: sources.Source, parts: list[reading.Part], shard: int
) -> None:
    """Read some files and keep the documents worth training on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept: dict[str, list[Any]] = {"id": [], "key": [], "text": []}
    set_aside: list[tuple[str, str]] = []
    encodings: Counter[str] = Counter()
    for found in reading.read(source, parts):
        if isinstance(found, reading.SetAside):
            set_aside.append((found.id, found.reason))
            continue
        encodings[found.encoding] += 1
        text = found.text.strip()
        if len(text) < max(config.corpus.min_chars, 1):
            set_aside.append((found.id, f"under {config.corpus.min_chars} characters" if text else "empty"))
            continue
        # Lone surrogates are no text; an id may hold them where a file's name is no UTF-8.
        text = text.encode("utf-8", "replace").decode("utf-8")
        kept["id"].append(found.id.encode("utf-8", "backslashreplace").decode("utf-8"))
        kept["key"].append(selection.text_key(text))
        kept["text"].append(text)
    schema = pa.schema({"id": pa.string(), "key": pa.binary(16), "text": pa.large_string()})
    pq.write_table(pa.table(kept, schema=schema), store.documents(shard), compression="zstd", row_group_size=1000)
    figures = {"kept": len(kept["id"]), "set_aside": set_aside, "encodings": encodings}
    write_json(store.counts("documents", shard), figures, durable=False)


def _select(config: Config, store: CorpusStore, num_shards: int) -> tuple[selection.Selection, list[int]]:
    """Decide for all documents at once; every rank comes to the same answer. Also: where each shard starts."""
    import pyarrow.parquet as pq

    keys: list[bytes] = []
    starts = [0]
    for shard in range(num_shards):
        keys += pq.read_table(store.documents(shard), columns=["key"])["key"].to_pylist()
        starts.append(len(keys))
    corpus = config.corpus
    chosen = selection.select(
        keys, deduplicate=corpus.deduplicate == "exact", validation_fraction=corpus.validation_fraction
    )
    return chosen, starts


def _make_tokenizer(config: Config, store: CorpusStore, chosen: selection.Selection, starts: list[int]) -> None:
    """Load the tokenizer the config names, or train one on the training documents, and keep it with the rows."""
    import pyarrow.parquet as pq

    num_train = chosen.count(selection.TRAIN)
    if not num_train:
        reasons = _dropped(store, chosen, len(starts) - 1)
        said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items()) or "no documents in it"
        raise CorpusError(
            f"corpus.source: {git.without_credentials(config.corpus.source)} has no document left to train on "
            f"({said}); name another source or change corpus.min_chars"
        )
    if config.corpus.validation_fraction > 0 and not chosen.count(selection.VALIDATION):
        raise CorpusError(
            "corpus.source: there is only one distinct document, so none can be held out; add documents or set "
            "corpus.validation_fraction to 0"
        )
    path = tokenizer_of(config)
    if path is not None:
        tokenizer = tokens.load(*path)
    else:
        vocab_size = config.tokenizer.train_vocab_size or tokens.DEFAULT_VOCAB_SIZE
        job.say(f"training a WordPiece tokenizer of {vocab_size:,} tokens on {num_train:,} documents")

        def texts() -> Any:
            for shard in range(len(starts) - 1):
                side = chosen.side[starts[shard] : starts[shard + 1]]
                for i, text in enumerate(pq.read_table(store.documents(shard), columns=["text"])["text"].to_pylist()):
                    if side[i] == selection.TRAIN:
                        yield text

        tokenizer = tokens.train_wordpiece(texts, vocab_size, config.rows.max_length)
    tokens.save(tokenizer, store.partial / "tokenizer")


def _tokenize_shard(
    config: Config,
    store: CorpusStore,
    encoder: tokens.Encoder,
    special: tokens.SpecialTokens,
    side: np.ndarray,
    shard: int,
) -> None:
    """Turn the documents of a shard into rows of both splits."""
    import pyarrow.parquet as pq

    texts = pq.read_table(store.documents(shard), columns=["text"])["text"].to_pylist()
    figures: dict[str, Any] = {}
    for split, wanted in zip(SPLITS, (selection.TRAIN, selection.VALIDATION), strict=True):
        ids, lengths = encoder([text for text, is_on in zip(texts, side, strict=True) if is_on == wanted])
        block = rows.window(ids, lengths, config.rows.mode, config.rows.max_length, special)
        rows.write(store.rows(shard, split), block)
        figures[split] = {
            "rows": len(block.lengths),
            "kept": len(ids) - block.num_dropped,
            "dropped": block.num_dropped,
            "padded": int(block.input_ids.size - block.lengths.sum()),
        }
        if split == "train":
            seen = np.bincount(block.input_ids.reshape(-1), minlength=encoder.vocab_size)
            seen[list(special.all)] = 0
            figures["token_counts"] = seen.tolist()
    write_json(store.counts("rows", shard), figures, durable=False)


def _publish(store: CorpusStore, plan: dict[str, Any], chosen: selection.Selection, starts: list[int]) -> None:
    """Add up the shards' figures, write the manifest, and put the corpus in place."""
    import pyarrow.parquet as pq

    num_shards = len(starts) - 1
    figures = [json.loads(store.counts("rows", shard).read_text("utf-8")) for shard in range(num_shards)]
    read = [json.loads(store.counts("documents", shard).read_text("utf-8")) for shard in range(num_shards)]
    set_aside: dict[str, list[str]] = {reason: list(paths) for reason, paths in plan["source"]["set_aside"].items()}
    for id_, why in (pair for one in read for pair in one["set_aside"]):
        set_aside.setdefault(why, []).append(id_)
    for shard in range(num_shards):
        side = chosen.side[starts[shard] : starts[shard + 1]]
        if (side == selection.DROPPED).any():
            ids = pq.read_table(store.documents(shard), columns=["id"])["id"].to_pylist()
            set_aside.setdefault("duplicate", []).extend(ids[i] for i in np.flatnonzero(side == selection.DROPPED))
    encodings = sum((Counter(one["encodings"]) for one in read), Counter())
    dropped = _dropped(store, chosen, num_shards)
    kept = chosen.count(selection.TRAIN) + chosen.count(selection.VALIDATION)
    source = plan["source"]
    manifest = {
        "format": FORMAT,
        "digest": plan["digest"],
        "source": {
            "kind": source["kind"],
            "location": source["location"],
            "commit": source["commit"],
            "sha256": plan["source_digest"],
            "files": len(source["files"]),
            "set_aside": sum(map(len, source["set_aside"].values())),
        },
        "config": plan["config"],
        "config_digest": hashlib.sha256(json.dumps(plan["config"], sort_keys=True).encode()).hexdigest(),
        "documents": {
            "found": kept + sum(dropped.values()),
            "kept": kept,
            "dropped": dropped,
            "train": chosen.count(selection.TRAIN),
            "validation": chosen.count(selection.VALIDATION),
        },
        "tokens": {
            name: sum(one[split][name] for one in figures for split in SPLITS) for name in ("kept", "dropped", "padded")
        },
        "rows": {split: sum(one[split]["rows"] for one in figures) for split in SPLITS},
        "encodings": dict(sorted(encodings.items())),
        "set_aside": dict(sorted(set_aside.items())),
    }
    counts = np.array([one["token_counts"] for one in figures], np.int64).sum(0)
    store.publish(manifest, num_shards, counts)


def _dropped(store: CorpusStore, chosen: selection.Selection, num_shards: int) -> dict[str, int]:
    """{reason: documents dropped}."""
    dropped: Counter[str] = Counter()
    for shard in range(num_shards):
        for _, why in json.loads(store.counts("documents", shard).read_text("utf-8"))["set_aside"]:
            dropped[why] += 1
    duplicates = chosen.count(selection.DROPPED)
    return dict(sorted(dropped.items())) | ({"duplicate": duplicates} if duplicates else {})


if __name__ == "__main__":
    job.run(main, prog="prepare.py", description=__doc__)
