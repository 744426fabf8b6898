"""Limits of the machine: a full or read-only disk, too many open files, too little memory; and the modes of files.

Each case ends with one line that names a path and a remedy; what was saved before stays, and the next try succeeds.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import launching
import numpy as np
import pytest
from making import made_up_text, small_disk

from mlm_dist import system_errors
from mlm_dist.errors import ConfigError, CorpusError, ResourceError, UserError
from mlm_dist.files import lock, write_array, write_bytes, write_whole

FLAGS = ("--tokenizer.train_vocab_size=300", "--rows.max_length=16", "--corpus.min_chars=50")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 documents, about 100 KB."""
    folder = tmp_path_factory.mktemp("documents")
    for i in range(40):
        (folder / f"{i:02d}.md").write_text(made_up_text(i, 400))
    return folder


def prepare(documents: Path, cache: Path, *more: str) -> Path:
    """Prepare these documents in this process, and return the folder of the corpus."""
    done = launching.here("prepare", f"--corpus.source={documents}", f"--corpus.cache_dir={cache}", *FLAGS, *more)
    folder: Path = done.result.folder
    return folder


def require_line(error: UserError, *parts: str) -> None:
    """A message is one line with a path and a remedy."""
    message = str(error)
    assert message.isprintable() and ";" in message, message
    assert all(part in message for part in parts), message


def digest_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- one place that explains ---


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), ["cannot use /a/b (No space", "free some space"]),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), ["/a/b (Read-only", "make it writable"]),
        (PermissionError(errno.EACCES, "Permission denied", b"/a/b"), ["/a/b (Permission", "change its permissions"]),
        (OSError(errno.EMFILE, "Too many open files", "/a/b"), ["/a/b (Too many", "ulimit -n"]),
        (OSError(errno.EFBIG, "File too large", "/a/b"), ["/a/b (File too large", "ulimit -f"]),
        (OSError(errno.EIO, "Input/output error", "/a"), ["/a (Input/output", "check the disk"]),
        (RuntimeError("can't start new thread"), ["ulimit -u"]),
        (Exception("No space left on device (os error 28)"), ["No space left", "free some space"]),
        (
            OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
            ["No space", "free some"],
        ),
        (MemoryError(), ["memory: ", "more memory"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), ["memory: ", "micro_size"]),
    ],
)
def test_errors_of_the_system_become_one_line(error: Exception, parts: list[str]) -> None:
    with pytest.raises(ResourceError) as caught, system_errors.explained():
        raise error
    require_line(caught.value, *parts)


@pytest.mark.parametrize(
    "error",
    [KeyError("a"), ValueError("[x] (os error)"), ConnectionResetError(104, "reset"), ConfigError("(os error 28)")],
)
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, system_errors.explained():
        raise error
    assert caught.value is error


def test_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    write_bytes(path, b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write to an open file does

    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(path, fail)
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["some.json"]


def test_lock_is_not_left_out_for_want_of_open_files(tmp_path: Path) -> None:
    with few_files(0), pytest.raises(OSError, match="Too many open files"):
        lock(tmp_path / "a.lock", wait=False)


@contextlib.contextmanager
def few_files(more: int) -> Iterator[None]:
    """A limit on open files: only some can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    used = {*map(int, os.listdir("/proc/self/fd"))} - {lowest}  # which is that of the listing, too
    resource.setrlimit(resource.RLIMIT_NOFILE, ([i for i in range(soft) if i not in used][more], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """A limit on the size of files; a write beyond it fails, as on a full disk."""
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# --- preparation ---


def check_prepare(documents: Path, cache: Path, limit: contextlib.AbstractContextManager[object], *parts: str) -> bool:
    """Preparation under a limit ends with one line, or succeeds; without it, it succeeds. Whether it was refused."""
    refused = False
    with limit:
        try:
            prepare(documents, cache)
        except UserError as error:
            refused = True
            require_line(error, *parts)
    assert digest_of(prepare(documents, cache)) == digest_of(prepare(documents, cache.parent / "expected"))
    return refused


@pytest.mark.parametrize("size", ["4k", "64k", "128k", "192k", "256k"])
def test_full_disk_while_preparing(size: str, documents: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size) as disk:
        with pytest.raises(UserError) as caught:
            prepare(documents, disk / "cache")
        require_line(caught.value, str(disk / "cache"), "No space left", "free some space")
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert digest_of(prepare(documents, disk / "cache")) == digest_of(prepare(documents, tmp_path / "other"))


@pytest.mark.parametrize("inodes", range(3, 24, 2))
def test_no_inodes_while_preparing(inodes: int, documents: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", f"40m,nr_inodes={inodes}") as disk:
        with pytest.raises(UserError) as caught:
            prepare(documents, disk / "cache")
        require_line(caught.value, str(disk / "cache"), "No space left")
        subprocess.run(["mount", "-o", "remount,nr_inodes=1000", str(disk)], check=True)
        assert prepare(documents, disk / "cache").is_dir()


@pytest.mark.parametrize("size", [1, 100, 1000, 5000, 20_000, 40_000])
def test_limit_on_file_sizes_while_preparing(size: int, documents: Path, tmp_path: Path) -> None:
    assert check_prepare(documents, tmp_path / "cache", small_files(size), "File too large", "ulimit -f")


def test_too_many_open_files_while_preparing(documents: Path, tmp_path: Path) -> None:
    prepare(documents, tmp_path / "warm")  # what is imported then needs no files
    outcomes = [
        check_prepare(documents, tmp_path / str(more), few_files(more), "Too many open files", "ulimit -n")
        for more in range(6)
    ]
    assert any(outcomes)


def test_cache_that_is_no_writable_folder(documents: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CorpusError, match=r"^corpus\.cache_dir: cannot use .*; name another folder"):
            prepare(documents, cache)
    with small_disk(tmp_path / "disk", "40m") as disk:
        (disk / "cache").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError) as caught:
            prepare(documents, disk / "cache")
        require_line(caught.value, str(disk / "cache"), "Read-only file system", "make it writable")


# --- export and report ---


@pytest.mark.parametrize("job", ["export", "report", "validate"])
@pytest.mark.parametrize("limit", ["file size", "open files", "inodes"])
def test_jobs_about_a_run_keep_its_files(job: str, limit: str, copy: Path, tmp_path: Path) -> None:
    more = ["--validation.sentences=0"] if job == "validate" else []
    with contextlib.ExitStack() as stack:
        run = copy
        if limit == "inodes":
            disk = stack.enter_context(small_disk(tmp_path / "disk", "200m"))
            run = Path(shutil.copytree(copy, disk / "run"))
            used = os.statvfs(disk).f_files - os.statvfs(disk).f_ffree
            subprocess.run(["mount", "-o", f"remount,nr_inodes={used}", str(disk)], check=True)
        else:
            stack.enter_context(small_files(500) if limit == "file size" else few_files(0))
        before = digest_of(run) if limit == "inodes" else None
        with pytest.raises(UserError) as caught:
            launching.here(job, f"--output_dir={run}", *more, of_a_run=True)
        require_line(caught.value)
        if before is not None:
            assert str(run) in str(caught.value)
            assert digest_of(run) == before
    launching.here(job, f"--output_dir={copy}", *more, of_a_run=True)


# --- modes of files ---


@pytest.mark.parametrize(
    "mask", [0o027, *(pytest.param(mask, marks=pytest.mark.slow) for mask in (0o022, 0o077, 0o002))]
)
def test_file_modes_follow_the_umask(mask: int, tmp_path: Path, prose: Path) -> None:
    before = os.umask(mask)
    try:
        documents = Path(shutil.copytree(prose, tmp_path / "docs"))
        launching.finish(tmp_path / "run", documents)
        launching.here("validate", f"--output_dir={tmp_path / 'run'}", "--validation.sentences=0", of_a_run=True)
    finally:
        os.umask(before)
    wrong = [
        f"{path.relative_to(tmp_path)}: {stat.S_IMODE(path.stat().st_mode):o}"
        for part in ("run", "prose-cache")
        for path in (tmp_path / part, *(tmp_path / part).rglob("*"))
        if stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~mask
    ]
    assert not wrong


# --- planted caches ---


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give folders away")
@pytest.mark.parametrize(
    ("owner", "mode", "is_refused"),
    [(12345, 0o777, True), (12345, 0o775, True), (12345, 0o755, False), (0, 0o777, False), (0, 0o755, False)],
)
@pytest.mark.parametrize("place", ["cache", "corpus"])
def test_cache_of_another_user_that_others_can_change(
    place: str, owner: int, mode: int, is_refused: bool, documents: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    corpus = prepare(documents, cache)
    folder = cache if place == "cache" else corpus
    os.chown(folder, owner, owner)
    folder.chmod(mode)
    if not is_refused:
        assert prepare(documents, cache) == corpus
        return
    with pytest.raises(
        CorpusError, match=rf"^corpus\.cache_dir: {folder} belongs to user 12345 .*chmod go-w"
    ) as caught:
        prepare(documents, cache)
    require_line(caught.value, f"mode {mode:o}")


def test_planted_corpus_that_reads_files_outside_is_prepared_again(documents: Path, tmp_path: Path) -> None:
    """Its manifest is right about the files that it names, but others are read."""
    corpus = prepare(documents, tmp_path / "cache")
    expected = digest_of(corpus)
    for change in (outside_rows, outside_documents, link_to_outside, another_digest, nested):
        change(corpus, tmp_path)
        assert digest_of(prepare(documents, tmp_path / "cache")) == expected, change.__name__
        assert not any(path.is_symlink() for path in corpus.rglob("*"))


def plant(corpus: Path, name: str, content: bytes, **changes: object) -> None:
    """Change a file of a corpus, and its manifest with it."""
    (corpus / name).write_bytes(content)
    manifest = json.loads((corpus / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (corpus / "manifest.json").write_text(json.dumps(manifest | changes))


def outside_rows(corpus: Path, place: Path) -> None:
    """Rows from a file outside."""
    shutil.copy(next((corpus / "train").glob("*.arrow")), place / "rows.arrow")
    state = json.loads((corpus / "train" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../../../rows.arrow"}]
    plant(corpus, "train/state.json", json.dumps(state).encode())


def outside_documents(corpus: Path, place: Path) -> None:
    """Documents from a file outside."""
    shutil.copy(next((corpus / "documents").glob("*.parquet")), place / "some.parquet")
    plant(corpus, "selection.npy", (corpus / "selection.npy").read_bytes(), shards=["../../../some"])


def link_to_outside(corpus: Path, place: Path) -> None:
    """A file of the corpus is a link to the same content outside."""
    path = corpus / "token_counts.npy"
    (place / "counts.npy").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(place / "counts.npy")


def another_digest(corpus: Path, place: Path) -> None:
    """The manifest of another corpus."""
    plant(corpus, "selection.npy", (corpus / "selection.npy").read_bytes(), digest="0" * 16)


def nested(corpus: Path, place: Path) -> None:
    """A manifest that is nested without end."""
    (corpus / "manifest.json").write_text("[" * 100_000)


def test_array_that_the_disk_does_not_take_is_named(tmp_path: Path) -> None:
    """numpy says how many items it wrote, and nothing about the disk or the file."""
    with small_disk(tmp_path / "disk", "64k") as disk:
        with pytest.raises(OSError, match="No space left on device") as caught:
            write_array(disk / "counts.npy", np.zeros(100_000))
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(disk / "counts.npy"))
    write_array(tmp_path / "counts.npy", np.arange(5))
    assert np.load(tmp_path / "counts.npy", allow_pickle=False).tolist() == [0, 1, 2, 3, 4]
