"""The git program: its settings, its environment, and repeating what the network interrupted."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mlm_dist.corpus.sources.git_address import ALLOWED, Address
from mlm_dist.credentials import split_credentials, without_credentials
from mlm_dist.errors import CorpusError
from mlm_dist.retries import is_transient_of_git, retry

_PR_SET_PDEATHSIG = 1  # of prctl, see its manual page
_SETTINGS = {
    "core.hooksPath": "/dev/null",
    "core.symlinks": "false",
    "submodule.recurse": "false",
    "filter.lfs.smudge": "",
    "filter.lfs.process": "",
    "filter.lfs.required": "false",
    "core.fsmonitor": "false",
    "core.quotePath": "false",
    "core.autocrlf": "false",
    "core.eol": "lf",
    "http.lowSpeedLimit": "1",  # a server that sends nothing for a minute is given up
    "http.lowSpeedTime": "60",
    "core.ignoreCase": "true",  # as in `Patterns`
}


class GitError(CorpusError):
    """A git command failed; `stderr` is all it printed."""

    def __init__(self, message: str, stderr: str) -> None:
        super().__init__(message)
        self.stderr = stderr


def runner(address: Address, folder: Path, key: str) -> Callable[..., str]:
    """A function that runs git in a folder and returns its output; a lost connection or a busy server is tried again.

    Args:
        address: The repository, which is the remote `origin`.
        folder: The work tree.
        key: The config key that holds the address, for messages.

    Raises:
        CorpusError: By the function: git is not installed, or the command failed.
    """
    shown = without_credentials(address.repository)
    variables = environment()
    variables |= _remote(address.repository, int(variables.get("GIT_CONFIG_COUNT", "0")))
    settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]

    def attempt(*arguments: str, stdin: str | None = None) -> str:
        try:
            result = subprocess.run(
                ["git", *settings, "-C", str(folder), *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                env=variables,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                check=False,
            )
        except FileNotFoundError:
            raise CorpusError(f"{key}: git is not installed; install it or name a folder") from None
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.strip()] or ["git printed no message"]
            line = next((line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))), lines[-1])
            line = without_credentials(line.replace(address.repository, shown))
            raise GitError(f"{key}: cannot fetch {shown} at {address.revision or address.page}: {line}", result.stderr)
        return result.stdout

    def run(*arguments: str, stdin: str | None = None) -> str:
        return retry(lambda: attempt(*arguments, stdin=stdin), f"git {arguments[0]}", _is_transient)

    return run


def _is_transient(error: Exception) -> bool:
    return isinstance(error, GitError) and is_transient_of_git(error.stderr)


def _die_with_parent() -> None:
    """Ask Linux to end this process when its parent is killed, by a signal at which git ends its own processes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


# What prints a password in git's protocol for credentials. It names variables, not their values.
_PRINT = r'printf "username=%s\npassword=%s\n" "$MLM_DIST_GIT_USER" "$MLM_DIST_GIT_PASSWORD"'
_HELPER = '!f() { test "$1" = get && ' + _PRINT + "; }; f"


def _remote(repository: str, count: int) -> dict[str, str]:
    """Variables that tell git the address of the remote, and its password in a helper for this host alone.

    Neither is left on the disk, and the password is not in the list of processes: git gives the address to its programs
    on their command lines.

    Args:
        repository: The address.
        count: Number of the user's own settings in variables.
    """
    address, user, password = split_credentials(repository)
    settings = [("remote.origin.url", address)]
    if user or password:
        host = "/".join(address.split("/")[:3])
        # An empty helper removes those of the user, who has named another password.
        settings += [(f"credential.{host}.helper", ""), (f"credential.{host}.helper", _HELPER)]
    variables = {"GIT_CONFIG_COUNT": str(count + len(settings)), "MLM_DIST_GIT_USER": user}
    for i, (key, value) in enumerate(settings, count):
        variables |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}
    return variables | {"MLM_DIST_GIT_PASSWORD": password}


def environment() -> dict[str, str]:
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
