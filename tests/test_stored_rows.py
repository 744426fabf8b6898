"""Training rows that stay in an object store, against an S3 server: a corpus larger than the disk trains."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import forking
import launching
import numpy as np
import pytest
from s3_server import BUCKET, Server
from specs import spec_of

from mlm_dist import retries, train
from mlm_dist.config import Config, CorpusConfig, parse
from mlm_dist.corpora import load_or_prepare
from mlm_dist.corpus import block_cache, shards
from mlm_dist.corpus.block_cache import BlockCache, StoredBlock
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.stored_rows import StoredRows
from mlm_dist.errors import CheckpointError, ConfigError, CorpusError
from mlm_dist.files import lock
from mlm_dist.object_store import ObjectStore
from mlm_dist.training import phases
from mlm_dist.training.callbacks import Callback

STORE = f"--corpus.store=s3://{BUCKET}/corpora"
FROM_STORE = (STORE, "--corpus.rows_from=store")
GB = 12e-6  # of blocks on the disk: a fraction of the training rows
SMALL = (*FROM_STORE, f"--corpus.block_cache_gb={GB}")


def flags(source: Path | str, machine: Path, *more: str) -> tuple[str, ...]:
    """A run on a machine, which has a disk of its own."""
    places = (f"--corpus.source={source}", f"--corpus.cache_dir={machine / 'cache'}", f"--output_dir={machine / 'run'}")
    return (*places, "--tracking.trackers=[]", *launching.SHORT, "--batch.global_size=8", *more)


def prepare(source: Path | str, machine: Path, *more: str) -> PreparedCorpus:
    """Prepare a corpus as many small shards, and upload it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SMALL_SHARD", 1 << 12)
        found: PreparedCorpus = launching.here("prepare", *flags(source, machine, STORE, *more)).result
    return found


def num_bytes(folder: Path, pattern: str = "*") -> int:
    """The bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())


@contextmanager
def watched(folder: Path) -> Iterator[list[int]]:
    """The most bytes that a folder of blocks has inside, sampled all the time, between two changes of it."""
    most, ended = [0], threading.Event()
    folder.mkdir(parents=True)

    def watch() -> None:
        while not ended.wait(0.02):
            held = lock(folder / block_cache.LOCK, wait=True)
            found = 0
            for name in os.listdir(folder):
                with contextlib.suppress(FileNotFoundError):
                    found += (folder / name).stat().st_size
            held.release()
            most[0] = max(most[0], found)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


def losses(machine: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in launching.metrics(machine / "run", "train")]


def weights(machine: Path, step: int = 12) -> bytes:
    return (machine / "run" / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


def corpus_of(source: Path | str, machine: Path, *more: str) -> PreparedCorpus:
    config = parse([*flags(source, machine, *more)], prog="train.py")
    return load_or_prepare(spec_of(config)).main


@pytest.fixture
def prepared(s3: Server, prose: Path, tmp_path: Path) -> PreparedCorpus:
    """A corpus on the disk of another machine and in the store, whose training rows take more than `GB`."""
    corpus = prepare(prose, tmp_path / "other")
    assert num_bytes(corpus.folder / "train", "*.arrow") > 3 * GB * 1e9
    return corpus


# ---- rows


def test_rows_in_a_store_are_those_on_the_disk(s3: Server, prose: Path, tmp_path: Path) -> None:
    words = ("--masking.unit=word", "--rows.mode=pack")
    expected = prepare(prose, tmp_path / "other", *words).rows("train")
    bound = 5 * max(path.stat().st_size for path in expected.files)
    with watched(tmp_path / "cache" / "blocks") as most:
        corpus = corpus_of(prose, tmp_path, *words, *FROM_STORE, f"--corpus.block_cache_gb={bound / 1e9}")
        found = corpus.rows("train")
        assert isinstance(found, StoredRows) and len(found) == len(expected) and len(found.block_sizes) > 10
        assert found.counts == expected.counts
        wanted = np.random.default_rng(0).integers(0, len(found), 100)
        for some in (wanted[:20], wanted[:0], np.arange(len(found))):
            np.testing.assert_array_equal(found.take(some), expected.take(some))
            np.testing.assert_array_equal(found.word_starts(some), expected.word_starts(some))
            for one, other in zip(found.chunks(some), expected.chunks(some), strict=True):
                np.testing.assert_array_equal(one, other)
    assert bound / 4 < most[0] <= bound < num_bytes(tmp_path / "other" / "cache" / corpus.digest / "train")
    assert not [*(tmp_path / "cache").rglob("train/*.arrow"), *(tmp_path / "cache").rglob("documents/*")]
    assert [*corpus.documents("validation")]


def test_documents_are_read_from_the_store(prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    corpus = corpus_of(prose, tmp_path, *FROM_STORE)
    assert [*corpus.documents()] == [*prepared.documents()]
    assert not [*(tmp_path / "cache").rglob("documents/*")]


def test_cached_index_is_used_and_a_damaged_one_replaced(
    s3: Server, prepared: PreparedCorpus, prose: Path, tmp_path: Path
) -> None:
    first = corpus_of(prose, tmp_path, *FROM_STORE)
    path = first.folder / "validation" / "blocks.npy"
    before = path.stat().st_ino
    assert corpus_of(prose, tmp_path, *FROM_STORE).folder == first.folder and path.stat().st_ino == before
    path.write_bytes(path.read_bytes()[:-1])
    again = corpus_of(prose, tmp_path, *FROM_STORE)
    assert path.read_bytes() == (prepared.folder / "validation" / "blocks.npy").read_bytes()
    assert again.rows("train").take(np.arange(5)).tolist() == prepared.rows("train").take(np.arange(5)).tolist()
    s3.damage(f"corpora/{prepared.digest}/validation/blocks.npy")
    with pytest.raises(CorpusError, match=r"^corpus\.store: .*blocks\.npy is damaged.*corpus\.rows_from disk"):
        corpus_of(prose, tmp_path / "third", *FROM_STORE)


def test_damaged_block_is_refused(s3: Server, prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    name = f"train/{prepared.rows('train').files[0].name}"
    s3.damage(f"corpora/{prepared.digest}/{name}")
    with pytest.raises(CorpusError, match=rf"^corpus\.store: s3://.*/{name} is damaged: it differs") as refused:
        launching.here("train", *flags(prose, tmp_path, *FROM_STORE))
    assert "\n" not in str(refused.value)
    assert not [path for path in (tmp_path / "cache" / "blocks").iterdir() if path.suffix == ".part"]


def test_block_that_was_changed_on_the_disk_is_downloaded_again(
    prepared: PreparedCorpus, prose: Path, tmp_path: Path
) -> None:
    everything = np.arange(prepared.manifest["rows"]["train"])
    corpus_of(prose, tmp_path, *FROM_STORE).rows("train").take(everything)
    for path in (tmp_path / "cache" / "blocks").glob("[0-9a-f]*"):
        path.write_bytes(b"x" * path.stat().st_size)
    found = corpus_of(prose, tmp_path, *FROM_STORE).rows("train").take(everything)
    np.testing.assert_array_equal(found, prepared.rows("train").take(everything))


def test_cache_that_cannot_hold_a_block_is_refused(prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^corpus\.block_cache_gb: 1e-08 GB cannot hold a block of rows; use at least"
    ):
        launching.here("train", *flags(prose, tmp_path, *FROM_STORE, "--corpus.block_cache_gb=1e-8"))


# ---- documents on a network


def test_documents_on_a_network_are_not_fetched(s3: Server, prose: Path, tmp_path: Path) -> None:
    """The corpus of them that was prepared last is used; to prepare looks at the documents again."""
    for path in prose.iterdir():
        s3.put(f"docs/{path.name}", path.read_bytes())
    source = f"s3://{BUCKET}/docs"
    first = prepare(source, tmp_path / "other")
    found = corpus_of(source, tmp_path, *FROM_STORE)
    assert found.digest == first.digest and not (tmp_path / "cache" / "sources").exists()
    assert corpus_of(source, tmp_path, *FROM_STORE, "--corpus.min_chars=300", "--corpus.store=s3://bucket/none")
    time.sleep(1)  # the store's times are in seconds
    s3.put("docs/00.txt", (prose / "01.txt").read_text()[::-1])
    assert corpus_of(source, tmp_path / "third", *FROM_STORE).digest == first.digest
    second = prepare(source, tmp_path / "other", "--corpus.rows_from=store")
    assert second.digest != first.digest
    assert corpus_of(source, tmp_path / "third", *FROM_STORE).digest == second.digest


# ---- training


@pytest.mark.slow
def test_corpus_larger_than_the_disk_trains(
    prepared: PreparedCorpus, prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same losses and weights as from the disk in the same order, and no more bytes than the bound."""
    monkeypatch.setattr(phases, "GROUP_TOKENS", 64 * 20)
    launching.here("train", *flags(prose, tmp_path / "other", *FROM_STORE, "--optim.duration=32 steps"))
    with watched(tmp_path / "cache" / "blocks") as most:
        done = launching.here("train", *flags(prose, tmp_path, *SMALL, "--optim.duration=32 steps"))
    assert done.result.is_finished and "preparing" not in done.log
    assert 0 < most[0] <= GB * 1e9 < num_bytes(prepared.folder / "train", "*.arrow")
    step = done.result.step
    assert losses(tmp_path) == losses(tmp_path / "other") and step > 12
    assert weights(tmp_path, step) == weights(tmp_path / "other", step)
    assert not [*(tmp_path / "cache").rglob("train/*.arrow")]


@pytest.mark.slow
def test_each_block_is_downloaded_once_in_an_epoch(
    prepared: PreparedCorpus, prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the cache holds two groups; ahead of the steps."""
    monkeypatch.setattr(phases, "GROUP_TOKENS", 64 * 20)
    reads: list[tuple[str, int]] = []
    names: set[str] = set()
    read = ObjectStore.read_range

    def counted(self: ObjectStore, name: str, start: int, stop: int) -> bytes:
        reads.append((name, start))
        names.add(threading.current_thread().name.split("_")[0])
        return read(self, name, start, stop)

    monkeypatch.setattr(ObjectStore, "read_range", counted)
    blocks = len(prepared.rows("train").block_sizes)
    done = launching.here(
        "train", *flags(prose, tmp_path, *FROM_STORE, "--optim.duration=1 epochs", "--corpus.block_cache_gb=6e-5")
    )
    assert done.result.is_finished and "downloaded more than once" not in done.log
    assert len(set(reads)) == blocks and len(reads) <= blocks + 3  # the trial of the memory reads the first ones
    assert "blocks" in names


def test_cache_that_is_too_small_for_a_group_is_named(prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    done = launching.here("train", *flags(prose, tmp_path, *SMALL, "--optim.duration=2 steps"))
    assert done.log.count("corpus.block_cache_gb: cannot hold the blocks that are shuffled together") == 1


@pytest.mark.slow
def test_killed_run_resumes_exactly(prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    """On another machine, without the blocks that the first one had."""
    first, second = tmp_path / "first", tmp_path / "second"
    launching.here("train", *flags(prose, tmp_path / "whole", *FROM_STORE))
    more = (*SMALL, "--checkpoint.every=3")
    ended = forking.run(
        "train", *flags(prose, first, *more), log=tmp_path / "log", environ={"MLM_DIST_FAULT": "mid_step@8"}
    )
    assert ended.returncode == -9, ended.output
    second.mkdir()
    (first / "run").rename(second / "run")
    done = launching.here("train", *flags(prose, second, *more))
    assert "at step 6" in done.log and done.result.is_finished
    assert losses(second) == losses(tmp_path / "whole") and weights(second) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_resume_in_another_order_is_refused(prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    machine = tmp_path / "other"
    launching.here("train", *flags(prose, machine, STORE))
    with pytest.raises(
        CheckpointError, match=r"^corpus\.rows_from: .* was made with disk, now it is store; set it back"
    ):
        launching.here("train", *flags(prose, machine, *FROM_STORE))


@pytest.mark.slow
def test_two_processes_train_as_one(prepared: PreparedCorpus, prose: Path, tmp_path: Path) -> None:
    launching.here("train", *flags(prose, tmp_path / "one", *SMALL))
    with watched(tmp_path / "two" / "cache" / "blocks") as most:
        ended = launching.accelerate("cpu_2", "train.py", *flags(prose, tmp_path / "two", *SMALL))
    assert ended.returncode == 0, ended.output
    assert 0 < most[0] <= GB * 1e9
    assert [step for step, _ in losses(tmp_path / "two")] == [step for step, _ in losses(tmp_path / "one")]
    np.testing.assert_allclose(
        [loss for _, loss in losses(tmp_path / "two")], [loss for _, loss in losses(tmp_path / "one")], rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_lasting", [False, True])
def test_store_that_fails_while_training(
    s3: Server, prepared: PreparedCorpus, prose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lasting: bool
) -> None:
    """It is tried again, and then the run ends with a line; it resumes from its checkpoint."""
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.setattr(phases, "GROUP_TOKENS", 64 * 10)
    failures = iter(range(10**9 if is_lasting else 2))
    is_failing = threading.Event()
    read = ObjectStore.read_range

    class Failing(Callback):
        def on_step(self, step: int, line: Any) -> None:
            if step == 7:
                is_failing.set()

    def failing(store: ObjectStore, name: str, start: int, stop: int) -> bytes:
        content = store._fs.cat_file

        def cat_file(*arguments: Any, **options: Any) -> Any:
            if is_failing.is_set() and next(failures, None) is not None:
                raise ConnectionResetError(104, "Connection reset by peer")
            return content(*arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store._fs, "cat_file", cat_file)
            return read(store, name, start, stop)

    monkeypatch.setattr(ObjectStore, "read_range", failing)
    config = parse([*flags(prose, tmp_path, *SMALL)], prog="train.py")
    with launching.logged() as log:
        if is_lasting:
            with pytest.raises(
                ConfigError, match=r"^corpus\.store: cannot read s3://.*Connection reset by peer.*; check"
            ):
                train.run(config, [Failing()])
            is_failing.clear()
            train.run(config)
            assert "at step 6" in log.getvalue()
        else:
            train.run(config, [Failing()])
    assert "attempt 2 of 4" in log.getvalue()
    assert [step for step, _ in losses(tmp_path)] == [2, 4, 6, 8, 10, 12]


# ---- config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows_from": "store"}, r"^corpus\.rows_from: store needs corpus\.store"),
        ({"block_cache_gb": 5.0}, r"^corpus\.block_cache_gb: only corpus\.rows_from store has it"),
        (
            {"store": "s3://b/c", "rows_from": "store", "block_cache_gb": 0.0},
            r"^corpus\.block_cache_gb: must be over 0",
        ),
        ({"store": "s3://b/c", "rows_from": "tape"}, r"^corpus\.rows_from: expected"),
    ],
)
def test_wrong_keys_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CorpusConfig(**values)
    assert Config().corpus.rows_from == "disk"


# ---- blocks on the disk


def block_of(i: int, size: int = 100, read: Callable[[], bytes] | None = None) -> StoredBlock:
    content = bytes([i]) * size
    return StoredBlock(sha256(content).hexdigest(), size, read or (lambda: content), f"block {i}")


def test_room_of_a_download_stays_reserved_until_it_ends(tmp_path: Path) -> None:
    """Other processes count the files, so a file that is written to must not become smaller meanwhile."""
    size = 4_000_000
    cache, blocks = BlockCache(tmp_path / "blocks", 100 * size), [block_of(i, size) for i in range(40)]
    seen, ended = set[int](), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            held = lock(tmp_path / "blocks" / block_cache.LOCK, wait=True)
            for path in (tmp_path / "blocks").glob("*.part"):
                with contextlib.suppress(FileNotFoundError):
                    seen.add(path.stat().st_size)
            held.release()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for block in blocks:
            cache.fetch(block)
    finally:
        ended.set()
        thread.join()
    assert seen <= {size}


def test_least_recently_used_block_is_removed(tmp_path: Path) -> None:
    reads: list[int] = []

    def block(i: int) -> StoredBlock:
        def read() -> bytes:
            reads.append(i)
            return bytes([i]) * 100

        return block_of(i, read=read)

    cache = BlockCache(tmp_path / "blocks", 350)
    for i in (1, 2, 3):
        assert bytes(cache.content(block(i))) == bytes([i]) * 100
        time.sleep(0.01)
    time.sleep(1.1)  # a use is noted once in a second
    cache.content(block(1))
    cache.content(block(4))
    assert reads == [1, 2, 3, 4]
    for i in (1, 3, 4):
        cache.content(block(i))
    assert reads == [1, 2, 3, 4]
    cache.content(block(2))
    assert reads == [1, 2, 3, 4, 2]


def test_block_of_a_killed_process_makes_room(tmp_path: Path) -> None:
    cache, dead, alive = BlockCache(tmp_path / "blocks", 250), block_of(1), block_of(2)
    for one, changed in ((dead, 2), (alive, 1)):
        path = tmp_path / "blocks" / f"{one.sha256}.part"
        path.write_bytes(bytes(100))
        os.utime(path, (changed, changed))
    held = lock(tmp_path / "blocks" / f"{alive.sha256}.lock", wait=True)
    cache.content(block_of(3))
    assert not (tmp_path / "blocks" / f"{dead.sha256}.part").exists()
    assert (tmp_path / "blocks" / f"{alive.sha256}.part").exists()
    cache.fetch(alive)  # does not wait for it
    held.release()
    assert bytes(cache.content(alive)) == bytes([2]) * 100
    cache.content(dead)
    assert num_bytes(tmp_path) <= 250


def test_several_caches_of_a_folder_keep_the_bound(tmp_path: Path) -> None:
    """As processes do; each reads what it asked for, and no two download a block at the same time."""
    folder, busy = tmp_path / "blocks", set[int]()

    def block(i: int) -> StoredBlock:
        def read() -> bytes:
            assert i not in busy
            busy.add(i)
            time.sleep(0.001)
            busy.discard(i)
            return bytes([i]) * 100

        return block_of(i, read=read)

    def work(seed: int) -> None:
        cache, draw = BlockCache(folder, 250), np.random.default_rng(seed)
        for i in draw.integers(1, 12, 60).tolist():
            if draw.random() < 0.3:
                cache.fetch(block(int(draw.integers(1, 12))))
            assert bytes(cache.content(block(i))) == bytes([i]) * 100

    with watched(folder) as most, ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, seed) for seed in range(4)]:
            done.result()
    assert 200 <= most[0] <= 250
    assert not [*folder.glob("*.part")]


def test_downloads_wait_for_each_others_room(tmp_path: Path) -> None:
    cache, begun, may_end = BlockCache(tmp_path / "blocks", 250), list[int](), threading.Event()

    def block(i: int) -> StoredBlock:
        def read() -> bytes:
            begun.append(i)
            assert may_end.wait(60)
            return bytes([i]) * 100

        return block_of(i, read=read)

    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(cache.content, block(i)) for i in (1, 2, 3)]
        while len(begun) < 2:
            time.sleep(0.01)
        time.sleep(0.3)
        assert len(begun) == 2 and num_bytes(tmp_path) == 200
        may_end.set()
        assert [bytes(one.result()) for one in found] == [bytes([i]) * 100 for i in (1, 2, 3)]
    assert num_bytes(tmp_path) == 200
