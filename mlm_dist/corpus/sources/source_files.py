"""Where documents come from: whatever the user names becomes a folder of files on the shared disk."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus.sources import git, hub, python_docs
from mlm_dist.errors import CorpusError
from mlm_dist.files import sha256_of

RECORD_SUFFIXES = (".json", ".jsonl", ".parquet", ".txt")
HASHED_TOGETHER = 64  # files; handing each to a thread by itself would cost more than hashing it


@dataclass(frozen=True)
class Source:
    """Files that hold documents.

    Args:
        kind: python-docs, folder, file, git or hub.
        location: What the user named, without credentials.
        commit: The commit the files belong to, where there is one.
        root: The folder the files lie in.
        files: {path relative to root: SHA-256 of its content}, sorted by path.
        states: {path of a file: its `state` just before it was hashed}.
        row_groups: {path of a .parquet file: their number, 0 where it cannot be read}.
        set_aside: {reason: paths that cannot be used}.
        records: Whether a .txt file holds many documents (it was named itself) or is one (it lies in a folder).
    """

    kind: str
    location: str
    commit: str | None
    root: Path
    files: dict[str, str]
    states: dict[str, list[int]]
    row_groups: dict[str, int]
    set_aside: dict[str, list[str]]
    records: bool

    def digest(self) -> str:
        """Depends on names and contents alone: not on where the folder is, nor on times or owners."""
        lines = [f"{path}\0{content}" for path, content in self.files.items()]
        return hashlib.sha256("\n".join([str(self.records), *lines]).encode("utf-8", "surrogateescape")).hexdigest()


def state(path: Path | str) -> list[int]:
    """By what a changed file is known without reading it: its bytes, and the time of its last change in nanoseconds.

    Not its inode: some shared disks number the same file differently on each machine.

    Raises:
        OSError: It is not there.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns]


def acquire(config: CorpusConfig, cache_dir: Path) -> Source:
    """Find or fetch what `corpus.source` names, and hash every file of it.

    Raises:
        CorpusError: There is no such source, it cannot be fetched, or its address is not one we may use.
    """
    name = config.source
    path = Path(os.path.expanduser(name))
    if name == "python-docs":
        file = python_docs.write(cache_dir / "sources")
        return _listed("python-docs", name, None, file.parent, [file.name], {}, records=True)
    if git.is_repository(name):
        root, commit = git.fetch(name, config.patterns, cache_dir / "sources")
        return _from_folder("git", git.without_credentials(name), commit, root, config.patterns, cache_dir)
    if os.path.isdir(path):
        return _from_folder("folder", name, git.commit_of(path), path.resolve(), config.patterns, cache_dir)
    if os.path.isfile(path):
        if path.suffix.lower() not in RECORD_SUFFIXES:
            raise CorpusError(
                f"corpus.source: {name} is a {path.suffix or 'nameless'} file; give a folder, or a file that ends in "
                + ", ".join(RECORD_SUFFIXES)
            )
        path = path.resolve()
        return _listed("file", name, None, path.parent, [path.name], {}, records=True)
    if os.path.exists(path):
        raise CorpusError(f"corpus.source: {name} is neither a file nor a folder")
    if _is_on_hub(name):
        root, revision = hub.fetch(name, cache_dir / "sources")
        return _from_folder("hub", name, revision, root, ["*.parquet"], cache_dir)
    raise _unknown(name)


def refuse_unknown(name: str) -> None:
    """Refuse at once what is no source; whether one that is elsewhere can be fetched is seen when it is.

    Raises:
        CorpusError: As `acquire`.
    """
    is_known = name == "python-docs" or git.is_repository(name) or os.path.exists(os.path.expanduser(name))
    if not (is_known or _is_on_hub(name)):
        raise _unknown(name)


def _is_on_hub(name: str) -> bool:
    """Whether what is not here may be the name of a dataset on the hub."""
    fits = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None
    return fits and Path(name).suffix not in RECORD_SUFFIXES


def _unknown(name: str) -> CorpusError:
    return CorpusError(f"corpus.source: {name} does not exist; give a folder, a file, a git URL or python-docs")


def _from_folder(
    kind: str, location: str, commit: str | None, root: Path, patterns: list[str], cache_dir: Path
) -> Source:
    """All files below `root` that a pattern matches; links and special files are set aside, never followed.

    Set aside whole are folders that hold no documents of the user's: hidden ones, environments and packages, and what
    this program has written itself, so that `--corpus.source .` means the same before and after a run.
    """
    from pathspec import GitIgnoreSpec

    spec = GitIgnoreSpec.from_lines(patterns)
    names: list[str] = []
    set_aside: dict[str, list[str]] = {}

    def refuse(error: OSError) -> None:
        folder = os.path.relpath(error.filename, root)
        set_aside.setdefault(f"unreadable folder ({error.strerror})", []).append(folder)

    cache = cache_dir.resolve()
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        below = os.path.relpath(folder, root)
        why = None if below == os.curdir else _no_documents(Path(folder), files, cache)
        if why is not None:
            set_aside.setdefault(why, []).append(below)
            subfolders.clear()
            continue
        inside = "" if below == os.curdir else below
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        set_aside.setdefault("symbolic link", []).extend(os.path.join(inside, name) for name in links)
        subfolders[:] = [name for name in subfolders if name != ".git" and name not in links]
        for file in files:
            relative = os.path.join(inside, file)
            if not spec.match_file(relative.replace("\n", " ")):  # to the library a name ends with its line
                continue
            try:
                mode = os.lstat(os.path.join(folder, file)).st_mode
            except OSError as error:  # it has gone since the folder was listed
                set_aside.setdefault(f"unreadable ({error.strerror})", []).append(relative)
                continue
            if stat.S_ISREG(mode):
                names.append(relative)
            else:
                reason = "symbolic link" if stat.S_ISLNK(mode) else "not a regular file"
                set_aside.setdefault(reason, []).append(relative)
    if not names:
        count = sum(map(len, set_aside.values()))
        aside = f" ({count} links or special files were set aside)" if count else ""
        raise CorpusError(f"corpus.source: no file in {location} matches corpus.patterns {patterns}{aside}")
    return _listed(kind, location, commit, root, names, set_aside, records=False)


def _no_documents(folder: Path, files: list[str], cache: Path) -> str | None:
    """Why a folder below the root is no place for documents, if it is none."""
    if folder == cache:
        return "corpus.cache_dir"
    if "metrics.jsonl" in files and "config.yaml" in files:
        return "run directory"
    if "pyvenv.cfg" in files:
        return "virtual environment"
    if folder.name == "node_modules":
        return "installed packages"
    return "hidden folder" if folder.name.startswith(".") else None


def _listed(
    kind: str,
    location: str,
    commit: str | None,
    root: Path,
    names: list[str],
    set_aside: dict[str, list[str]],
    *,
    records: bool,
) -> Source:
    def contents(some: list[str]) -> list[tuple[list[int], str] | OSError]:
        found: list[tuple[list[int], str] | OSError] = []
        for name in some:
            path = os.path.join(root, name)
            try:
                found.append((state(path), sha256_of(path)))
            except OSError as error:
                found.append(error)
        return found

    names = sorted(names)
    files: dict[str, str] = {}
    states: dict[str, list[int]] = {}
    batches = [names[i : i + HASHED_TOGETHER] for i in range(0, len(names), HASHED_TOGETHER)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for batch, hashes in zip(batches, pool.map(contents, batches), strict=True):
            for name, content in zip(batch, hashes, strict=True):
                if isinstance(content, OSError):
                    set_aside.setdefault(f"unreadable ({content.strerror})", []).append(name)
                else:
                    states[name], files[name] = content
    kept = {reason: sorted(paths) for reason, paths in set_aside.items() if paths}
    row_groups = {name: _row_groups(root / name) for name in files if name.lower().endswith(".parquet")}
    return Source(kind, location, commit, root, files, states, row_groups, kept, records)


def _row_groups(path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return int(file.num_row_groups)
    except (pa.ArrowException, OSError):
        return 0  # the reader says what is wrong with it
