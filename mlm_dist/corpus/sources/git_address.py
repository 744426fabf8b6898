"""Addresses of git repositories: which are allowed, and the revision and the folder that they name."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError

ALLOWED = ("https", "ssh", "git", "file")
_SCP_LIKE = re.compile(r"(?P<user>[\w.-]+@)?(?P<host>[\w][\w.-]*):(?!/|:)(?P<path>[\w~.][^\s]*)")
# What a browser shows of GitHub, GitLab and Gitea: the repository, then a revision and a path.
_PAGE = re.compile(
    r"(?P<repository>https://[^/]+/[^/#?]+/[^#?]+?)/"
    r"(?:-/)?(?:tree|blob|src/branch|src/tag|src/commit)/(?P<rest>[^#?]+)"
)


@dataclass(frozen=True)
class Address:
    """A repository, and what to check out of it.

    Args:
        repository: The address without revision and path.
        revision: A branch, a tag or a commit; HEAD for the default branch.
        page: Revision and path as in the address of a page, such as main/docs/guide, where only the repository knows
            which part is the revision; empty if `revision` says it.
    """

    repository: str
    revision: str
    page: str = ""


def parse(source: str, key: str) -> Address:
    """The parts of an address, which may end in #branch, #tag or #commit, or be that of a page of a git host.

    Raises:
        CorpusError: The revision has characters that no name has.
    """
    whole = os.path.expanduser(source)
    if os.path.exists(whole):
        return Address(Path(whole).resolve().as_uri(), "HEAD")  # a folder's name may contain a #
    address, _, revision = source.partition("#")
    address = os.path.expanduser(address)
    if os.path.exists(address):
        address = Path(address).resolve().as_uri()
    if revision and not re.fullmatch(r"[\w][\w./+-]*", revision):
        raise CorpusError(f"{key}: {revision!r} is not the name of a branch, a tag or a commit")
    page = _PAGE.fullmatch(address)
    if page is None:
        return Address(address, revision or "HEAD")
    rest = page["rest"].strip("/")
    if revision and rest.split("/")[0] != revision:
        raise CorpusError(f"{key}: {rest} and #{revision} both name a revision; give one of them")
    if not re.fullmatch(r"[\w][^\0\s]*", rest) or ".." in rest.split("/"):
        raise CorpusError(f"{key}: {rest!r} is not a revision and a path in the repository")
    return Address(page["repository"].removesuffix("/"), "", rest)


def is_page(source: str) -> bool:
    """Whether an address is that of a page of a git host."""
    return _PAGE.fullmatch(source.partition("#")[0]) is not None


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
    whole = os.path.expanduser(source)
    address = whole if os.path.exists(whole) else os.path.expanduser(source.partition("#")[0])
    if os.path.exists(address):
        return all(os.path.exists(os.path.join(address, name)) for name in ("HEAD", "objects", "refs"))
    return _SCP_LIKE.fullmatch(source) is not None
