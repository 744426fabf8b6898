"""Git repositories as a source: only matching files are downloaded, and no code of the repository runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import ClassVar

from mlm_dist.corpus.sources.protocol import Fetched, Request
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_json

ALLOWED = ("https", "ssh", "git", "file")
_SCP_LIKE = re.compile(r"(?P<user>[\w.-]+@)?(?P<host>[\w][\w.-]*):(?!/|:)(?P<path>[\w~.][^\s]*)")


class GitRepository:
    """A git address, optionally with #branch, #tag or #commit, or a bare repository on this disk."""

    is_local: ClassVar[bool] = False

    def recognizes(self, name: str, key: str) -> bool:
        """See `Source`."""
        return is_repository(name, key)

    def fetch(self, request: Request) -> Fetched:
        """See `Source`."""
        root, commit = fetch(request.name, request.patterns, request.folder, request.key)
        return Fetched(without_credentials(request.name), root, request.patterns, commit=commit)


def is_repository(source: str, key: str = "corpus.source") -> bool:
    """Whether a source is a git address or a bare repository on this disk (a work tree is read as a folder).

    Raises:
        CorpusError: The address has a scheme that is not allowed.
    """
    if source.startswith("-") or re.match(r"[\w+.-]*::", source):
        shown = without_credentials(source)
        raise CorpusError(
            f"{key}: {shown!r} is not an address that may be passed to git; use https, ssh or a local path"
        )
    scheme = re.match(r"([A-Za-z][\w+.-]*)://(.*)", source)
    if scheme:
        if scheme[1].lower() not in ALLOWED:
            raise CorpusError(f"{key}: {scheme[1]}:// is not allowed; use https, ssh, git or a local repository")
        host = scheme[2].rsplit("@", 1)[-1]
        if host.startswith("-") or not host:
            raise CorpusError(f"{key}: {without_credentials(source)!r} names no host; give one")
        return True
    address, _ = _split_revision(source, key)
    if os.path.exists(address):
        return all(os.path.exists(os.path.join(address, name)) for name in ("HEAD", "objects", "refs"))
    return _SCP_LIKE.fullmatch(source) is not None


def fetch(source: str, patterns: list[str], cache: Path, key: str = "corpus.source") -> tuple[Path, str]:
    """Check out the matching files of one commit into the cache: shallow, blob-filtered, sparse.

    A repository that was fetched before is not fetched again, so that a run can be resumed after the repository has
    changed. Name another commit with URL#commit, or delete the folder in the cache, to fetch newer files.

    Args:
        source: An address, optionally with #branch, #tag or #commit.
        patterns: Which files, as in a .gitignore.
        cache: Folder of fetched sources.
        key: The config key that holds the address, for messages.

    Returns:
        The folder with the files, and the commit they belong to.

    Raises:
        CorpusError: The repository or the revision cannot be fetched.
    """
    address, revision = _split_revision(source, key)
    if os.path.exists(address):
        address = Path(address).resolve().as_uri()
    name = re.sub(r"\W+", "-", without_credentials(address).removesuffix(".git"))[-60:].strip("-")
    digest = hashlib.sha256(json.dumps([address, revision, patterns]).encode()).hexdigest()[:12]
    folder = cache / f"{name}-{digest}"
    origin = folder / "origin.json"
    if not origin.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            commit = _check_out(address, revision, patterns, temporary / "files", key)
            write_json(temporary / "origin.json", {"address": without_credentials(address), "commit": commit})
            temporary.chmod(0o755)
            if not origin.is_file():
                shutil.rmtree(folder, ignore_errors=True)
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    commit = json.loads(origin.read_text("utf-8"))["commit"]
    return folder / "files", commit


def without_credentials(address: str) -> str:
    """The address without passwords, tokens and queries; in URLs without the user name, too."""
    without_query = re.sub(r"\?[^#\s']*", "", address)
    return re.sub(r"(?<=://)[^/]*@|^[^/@\s]*:[^/\s]*@", "", without_query)


def commit_of(folder: Path) -> str | None:
    """The commit that is checked out in a work tree; None if the folder is not the root of one."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    result = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    return (result.stdout.strip() or None) if result.returncode == 0 else None


def _split_revision(source: str, key: str) -> tuple[str, str]:
    whole = os.path.expanduser(source)
    if os.path.exists(whole):
        return whole, "HEAD"  # a folder's name may contain a #
    address, _, revision = source.partition("#")
    address = os.path.expanduser(address)
    if revision and not re.fullmatch(r"[\w][\w./+-]*", revision):
        raise CorpusError(f"{key}: {revision!r} is not the name of a branch, a tag or a commit")
    return address, revision or "HEAD"


def _check_out(address: str, revision: str, patterns: list[str], folder: Path, key: str) -> str:
    """Check out the files into a new folder, without .git, and return the commit."""
    safe = ["-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=false", "-c", "submodule.recurse=false"]
    safe += ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false"]
    safe += ["-c", "core.fsmonitor=false"]
    safe += ["-c", "core.autocrlf=false", "-c", "core.eol=lf"]

    def run(*arguments: str, stdin: str | None = None) -> str:
        try:
            result = subprocess.run(
                ["git", *safe, "-C", str(folder), *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                env=_environment(),
                check=False,
            )
        except FileNotFoundError:
            raise CorpusError(f"{key}: git is not installed; install it or name a folder") from None
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.strip()] or ["git printed no message"]
            line = next((line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))), lines[-1])
            line = re.sub(r"\w+://[^\s']*", lambda url: without_credentials(url[0]), line)
            raise CorpusError(f"{key}: cannot fetch {without_credentials(address)} at {revision}: {line}")
        return result.stdout

    folder.mkdir()
    run("init", "--quiet")
    run("remote", "add", "origin", address)
    run("config", "remote.origin.promisor", "true")
    run("config", "remote.origin.partialclonefilter", "blob:none")
    run("sparse-checkout", "set", "--no-cone", "--stdin", stdin="\n".join(patterns) + "\n")
    run(
        "fetch",
        "--quiet",
        "--depth=1",
        "--filter=blob:none",
        "--no-tags",
        "--no-recurse-submodules",
        "origin",
        revision,
    )
    run("checkout", "--quiet", "--detach", "FETCH_HEAD")
    commit = run("rev-parse", "HEAD").strip()
    shutil.rmtree(folder / ".git")
    return commit


def _environment() -> dict[str, str]:
    """Environment variables for git: it must not prompt, and only allowed protocols may be used."""
    settings = {
        "GIT_ALLOW_PROTOCOL": ":".join(ALLOWED),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ASKPASS": "true",
        "LC_ALL": "C",
    }
    ssh = {"GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")}
    # A hook of git sets variables that name its repository, which is not the one to use here.
    local = re.compile(r"GIT_(?!CONFIG|SSH|PROXY|SSL|CURL|TRACE|HTTP|EXEC_PATH)")
    inherited = {name: value for name, value in os.environ.items() if not local.match(name)}
    return inherited | settings | ssh
