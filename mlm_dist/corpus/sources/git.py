"""Git repositories as a source: only the files that match travel, and nothing of the repository can run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from mlm_dist.errors import CorpusError
from mlm_dist.files import write_json

ALLOWED = ("https", "ssh", "git", "file")
_SCP_LIKE = re.compile(r"(?P<user>[\w.-]+@)?(?P<host>[\w][\w.-]*):(?!/|:)(?P<path>[\w~.][^\s]*)")


def is_repository(source: str) -> bool:
    """Whether a source is a git address or a bare repository on this disk (a work tree is read as a folder).

    Raises:
        CorpusError: It is an address of a kind that is not allowed.
    """
    if source.startswith("-") or re.match(r"[\w+.-]*::", source):
        shown = without_credentials(source)
        raise CorpusError(
            f"corpus.source: {shown!r} is not an address git may be given; use https, ssh or a local path"
        )
    scheme = re.match(r"([A-Za-z][\w+.-]*)://(.*)", source)
    if scheme:
        if scheme[1].lower() not in ALLOWED:
            raise CorpusError(
                f"corpus.source: {scheme[1]}:// is not allowed; use https, ssh, git or a local repository"
            )
        host = scheme[2].rsplit("@", 1)[-1]
        if host.startswith("-") or not host:
            raise CorpusError(f"corpus.source: {without_credentials(source)!r} names no host")
        return True
    address, _ = _split_revision(source)
    if os.path.exists(address):
        return all(os.path.exists(os.path.join(address, name)) for name in ("HEAD", "objects", "refs"))
    return _SCP_LIKE.fullmatch(source) is not None


def fetch(source: str, patterns: list[str], cache: Path) -> tuple[Path, str]:
    """Check out the matching files of one commit into the cache: shallow, blob-filtered, sparse.

    A repository that was fetched before is used as it is, so that a run can be resumed while the repository moves on;
    delete the folder that is printed to fetch it anew, or name another commit with URL#commit.

    Args:
        source: An address, optionally with #branch, #tag or #commit.
        patterns: Which files, as in a .gitignore.
        cache: Folder of fetched sources.

    Returns:
        The folder with the files, and the commit they belong to.
    """
    address, revision = _split_revision(source)
    if os.path.exists(address):
        address = Path(address).resolve().as_uri()
    name = re.sub(r"\W+", "-", without_credentials(address).removesuffix(".git"))[-60:].strip("-")
    key = hashlib.sha256(json.dumps([address, revision, patterns]).encode()).hexdigest()[:12]
    place = cache / f"{name}-{key}"
    origin = place / "origin.json"
    if not origin.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            commit = _check_out(address, revision, patterns, temporary / "files")
            write_json(temporary / "origin.json", {"address": without_credentials(address), "commit": commit})
            temporary.chmod(0o755)
            if not origin.is_file():
                shutil.rmtree(place, ignore_errors=True)
                temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    commit = json.loads(origin.read_text("utf-8"))["commit"]
    return place / "files", commit


def commit_of(folder: Path) -> str | None:
    """The commit a work tree stands at, or None where the folder is not the top of one."""
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    found = subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"],
        capture_output=True,
        text=True,
        env=_environment(),
        check=False,
    )
    return (found.stdout.strip() or None) if found.returncode == 0 else None


def without_credentials(address: str) -> str:
    """The address with passwords and tokens taken out of it, and in URLs with the name before them."""
    without_query = re.sub(r"\?[^#\s']*", "", address)
    return re.sub(r"(?<=://)[^/]*@|^[^/@\s]*:[^/\s]*@", "", without_query)


def _split_revision(source: str) -> tuple[str, str]:
    whole = os.path.expanduser(source)
    if os.path.exists(whole):
        return whole, "HEAD"  # the name of a folder may hold a #
    address, _, revision = source.partition("#")
    address = os.path.expanduser(address)
    if revision and not re.fullmatch(r"[\w][\w./+-]*", revision):
        raise CorpusError(f"corpus.source: {revision!r} is not the name of a branch, a tag or a commit")
    return address, revision or "HEAD"


def _check_out(address: str, revision: str, patterns: list[str], folder: Path) -> str:
    safe = ["-c", "core.hooksPath=/dev/null", "-c", "core.symlinks=false", "-c", "submodule.recurse=false"]
    safe += ["-c", "filter.lfs.smudge=", "-c", "filter.lfs.process=", "-c", "filter.lfs.required=false"]
    safe += ["-c", "core.fsmonitor=false"]
    safe += ["-c", "core.autocrlf=false", "-c", "core.eol=lf"]

    def run(*words: str, given: str | None = None) -> str:
        try:
            done = subprocess.run(
                ["git", *safe, "-C", str(folder), *words],
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                env=_environment(),
                check=False,
            )
        except FileNotFoundError:
            raise CorpusError("corpus.source: git is not installed; install it or name a folder") from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["git said nothing"]
            line = next((line for line in said if line.startswith(("fatal:", "error:", "ERROR:"))), said[-1])
            line = re.sub(r"\w+://[^\s']*", lambda url: without_credentials(url[0]), line)
            raise CorpusError(f"corpus.source: cannot fetch {without_credentials(address)} at {revision}: {line}")
        return done.stdout

    folder.mkdir()
    run("init", "--quiet")
    run("remote", "add", "origin", address)
    run("config", "remote.origin.promisor", "true")
    run("config", "remote.origin.partialclonefilter", "blob:none")
    run("sparse-checkout", "set", "--no-cone", "--stdin", given="\n".join(patterns) + "\n")
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
    ours = {
        "GIT_ALLOW_PROTOCOL": ":".join(ALLOWED),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GIT_ASKPASS": "true",
        "LC_ALL": "C",
    }
    ssh = {"GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes")}
    # Within a hook git says where its repository is; that is not the one to be worked on here.
    local = re.compile(r"GIT_(?!CONFIG|SSH|PROXY|SSL|CURL|TRACE|HTTP|EXEC_PATH)")
    inherited = {name: value for name, value in os.environ.items() if not local.match(name)}
    return inherited | ours | ssh
