"""Object stores as source, as store of prepared corpora and as store of checkpoints, against an S3 server."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import forking
import launching
import pytest
from datasets import Dataset
from s3_server import BUCKET, Server

from mlm_dist import retries, train
from mlm_dist.config import CheckpointConfig, CorpusConfig, parse
from mlm_dist.corpus import sources
from mlm_dist.corpus.sources import SourceFiles, acquire
from mlm_dist.errors import CheckpointError, ConfigError, CorpusError
from mlm_dist.object_store import ObjectStore
from mlm_dist.training.callbacks import Callback

FLAGS = ("--tracking.trackers=[tensorboard]", *launching.SHORT)


def fetched(tmp_path: Path, source: str = f"s3://{BUCKET}/docs", **values: Any) -> SourceFiles:
    return acquire(CorpusConfig(source=source, **values), tmp_path / "cache")


def states(files: SourceFiles) -> dict[str, tuple[int, int]]:
    """{name: (inode, time of last change)}, which differ for a file that was downloaded again."""
    found = {name: (files.root / name).stat() for name in files.files}
    return {name: (one.st_ino, one.st_mtime_ns) for name, one in found.items()}


def test_matching_objects_are_downloaded_and_others_counted(s3: Server, tmp_path: Path) -> None:
    s3.put("docs/a.md", "first")
    s3.put("docs/guide/b.MD", "second")
    s3.put("docs/guide/", "")  # as consoles make folders
    s3.put("docs/c.csv", "third")
    s3.put("docs/.hidden/d.md", "fourth")
    s3.put("docs/../e.md", "fifth")
    s3.put("docs/a.md/f.md", "sixth")
    s3.put("docs/run/metrics.jsonl", "{}")
    s3.put("docs/run/config.yaml", "")
    s3.put("docs/run/model/README.md", "card")
    s3.put("docs2/g.md", "of another folder")
    files = fetched(tmp_path)
    assert {name: (files.root / name).read_text() for name in files.files} == {"a.md": "first", "guide/b.MD": "second"}
    assert files.location == f"s3://{BUCKET}/docs" and files.kind == "object-store"
    assert files.unmatched == {".csv": 1}
    assert files.dropped == {
        "hidden folder": [".hidden/d.md"],
        "object whose name cannot be that of a file": ["../e.md", "a.md/f.md"],
        "run directory": ["run/model/README.md"],
    }
    assert not [path for path in (tmp_path / "cache").rglob("e.md") if path.is_file()]


def test_only_changed_objects_are_downloaded_again(s3: Server, tmp_path: Path) -> None:
    for name in ("same", "changed", "removed", "torn"):
        s3.put(f"docs/{name}.md", f"{name} text")
    files = fetched(tmp_path)
    before, digest = states(files), files.digest()
    assert states(fetched(tmp_path)) == before
    s3.put("docs/changed.md", "CHANGED text")  # as long as before
    s3.delete("docs/removed.md")
    s3.put("docs/new.md", "new text")
    (files.root / "torn.md").write_text("torn")
    files = fetched(tmp_path)
    assert {name: (files.root / name).read_text() for name in files.files} == {
        "changed.md": "CHANGED text",
        "new.md": "new text",
        "same.md": "same text",
        "torn.md": "torn text",
    }
    assert states(files)["same.md"] == before["same.md"]
    assert files.digest() != digest


@pytest.mark.slow
def test_killed_download_continues(s3: Server, tmp_path: Path) -> None:
    count = 200
    for i in range(count):
        s3.put(f"docs/{i:03d}.md", f"document {i}")
    flags = (f"--corpus.source=s3://{BUCKET}/docs", f"--corpus.cache_dir={tmp_path / 'cache'}", *launching.TINY)
    process = forking.start("prepare", flags, tmp_path / "log", launching.environment())

    def done() -> list[str]:
        records = [*(tmp_path / "cache").glob("sources/*/objects.jsonl")]
        return records[0].read_text().splitlines() if records else []

    deadline = time.monotonic() + 120
    while len(done()) < 10:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    finished = {json.loads(line)["name"] for line in done()}
    assert 10 <= len(finished) < count, "it was killed too late"
    root = next((tmp_path / "cache").glob("sources/*/files"))
    before = {name: (root / name).stat().st_ino for name in finished}
    (root / "000.md").write_text("torn")
    files = fetched(tmp_path)
    assert [(files.root / name).read_text() for name in files.files] == [f"document {i}" for i in range(count)]
    after = {name: (root / name).stat().st_ino for name in finished - {"000.md"}}
    assert after == {name: inode for name, inode in before.items() if name != "000.md"}


def test_object_is_a_file_of_records(s3: Server, tmp_path: Path) -> None:
    s3.put("data/texts.jsonl.gz", gzip.compress(b'{"body": "one"}\n{"body": "two"}\n'))
    files = fetched(tmp_path, f"s3://{BUCKET}/data/texts.jsonl.gz", text=["body"])
    assert [*files.files] == ["texts.jsonl.gz"] and files.records
    assert files.location == f"s3://{BUCKET}/data/texts.jsonl.gz"


def test_records_without_documents_are_read_as_of_a_folder(s3: Server, tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["one", "two"]}).to_parquet(tmp_path / "a.parquet")
    s3.put("table/part/a.parquet", (tmp_path / "a.parquet").read_bytes())
    s3.put("table/README.md", "about it")
    s3.put("table/picture.png", "")
    files = fetched(tmp_path, f"s3://{BUCKET}/table")
    assert [*files.files] == ["part/a.parquet"] and files.records
    assert files.dropped == {"about the dataset": ["README.md"]} and files.unmatched == {".png": 1}
    Dataset.from_dict({"text": ["three"]}).save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "saved").iterdir():
        s3.put(f"saved/{path.name}", path.read_bytes())
    files = fetched(tmp_path, f"s3://{BUCKET}/saved")
    assert [Path(name).suffix for name in files.files] == [".arrow"] and files.records


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (f"s3://{BUCKET}/none", f"there is no object s3://{BUCKET}/none, and none below it"),
        ("s3://no-such-bucket/docs", "there is no object s3://no-such-bucket/docs"),
        (f"s3://{BUCKET}/docs", r"no object below .* matches corpus\.patterns .*1 \.png"),
        (f"s3://{BUCKET}/docs/a.png", r"is a \.png file; give a folder, or a file that ends in"),
    ],
)
def test_source_without_documents_is_refused(source: str, message: str, s3: Server, tmp_path: Path) -> None:
    s3.put("docs/a.png", "picture")
    with pytest.raises(CorpusError, match=rf"corpus\.source: .*{message}"):
        fetched(tmp_path, source)


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(CorpusError, match=r"corpus\.source: gs://b/docs needs the package gcsfs; run pip install"):
        fetched(tmp_path, "gs://b/docs")


def test_file_of_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is busy at first; the query of the address, which may be a signature, is not recorded."""
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0, 0.0))
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "texts.jsonl").write_text('{"text": "one"}\n')
    failures = [503, 503]

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            if failures:
                self.send_error(failures.pop())
                return None
            return super().send_head()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Handler(*a, directory=str(tmp_path / "web"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/texts.jsonl"
        files = fetched(tmp_path, f"{address}?signature=s3cret")
        server.shutdown()
    assert [(files.root / name).read_text() for name in files.files] == ['{"text": "one"}\n']
    assert files.location == address and not failures


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("s3://b/docs", "object-store"),
        ("hf://datasets/me/texts", "object-store"),
        ("https://example.org/texts.csv.gz", "object-store"),
        ("https://example.org/team/docs", "git"),
        ("https://github.com/me/docs/blob/main/texts.txt", "git"),
        ("https://example.org/a.git#v1.txt", "git"),
        ("file:///srv/a.git", "git"),
    ],
)
def test_kinds_of_addresses(source: str, kind: str) -> None:
    assert sources.recognize(source) == kind


@pytest.mark.parametrize("key", ["corpus.store", "checkpoint.store"])
@pytest.mark.parametrize(
    "address", ["runs/mine", "https://me:s3cret@h/a", "memory://a", "none://a", "s3://", "zip://a::s3://b"]
)
def test_what_is_no_store_is_refused_without_quoting_it(key: str, address: str) -> None:
    section = CorpusConfig if key == "corpus.store" else CheckpointConfig
    with pytest.raises(ConfigError, match=rf"^{key}: must be the address of a folder in an object store") as refused:
        section(store=address)
    assert "s3cret" not in str(refused.value)


def test_store_below_a_source_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"corpus\.store: is a folder of corpus\.source"):
        CorpusConfig(source="s3://b/docs/", store="s3://b/docs/corpora")
    assert CorpusConfig(source="s3://b/docs", store="s3://b/docs-prepared").store


def test_mounted_folder_is_a_store(tmp_path: Path) -> None:
    store = ObjectStore((tmp_path / "mounted").as_uri(), "corpus.store")
    assert store.list() == {} and store.read("a/b") is None
    store.write("a/b", b"content")
    assert store.read("a/b") == b"content" and [*store.list()] == ["a/b"] and [*store.list("a")] == ["b"]
    store.remove(["a/b", "a/c"])
    assert store.list() == {}


# ---- prepared corpora


def prepare(prose: Path, cache: Path) -> launching.Done:
    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={cache}", f"--corpus.store=s3://{BUCKET}/corpora")
    return launching.here("prepare", *flags, *launching.TINY)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_corpus_is_shared_and_a_damaged_one_replaced(s3: Server, prose: Path, tmp_path: Path) -> None:
    first = prepare(prose, tmp_path / "first")
    assert "uploaded the corpus" in first.log
    expected = contents(first.result.folder)
    stored = {name: s3.get(name) for name in s3.names()}
    assert stored == {f"corpora/{first.result.digest}/{name}": content for name, content in expected.items()}
    second = prepare(prose, tmp_path / "second")
    assert "downloaded" in second.log and "preparing" not in second.log and "uploaded" not in second.log
    assert contents(second.result.folder) == expected
    for victim in ("train/", "manifest.json"):
        name = next(name for name in stored if victim in name)
        if victim == "manifest.json":
            s3.put(name, stored[name][:-40])
        else:
            s3.damage(name)
        third = prepare(prose, tmp_path / f"third-{victim.strip('/')}")
        assert "the corpus is prepared again and replaces it" in third.log and "preparing" in third.log
        assert contents(third.result.folder) == expected
        assert {name: s3.get(name) for name in s3.names()} == stored


def test_manifest_in_a_store_cannot_name_files_elsewhere(s3: Server, prose: Path, tmp_path: Path) -> None:
    first = prepare(prose, tmp_path / "first")
    name = f"corpora/{first.result.digest}/manifest.json"
    manifest = json.loads(s3.get(name))
    manifest["files"]["../outside"] = {"size": 1, "sha256": "0" * 64}
    s3.put(f"corpora/{first.result.digest}/../outside", "x")
    s3.put(name, json.dumps(manifest))
    second = prepare(prose, tmp_path / "second")
    assert "names ../outside, which is not a file of its folder" in second.log
    assert not [*(tmp_path / "second").rglob("outside")]


def test_killed_upload_of_a_corpus_leaves_none_and_is_completed(s3: Server, prose: Path, tmp_path: Path) -> None:
    flags = (f"--corpus.source={prose}", f"--corpus.store=s3://{BUCKET}/corpora", *launching.TINY)
    ended = forking.run(
        *("prepare", *flags, f"--corpus.cache_dir={tmp_path / 'first'}"),
        log=tmp_path / "log",
        environ={"MLM_DIST_FAULT": "in_upload@0"},
    )
    assert ended.returncode == -9, ended.output
    assert s3.names() and not [name for name in s3.names() if name.endswith("manifest.json") and name.count("/") == 2]
    done = prepare(prose, tmp_path / "first")
    assert "uploaded the corpus" in done.log and "preparing" not in done.log
    again = prepare(prose, tmp_path / "second")
    assert "preparing" not in again.log and contents(again.result.folder) == contents(done.result.folder)


def test_store_that_cannot_be_written_to_does_not_lose_the_corpus(s3: Server, prose: Path, tmp_path: Path) -> None:
    s3.client.delete_bucket(Bucket=BUCKET)
    done = prepare(prose, tmp_path / "cache")
    assert "corpus.store: cannot upload" in done.log and "The specified bucket does not exist" in done.log
    assert len(done.result.rows("train"))


# ---- checkpoints


def train_flags(prose: Path, machine: Path, *more: str) -> tuple[str, ...]:
    """A run on a machine that has nothing but the documents."""
    return (
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={machine / 'cache'}", f"--output_dir={machine / 'run'}"),
        *(f"--corpus.store=s3://{BUCKET}/corpora", f"--checkpoint.store=s3://{BUCKET}/runs/mine", *FLAGS, *more),
    )


def weights(run: Path, step: int = 12) -> bytes:
    return (run / "checkpoints" / f"step-{step:08d}" / "model.safetensors").read_bytes()


def history(run: Path) -> list[tuple[str, int, float]]:
    kinds = ("train", "validation")
    return [(kind, line["step"], line["loss"]) for kind in kinds for line in launching.metrics(run, kind)]


def stored_steps(s3: Server) -> list[int]:
    names = s3.names("runs/mine/checkpoints/")
    return sorted(int(name.split("/")[0].removeprefix("step-")) for name in names if name.endswith("manifest.json"))


@pytest.mark.slow
def test_run_continues_on_another_machine(s3: Server, prose: Path, run: Path, tmp_path: Path) -> None:
    """Documents, corpus and checkpoints are in the store; the first machine is lost while it uploads."""
    for path in prose.iterdir():
        s3.put(f"docs/{path.name}", path.read_bytes())
    source, first, second = f"--corpus.source=s3://{BUCKET}/docs", tmp_path / "first", tmp_path / "second"
    flags = train_flags(prose, first, source)
    fault = {"MLM_DIST_FAULT": "in_upload@12"}
    ended = forking.run("train", *flags, log=tmp_path / "log", environ=fault)
    assert ended.returncode == -9, ended.output
    assert stored_steps(s3) == [6] and s3.names("runs/mine/checkpoints/step-00000012/")
    report = (first / "run" / "report.json").read_bytes()
    shutil.rmtree(first)
    done = launching.here("train", *train_flags(prose, second, source))
    assert "preparing" not in done.log and "at step 6" in done.log
    assert done.result.is_finished and stored_steps(s3) == [6, 12]
    assert weights(second / "run") == weights(run)
    assert history(second / "run") == history(run)
    assert (second / "run" / "report.json").read_bytes() == report
    assert len([*(second / "run" / "tensorboard").rglob("events.*")]) > 1
    assert not [path for path in (second / "run" / "checkpoints").iterdir() if path.name.startswith(".")]
    third = launching.here("train", *train_flags(prose, tmp_path / "third", source))
    assert third.result.is_finished and "the run is finished" in third.log
    assert history(tmp_path / "third" / "run") == history(run)


@pytest.fixture
def stored(s3: Server, prose: Path, tmp_path: Path) -> Server:
    """A store with the checkpoints of a run."""
    launching.here("train", *train_flags(prose, tmp_path / "first"))
    shutil.rmtree(tmp_path / "first")
    return s3


@pytest.mark.slow
def test_damaged_checkpoint_in_a_store_is_passed_over(stored: Server, prose: Path, tmp_path: Path) -> None:
    stored.damage("runs/mine/checkpoints/step-00000012/optimizer.safetensors")
    done = launching.here("train", *train_flags(prose, tmp_path / "second"))
    assert "skipped a checkpoint that is not good" in done.log and "at step 6" in done.log
    assert stored_steps(stored) == [6, 12]
    shutil.rmtree(tmp_path / "second")
    for step in (6, 12):
        stored.damage(f"runs/mine/checkpoints/step-{step:08d}/model.safetensors")
    with pytest.raises(CheckpointError, match=r"checkpoint\.store: no checkpoint in .* is good"):
        launching.here("train", *train_flags(prose, tmp_path / "third"))
    assert not [*(tmp_path / "third" / "run" / "checkpoints").glob("*")]


@pytest.mark.slow
def test_checkpoints_of_another_run_in_a_store_are_refused(stored: Server, prose: Path, tmp_path: Path) -> None:
    before = stored.names("runs/")
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.store: .* does not continue \(seed: .* name another"
    ) as refused:
        launching.here("train", *train_flags(prose, tmp_path / "second", "--seed=8"))
    assert "never" not in str(refused.value)
    with pytest.raises(CheckpointError, match=r"checkpoint\.store: .* holds checkpoints of an earlier run"):
        launching.here("train", *train_flags(prose, tmp_path / "third", "--checkpoint.resume=never"))
    assert stored.names("runs/") == before
    assert not [*(tmp_path / "second" / "run" / "checkpoints").glob("*")]


@pytest.mark.slow
def test_store_has_the_checkpoints_that_the_directory_has(s3: Server, prose: Path, tmp_path: Path) -> None:
    more = ("--checkpoint.every=2", "--checkpoint.keep_last=1", "--export.checkpoint=best")
    launching.here("train", *train_flags(prose, tmp_path, *more))
    local = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    for folder in ("checkpoints", "records"):
        assert sorted({name.split("/")[0] for name in s3.names(f"runs/mine/{folder}/")}) == local


@pytest.mark.slow
def test_run_survives_a_store_that_is_lost(s3: Server, prose: Path, run: Path, tmp_path: Path) -> None:
    class Losing(Callback):
        """Removes the bucket after the first step."""

        def on_step(self, step: int, line: Any) -> None:
            if step == 1:
                for name in s3.names():
                    s3.delete(name)
                s3.client.delete_bucket(Bucket=BUCKET)

    with launching.logged() as log:
        result = train.run(parse([*train_flags(prose, tmp_path)], prog="train.py"), [Losing()])
    assert result.is_finished and weights(tmp_path / "run") == weights(run)
    assert "the checkpoint of step 12 is not uploaded: checkpoint.store: cannot upload" in log.getvalue()


@pytest.mark.slow
def test_old_checkpoints_stay_in_a_store_until_a_newer_one_is_there(prose: Path, tmp_path: Path) -> None:
    """In a folder, where what can be written can be chosen."""
    mounted, stored = tmp_path / "mounted", tmp_path / "mounted" / "checkpoints" / "step-00000006" / "manifest.json"

    class Refusing(Callback):
        """Once the first checkpoint is uploaded, no records can be written any more."""

        def on_step(self, step: int, line: Any) -> None:
            if step == 11:
                deadline = time.monotonic() + 60
                while not stored.exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
                shutil.rmtree(mounted / "records")
                (mounted / "records").touch()

    store = (f"--checkpoint.store={mounted.as_uri()}", "--checkpoint.keep_last=1")
    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.SHORT)
    with launching.logged() as log:
        train.run(parse([*flags, *store, f"--output_dir={tmp_path / 'run'}"], prog="train.py"), [Refusing()])
    assert "the checkpoint of step 12 is not uploaded" in log.getvalue()
    assert stored.exists() and not (tmp_path / "run" / "checkpoints" / "step-00000006").exists()


def test_store_that_cannot_be_written_to_is_refused_before_the_first_step(
    s3: Server, prose: Path, tmp_path: Path
) -> None:
    flags = train_flags(prose, tmp_path, "--checkpoint.store=s3://no-such-bucket/mine")
    with pytest.raises(ConfigError, match=r"checkpoint\.store: cannot upload s3://no-such-bucket/mine/config\.yaml"):
        launching.here("train", *flags)
    assert launching.metrics(tmp_path / "run", "train") == []


@pytest.mark.slow
def test_two_processes_use_the_stores(s3: Server, prose: Path, tmp_path: Path) -> None:
    more = ("--checkpoint.every=4",)
    whole = launching.accelerate("cpu_2", "train.py", *train_flags(prose, tmp_path / "first", *more))
    assert whole.returncode == 0, whole.output
    assert stored_steps(s3) == [8, 12]
    for name in s3.names("runs/mine/"):
        if "step-00000012" in name:
            s3.delete(f"runs/mine/{name}")
    ended = launching.accelerate("cpu_2", "train.py", *train_flags(prose, tmp_path / "second", *more))
    assert ended.returncode == 0 and "at step 8" in ended.output, ended.output
    assert weights(tmp_path / "second" / "run") == weights(tmp_path / "first" / "run")
    assert history(tmp_path / "second" / "run") == history(tmp_path / "first" / "run")
