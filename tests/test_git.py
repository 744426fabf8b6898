"""Git repositories: what is downloaded, what is recorded, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from making import run_git

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import sources
from mlm_dist.corpus.sources import SourceFiles, git, git_address
from mlm_dist.credentials import without_credentials
from mlm_dist.errors import CorpusError

PATTERNS = ["**/*.md"]


@dataclass(frozen=True)
class Remote:
    """A bare repository with two commits on main and one more on the branch next/one."""

    path: Path
    commits: dict[str, str]

    @property
    def url(self) -> str:
        """Its address."""
        return self.path.as_uri()

    def lose(self, file: str) -> None:
        """Delete the content of a file of main, so that fetching it fails."""
        blob = run_git(self.path, "rev-parse", f"main:{file}")
        (self.path / "objects" / blob[:2] / blob[2:]).unlink()


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    """A repository whose server supports filters."""
    work = tmp_path / "work"
    work.mkdir()
    run_git(work, "init", "--quiet")
    commits = {}

    def commit(name: str, **files: str) -> None:
        for path, text in files.items():
            target = work / path.replace("__", "/").replace("_", ".")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        run_git(work, "add", "--all")
        run_git(work, "commit", "--quiet", f"--message={name}")
        commits[name] = run_git(work, "rev-parse", "HEAD")

    commit("first", a_md="first\n")
    commit(
        "second", a_md="second\n", sub__b_md="in a folder\n", code_py="print('no document')\n", sub__picture_png="png\n"
    )
    run_git(work, "tag", "v1.0")
    run_git(work, "checkout", "--quiet", "-b", "next/one")
    commit("third", a_md="third\n")
    run_git(work, "checkout", "--quiet", "main")
    run_git(tmp_path, "clone", "--quiet", "--bare", str(work), "bare.git")
    bare = tmp_path / "bare.git"
    run_git(bare, "config", "uploadpack.allowFilter", "true")
    run_git(bare, "config", "uploadpack.allowAnySHA1InWant", "true")
    return Remote(bare, commits)


def files_in(folder: Path) -> dict[str, str]:
    """{path: text} of everything in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def fetch(address: str, patterns: list[str], cache: Path) -> tuple[Path, str]:
    """The checked-out files, and their commit."""
    folder = git.fetch(address, patterns, cache)
    return folder / "files", json.loads((folder / "origin.json").read_text())["commit"]


def acquire(address: str, cache: Path) -> SourceFiles:
    """The source with that address."""
    return sources.acquire(CorpusConfig(source=address, patterns=PATTERNS), cache)


def test_matching_files_of_the_default_branch_and_their_commit(remote: Remote, tmp_path: Path) -> None:
    folder, commit = fetch(remote.url, PATTERNS, tmp_path / "cache")
    assert commit == remote.commits["second"]
    assert files_in(folder) == {"a.md": "second\n", "sub/b.md": "in a folder\n"}


def test_files_that_do_not_match_are_not_downloaded(remote: Remote, tmp_path: Path) -> None:
    remote.lose("code.py")
    remote.lose("sub/picture.png")
    folder, _ = fetch(remote.url, PATTERNS, tmp_path / "cache")  # would fail if it asked for them
    assert set(files_in(folder)) == {"a.md", "sub/b.md"}
    remote.lose("sub/b.md")
    with pytest.raises(CorpusError, match="cannot fetch"):  # as it does for one that matches
        fetch(remote.url, [*PATTERNS, "*.none"], tmp_path / "cache")


def test_history_and_other_branches_are_not_downloaded(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE_PACKET", str(trace))
    fetch(remote.url, PATTERNS, tmp_path / "cache")
    asked = [line.split("fetch> ")[1] for line in trace.read_text().splitlines() if "fetch> " in line]
    assert "deepen 1" in asked and "filter blob:none" in asked
    wanted = {line.split()[1] for line in asked if line.startswith("want ")}
    blobs = {run_git(remote.path, "rev-parse", f"main:{file}") for file in ("a.md", "sub/b.md")}
    assert wanted == {remote.commits["second"], *blobs}


def test_server_that_cannot_filter_gives_the_same_files(remote: Remote, tmp_path: Path) -> None:
    folder, commit = fetch(remote.url, PATTERNS, tmp_path / "filtered")
    run_git(remote.path, "config", "uploadpack.allowFilter", "false")
    other, same_commit = fetch(remote.url, PATTERNS, tmp_path / "whole")
    assert files_in(other) == files_in(folder) and same_commit == commit


@pytest.mark.parametrize(
    ("revision", "name"), [("next/one", "third"), ("main", "second"), ("v1.0", "second"), ("{first}", "first")]
)
def test_revision_after_a_number_sign(remote: Remote, tmp_path: Path, revision: str, name: str) -> None:
    source = acquire(f"{remote.url}#{revision.format(**remote.commits)}", tmp_path / "cache")
    assert source.commit == remote.commits[name]
    assert (source.root / "a.md").read_text() == f"{name}\n"


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_short_commit_after_a_number_sign(remote: Remote, tmp_path: Path, name: str) -> None:
    source = acquire(f"{remote.url}#{remote.commits[name][:8]}", tmp_path / "cache")
    assert source.commit == remote.commits[name]
    assert (source.root / "a.md").read_text() == f"{name}\n"


def test_short_commit_that_does_not_exist_is_refused(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no branch, tag or commit 0123456; give another one, or all 40 characters"):
        acquire(f"{remote.url}#0123456", tmp_path / "cache")


@pytest.fixture
def host(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the repository on a host with pages."""
    config = tmp_path / "gitconfig"  # git itself turns the address into one that is here
    config.write_text(f'[url "{remote.url}"]\n\tinsteadOf = https://example.org/team/docs\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    return "https://example.org/team/docs"


@pytest.mark.parametrize(
    ("page", "name", "files"),
    [
        ("tree/main", "second", ["a.md", "sub/b.md"]),
        ("tree/next/one", "third", ["a.md", "sub/b.md"]),
        ("tree/next/one/sub", "third", ["b.md"]),
        ("tree/v1.0/sub/", "second", ["b.md"]),
        ("-/tree/main/sub", "second", ["b.md"]),
        ("src/branch/main/sub", "second", ["b.md"]),
        ("blob/main/a.md", "second", ["a.md"]),
        ("tree/{first}", "first", ["a.md"]),
        ("tree/{short}/sub", "second", ["b.md"]),
    ],
)
def test_address_of_a_page(remote: Remote, host: str, tmp_path: Path, page: str, name: str, files: list[str]) -> None:
    address = page.format(**remote.commits, short=remote.commits["second"][:7])
    source = acquire(f"{host}/{address}", tmp_path / "cache")
    assert source.commit == remote.commits[name] and list(source.files) == files


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("tree/main/nowhere", "has no nowhere at main"),
        ("tree/nowhere/sub", "no branch, tag or commit nowhere"),
        ("tree/main/../x", "is not a revision and a path"),
        ("tree/main#v1.0", "both name a revision"),
    ],
)
def test_page_that_does_not_exist_is_refused(host: str, tmp_path: Path, page: str, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        acquire(f"{host}/{page}", tmp_path / "cache")


def test_submodules_and_files_that_do_not_match_are_counted(remote: Remote, tmp_path: Path) -> None:
    run_git(tmp_path, "clone", "--quiet", str(remote.path), "clone")
    work = tmp_path / "clone"
    run_git(work, "-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(remote.path), "theme")
    (work / "sub" / "READ.MD").write_text("read")
    run_git(work, "add", "--all")
    run_git(work, "commit", "--quiet", "--message=submodule")
    run_git(tmp_path, "clone", "--quiet", "--bare", str(work), "other.git")
    source = acquire((tmp_path / "other.git").as_uri(), tmp_path / "cache")
    assert list(source.files) == ["a.md", "sub/READ.MD", "sub/b.md"]
    assert source.dropped == {"submodule, which is not fetched": ["theme"]}
    assert source.unmatched == {".gitmodules": 1, ".png": 1, ".py": 1}


def test_missing_revision_is_named_in_the_error(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="at nowhere"):
        acquire(f"{remote.url}#nowhere", tmp_path / "cache")


@pytest.mark.parametrize("revision", ["--upload-pack=touch ran", "-x", "a b", "a:b", "+main", "main..next"])
def test_revision_cannot_be_an_option_or_a_range(remote: Remote, tmp_path: Path, revision: str) -> None:
    with pytest.raises(CorpusError):
        acquire(f"{remote.url}#{revision}", tmp_path / "cache")


def test_source_has_its_address_and_commit(remote: Remote, tmp_path: Path) -> None:
    source = acquire(remote.url, tmp_path / "cache")
    assert (source.kind, source.location, source.commit) == ("git", remote.url, remote.commits["second"])
    assert list(source.files) == ["a.md", "sub/b.md"] and not source.records


def test_bare_repository_may_be_named_by_its_path(remote: Remote, tmp_path: Path) -> None:
    source = acquire(str(remote.path), tmp_path / "cache")
    assert (source.kind, source.commit) == ("git", remote.commits["second"])
    assert source.digest() == acquire(remote.url, tmp_path / "cache").digest()


def test_repository_that_was_fetched_is_used_again(remote: Remote, tmp_path: Path) -> None:
    first = acquire(remote.url, tmp_path / "cache")
    run_git(remote.path, "update-ref", "refs/heads/main", remote.commits["first"])
    assert acquire(remote.url, tmp_path / "cache") == first
    assert acquire(remote.url, tmp_path / "other").commit == remote.commits["first"]
    (tmp_path / "bare.git").rename(tmp_path / "gone.git")
    assert acquire(remote.url, tmp_path / "cache") == first


def test_failed_fetch_leaves_no_files(remote: Remote, tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        acquire(f"{remote.url}#nowhere", tmp_path / "cache")
    remote.lose("a.md")
    with pytest.raises(CorpusError):
        acquire(remote.url, tmp_path / "cache")
    assert {path.suffix for path in (tmp_path / "cache" / "sources").iterdir()} == {".lock"}


def test_git_files_are_not_kept_in_the_cache(remote: Remote, tmp_path: Path) -> None:
    acquire(remote.url, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".git")]


def test_links_in_a_repository_are_not_followed(remote: Remote, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("do not read me")
    (tmp_path / "work" / "link.md").symlink_to(secret)
    run_git(tmp_path / "work", "add", "--all")
    run_git(tmp_path / "work", "commit", "--quiet", "--message=link")
    run_git(tmp_path / "work", "push", "--quiet", remote.url, "main")
    folder, _ = fetch(remote.url, PATTERNS, tmp_path / "cache")
    assert not (folder / "link.md").is_symlink()
    assert "do not read me" not in "".join(files_in(folder).values())


def test_submodules_are_not_fetched(remote: Remote, tmp_path: Path) -> None:
    work = tmp_path / "work"
    run_git(work, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", remote.url, "module")
    run_git(work, "commit", "--quiet", "--message=module")
    run_git(work, "push", "--quiet", remote.url, "main")
    folder, _ = fetch(remote.url, PATTERNS, tmp_path / "cache")
    assert not files_in(folder / "module")


def test_hooks_and_filters_of_the_machine_do_not_change_the_files(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, _ = fetch(remote.url, PATTERNS, tmp_path / "plain")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (hooks / "post-checkout").chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(f"[core]\n\tautocrlf = true\n\thooksPath = {hooks}\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    folder, _ = fetch(remote.url, PATTERNS, tmp_path / "settings")
    assert not (tmp_path / "ran").exists()
    assert {path.name: path.read_bytes() for path in folder.rglob("*.md")} == {
        path.name: path.read_bytes() for path in plain.rglob("*.md")
    }


def test_fetch_within_a_hook_does_not_change_its_repository(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    before = (work / ".git" / "index").read_bytes()
    for name, value in (("GIT_DIR", ".git"), ("GIT_WORK_TREE", "."), ("GIT_INDEX_FILE", ".git/index")):
        monkeypatch.setenv(name, str(work / value))
    folder, _ = fetch(remote.url, PATTERNS, tmp_path / "cache")
    assert (work / ".git" / "index").read_bytes() == before
    assert set(files_in(folder)) == {"a.md", "sub/b.md"}


@pytest.mark.parametrize(
    "address",
    [
        "ext::sh -c 'touch {ran}'",
        "ext::sh -c touch% {ran}% >&2",
        "fd::17",
        "--upload-pack=touch {ran}",
        "-oProxyCommand=touch {ran}",
        "ssh://-oProxyCommand=touch {ran}/path",
        "ssh://user@-oProxyCommand=touch {ran}/path",
        "git@-oProxyCommand=touch:path",
        "http://example.org/repository.git",
        "HTTP://example.org/repository.git",
        "ftp://example.org/repository.git",
        "git+ssh://example.org/repository.git",
        "https://",
        "file://",
    ],
)
def test_dangerous_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.source"):
        acquire(address.format(ran=tmp_path / "ran"), tmp_path / "cache")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/a.git",
        "ssh://git@example.org/a",
        "git://example.org/a",
        "git@example.org:a/b.git",
        "host:a.git",
    ],
)
def test_address_of_a_repository_is_recognized(address: str) -> None:
    assert git_address.is_repository(address) and git_address.is_repository(f"{address}#main")


@pytest.mark.parametrize("name", ["docs", "./docs", "owner/dataset", "a.json", "~/docs", "/some:where/else"])
def test_other_sources_are_not_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert not git_address.is_repository(name)


@pytest.mark.parametrize(
    "address",
    [
        "https://user:s3cret@127.0.0.1:1/a.git",
        "https://s3cret@127.0.0.1:1/a.git",
        "https://user:s3cret%40x@127.0.0.1:1/a.git",
        "https://user:x@s3cret@127.0.0.1:1/a.git",
        "https://127.0.0.1:1/a.git?private_token=s3cret",
        "https://user:s3cret@[::1]:1/a.git",
        "https://user:s3cret@127.0.0.1:1/a.git#no revision",
        "http://user:s3cret@127.0.0.1:1/a.git",
        "ftp://user:s3cret@127.0.0.1:1/a.git",
        "https://user:s3cret@",
        "HTTPS://user:s3cret@127.0.0.1:1/a.git",
        "ext::sh -c 'curl https://user:s3cret@127.0.0.1:1'",
    ],
)
def test_credentials_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("https_proxy", "")
    with pytest.raises(CorpusError) as caught:
        acquire(address, tmp_path / "cache")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in without_credentials(address.removeprefix("ext::sh -c "))
    assert not [path for path in tmp_path.rglob("*") if "s3cret" in path.name]


def test_credentials_are_not_kept(remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "gitconfig"  # git itself turns the address into one that is here
    config.write_text(f'[url "{remote.url}"]\n\tinsteadOf = https://example.org/a.git\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    source = acquire("https://user:s3cret@example.org/a.git", tmp_path / "cache")
    assert source.location == "https://example.org/a.git" and source.commit == remote.commits["second"]
    assert "s3cret" not in json.dumps(dataclasses.asdict(source), default=str)
    for path in (tmp_path / "cache").rglob("*"):
        assert "s3cret" not in str(path)
        assert not path.is_file() or b"s3cret" not in path.read_bytes()


def test_missing_git_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(CorpusError, match="git is not installed"):
        acquire("https://127.0.0.1:1/a.git", tmp_path / "cache")
