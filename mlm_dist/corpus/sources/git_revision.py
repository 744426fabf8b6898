"""The revision of a git repository that an address names, and patterns below a folder of it."""

from __future__ import annotations

import re
from collections.abc import Callable

from mlm_dist.corpus.sources.git_address import Address
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError


def resolve(address: Address, run: Callable[..., str], key: str) -> tuple[str, str]:
    """The revision to fetch, and the folder or file in the repository.

    A server takes no short commit, and in the address of a page only the repository knows where the name of a branch
    ends; so the names of its branches and tags are looked up.

    Raises:
        CorpusError: There is no such revision.
    """
    is_short = re.fullmatch(r"[0-9a-f]{4,39}", address.revision) is not None
    if not address.page and not is_short:
        return address.revision, ""
    lines = (line.split("\t") for line in run("ls-remote", "--heads", "--tags", "origin").splitlines())
    commits = {name.split("/", 2)[2].removesuffix("^{}"): commit for commit, name in lines}
    parts = address.page.split("/") if address.page else [address.revision]
    for count in range(len(parts), 0, -1):
        name = "/".join(parts[:count])
        if name in commits:
            return name, "/".join(parts[count:])
    revision, path = parts[0], "/".join(parts[1:])
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        return revision, path
    if re.fullmatch(r"[0-9a-f]{4,39}", revision):
        found = {commit for commit in commits.values() if commit.startswith(revision)}
        if not found:  # not the newest of a branch; all commits without their files are enough to look it up
            run("fetch", "--quiet", "--no-recurse-submodules", "--filter=tree:0", "origin", "+refs/heads/*:refs/all/*")
            found = set(run("rev-parse", f"--disambiguate={revision}").split()) & set(run("rev-list", "--all").split())
        if len(found) == 1:
            return found.pop(), path
    raise CorpusError(
        f"{key}: {without_credentials(address.repository)} has no branch, tag or commit {revision}; give another one, "
        "or all 40 characters of the commit"
    )


def below(path: str, pattern: str) -> str:
    """A pattern that is relative to a folder, for the whole repository."""
    if not path:
        return pattern
    negation, plain = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
    is_anchored = "/" in plain.rstrip("/")
    return f"{negation}/{escaped(path)}/{plain.lstrip('/') if is_anchored else '**/' + plain}"


def escaped(path: str) -> str:
    """A path as a pattern that matches it alone."""
    return re.sub(r"([*?\[\\])", r"\\\1", path)
