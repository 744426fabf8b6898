"""A busy server and a lost connection are tried again, a few times; what would fail again is not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from huggingface_hub import HfApi, constants, errors
from making import run_git

from mlm_dist import hub, retries
from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import sources
from mlm_dist.errors import CorpusError, ModelError


@pytest.fixture(autouse=True)
def without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0, 0.0))


class Server:
    """A local Hub that gives these statuses, one after the other, and the last one from then on."""

    def __init__(self) -> None:
        self.statuses = [200]
        self.requests = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if "harness" in self.path:  # a list that the library asks for once a day
                    self.send_error(404)
                    return
                status = server.statuses[min(server.requests, len(server.statuses) - 1)]
                server.requests += 1
                if status == 0:  # hang up
                    self.connection.close()
                    return
                body = json.dumps({"id": "mine/model", "sha": "1" * 40, "siblings": []}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._listener.server_port}"
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    listening = Server()
    monkeypatch.setattr(constants, "ENDPOINT", listening.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield listening
    listening.close()


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_asked_again(status: int, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.statuses = [status, status, 200]
    assert hub.require("mine/model", "model.name_or_path") == "mine/model"
    assert server.requests == 3
    lines = [record.getMessage() for record in caplog.records if record.name == "mlm_dist.retries"]
    assert len(lines) == 2 and all("\n" not in line for line in lines)
    assert lines[0].startswith("model.name_or_path: mine/model: ") and lines[0].endswith("attempt 2 of 4 in 0 s")
    assert lines[1].endswith("attempt 3 of 4 in 0 s")


def test_a_hub_that_stays_busy_ends_in_one_line(server: Server) -> None:
    server.statuses = [503]
    with pytest.raises(ModelError, match=r"model\.name_or_path: mine/model is not a folder, and the Hub did not"):
        hub.require("mine/model", "model.name_or_path")
    assert server.requests == 4


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_the_hub_is_final(status: int, server: Server) -> None:
    server.statuses = [status]
    with pytest.raises(ModelError, match="mine/model is not a folder"):
        hub.require("mine/model", "model.name_or_path")
    assert server.requests == 1


def test_a_dataset_of_a_busy_hub_is_asked_for_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 503, 404]
    with pytest.raises(CorpusError, match="nor a dataset the Hub provides"):
        sources.acquire(CorpusConfig(source="mine/texts"), tmp_path)
    assert server.requests == 3


def test_an_unknown_host_and_an_offline_hub_are_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(httpx.ConnectError) as unknown:
        httpx.get("http://no-such-host.invalid/")
    assert not retries.is_transient_of_http(unknown.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(errors.OfflineModeIsEnabled) as offline:
        HfApi().model_info("mine/model")
    assert not retries.is_transient_of_http(offline.value)


def test_an_error_that_a_library_wraps_is_recognized() -> None:
    wrapped = OSError("could not load mine/model")
    wrapped.__cause__ = ConnectionResetError(104, "Connection reset by peer")
    assert retries.is_transient_of_http(wrapped)
    assert not retries.is_transient_of_http(OSError("could not load mine/model"))


# Stands for ssh: it fails as often as the file `failures` says, then starts git's server for the repository here.
SSH = """#!/usr/bin/env bash
count=$(cat "{folder}/failures")
echo x >> "{folder}/calls"
if ((count)); then
    echo $((count - 1)) > "{folder}/failures"
    echo "{message}" >&2
    exit 255
fi
exec bash -c "${{@: -1}}"
"""


class Ssh:
    """A git repository behind an ssh that fails some times."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        repository = folder / "repository"
        repository.mkdir()
        (repository / "a.md").write_text("some words\n")
        run_git(repository, "init", "--quiet")
        run_git(repository, "add", "--all")
        run_git(repository, "commit", "--quiet", "--message=first")
        run_git(repository, "config", "uploadpack.allowFilter", "true")
        self.url = f"ssh://git@host.example{repository}/.git"
        monkeypatch.setenv("GIT_SSH_COMMAND", str(folder / "ssh"))
        monkeypatch.setenv("GIT_SSH_VARIANT", "ssh")

    def fails(self, times: int, message: str) -> None:
        (self._folder / "failures").write_text(f"{times}\n")
        (self._folder / "calls").write_text("")
        (self._folder / "ssh").write_text(SSH.format(folder=self._folder, message=message))
        (self._folder / "ssh").chmod(0o755)

    @property
    def calls(self) -> int:
        return len((self._folder / "calls").read_text().split())


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ssh:
    return Ssh(tmp_path, monkeypatch)


def test_a_lost_connection_of_git_is_tried_again(ssh: Ssh, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ssh.fails(2, "kex_exchange_identification: read: Connection reset by peer")
    fetched = sources.acquire(CorpusConfig(source=ssh.url), tmp_path / "cache")
    assert (fetched.root / "a.md").read_text() == "some words\n"
    lines = [record.getMessage() for record in caplog.records if record.name == "mlm_dist.retries"]
    assert len(lines) == 2 and all("git fetch: corpus.source: cannot fetch" in line for line in lines)
    assert lines[1].endswith("attempt 3 of 4 in 0 s")


def test_attempts_of_git_are_bounded(ssh: Ssh, tmp_path: Path) -> None:
    ssh.fails(99, "Connection timed out")
    with pytest.raises(CorpusError, match=r"corpus\.source: cannot fetch"):
        sources.acquire(CorpusConfig(source=ssh.url), tmp_path / "cache")
    assert ssh.calls == 4
    assert not list((tmp_path / "cache").rglob("origin.json"))


@pytest.mark.parametrize("message", ["Permission denied (publickey).", "Host key verification failed.", "not found"])
def test_a_refusal_of_git_is_final(message: str, ssh: Ssh, tmp_path: Path) -> None:
    ssh.fails(99, message)
    with pytest.raises(CorpusError):
        sources.acquire(CorpusConfig(source=ssh.url), tmp_path / "cache")
    assert ssh.calls == 1
