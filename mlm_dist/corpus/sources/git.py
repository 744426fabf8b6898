"""Git repositories as a source: only matching files are downloaded, and no code of the repository runs."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.sources import git_address, git_command, git_revision
from mlm_dist.corpus.sources.git_address import Address
from mlm_dist.corpus.sources.matching_files import Patterns
from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError
from mlm_dist.files import lock, write_json

SUBMODULE = "submodule, which is not fetched"


class GitRepository:
    """A git address, optionally with #branch, #tag or #commit, a page of a git host, or a bare repository on disk."""

    is_local: ClassVar[bool] = False

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return git_address.is_repository(name, key)

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        folder = fetch(request.name, request.patterns, request.folder, request.key)
        origin = json.loads((folder / "origin.json").read_text("utf-8"))
        root = folder / "files" / origin["path"]
        if not root.exists():
            raise CorpusError(
                f"{request.key}: no file below {origin['path']} of {without_credentials(request.name)} matches "
                f"corpus.patterns {request.patterns}; change the patterns or name another folder"
            )
        is_file = root.is_file()
        return Fetched(
            without_credentials(request.name),
            root.parent if is_file else root,
            request.patterns,
            files=[root.name] if is_file else None,
            commit=origin["commit"],
            dropped={SUBMODULE: origin["submodules"]} if origin["submodules"] else {},
            unmatched=origin["unmatched"],
        )


@dataclass(frozen=True)
class _CheckOut:
    """What was checked out.

    Args:
        commit: The commit.
        path: The folder or file in the repository that the address names; empty for all of it.
        submodules: Paths of submodules, which are not fetched.
        unmatched: {suffix: number of files} that no pattern matches.
    """

    commit: str
    path: str
    submodules: list[str]
    unmatched: dict[str, int]


def fetch(source: str, patterns: list[str], cache: Path, key: str = "corpus.source") -> Path:
    """Check out the matching files of one commit into the cache: shallow, blob-filtered, sparse.

    A repository that was fetched before is not fetched again, so that a run can be resumed after the repository has
    changed. Name another commit with URL#commit, or delete the folder in the cache, to fetch newer files.

    Args:
        source: An address, optionally with #branch, #tag or #commit.
        patterns: Which files, as in a .gitignore.
        cache: Folder of fetched sources.
        key: The config key that holds the address, for messages.

    Returns:
        A folder with `files`, and with `origin.json`: the address and the fields of `_CheckOut`.

    Raises:
        CorpusError: The repository or the revision cannot be fetched.
    """
    address = git_address.parse(source, key)
    name = re.sub(r"\W+", "-", without_credentials(address.repository).removesuffix(".git"))[-60:].strip("-")
    identity = [address.repository, address.revision, *([address.page] if address.page else []), patterns]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    origin = folder / "origin.json"
    if not origin.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f".{folder.name}"
        held = lock(cache / f".{folder.name}.lock", wait=True)
        try:
            if not origin.is_file():
                shutil.rmtree(temporary, ignore_errors=True)  # of a fetch that was killed
                temporary.mkdir()
                found = _check_out(address, patterns, temporary / "files", key)
                address_shown = without_credentials(address.repository)
                write_json(temporary / "origin.json", {"address": address_shown} | vars(found))
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            held.release()
    return folder


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out in a work tree; None if the folder is not the root of one."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    result = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
        capture_output=True,
        text=True,
        env=git_command.environment(),
        check=False,
    )
    return (result.stdout.strip() or None) if result.returncode == 0 else None


def _check_out(address: Address, patterns: list[str], folder: Path, key: str) -> _CheckOut:
    """Check out the files into a new folder, without .git."""
    run = git_command.runner(address, folder, key)
    folder.mkdir()
    run("init", "--quiet")
    run("config", "remote.origin.promisor", "true")
    run("config", "remote.origin.partialclonefilter", "blob:none")
    revision, path = git_revision.resolve(address, run, key)
    quiet = ("--quiet", "--no-tags", "--no-recurse-submodules")
    run("fetch", *quiet, "--depth=1", "--filter=blob:none", "origin", revision)
    entry = run("ls-tree", "FETCH_HEAD", path) if path else ""
    if path and not entry:
        raise CorpusError(f"{key}: {without_credentials(address.repository)} has no {path} at {revision}; give another")
    is_file = bool(path) and entry.split()[1] == "blob"
    wanted = (
        [f"/{git_revision.escaped(path)}"] if is_file else [git_revision.below(path, pattern) for pattern in patterns]
    )
    run("sparse-checkout", "set", "--no-cone", "--stdin", stdin="\n".join(wanted) + "\n")
    run("checkout", "--quiet", "--detach", "FETCH_HEAD")
    found = _describe(run, path, Patterns(patterns))
    shutil.rmtree(folder / ".git")
    return found


def _describe(run: Callable[..., str], path: str, patterns: Patterns) -> _CheckOut:
    """What the checked-out commit holds."""
    names: list[str] = []
    submodules: list[str] = []
    for entry in run("ls-tree", "-r", "-z", "HEAD", *([path] if path else [])).split("\0"):
        if entry:
            about, name = entry.split("\t", 1)
            relative = name.removeprefix(f"{path}/") if path else name
            (submodules if about.split()[1] == "commit" else names).append(relative)
    shown = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in submodules]
    return _CheckOut(run("rev-parse", "HEAD").strip(), path, shown, patterns.unmatched(names))
