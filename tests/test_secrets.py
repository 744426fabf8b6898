"""Passwords and tokens, in every key that takes a text and in the environment, are in no output and no file."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import forking
import launching
import psutil
import pytest

from mlm_dist.config import Config, keys, to_dict

MARK = "s3cretMARK"
URL = f"https://user:{MARK}@127.0.0.1:9/a.git"
NAMES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "COMET_API_KEY", "AZURE_STORAGE_KEY"),
    *("GITHUB_TOKEN", "GIT_PASSWORD", "MLM_DIST_TOKEN"),
)


def text_keys() -> list[str]:
    """The keys that take a text, or a list or dict of them."""
    return [key for key, kind in keys().items() if re.search(r"\bstr\b|dict|list|Any", str(kind))]


def value(key: str) -> str:
    """An address with a password in it, in the form that a key takes."""
    default: object = to_dict(Config())
    for part in key.split("."):
        default = default[part] if isinstance(default, dict) else None
    if isinstance(default, dict) or key.endswith("overrides"):
        return f"{{note: '{URL}'}}"
    return f"['{URL}']" if isinstance(default, list | tuple) else URL


def assert_no_mark(output: str, *folders: Path) -> None:
    """Neither an output nor a file below the folders has the mark, in its content or its name."""
    assert MARK not in output
    for folder in folders:
        for path in folder.rglob("*"):
            assert MARK not in path.name, path
            assert not path.is_file() or MARK.encode() not in path.read_bytes(), path


def flags(folder: Path, prose: Path) -> list[str]:
    """The flags of a run of two steps."""
    return [
        *(f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}"),
        *(f"--output_dir={folder / 'run'}", "--optim.duration=2 steps", *launching.TINY),
    ]


def test_all_keys_are_known() -> None:
    """The test walks over them, so that a new one is tested as well."""
    assert {"corpus.source", "model.name_or_path", "export.push_to_hub", "model.overrides"} <= {*text_keys()}


CASES = int(os.environ.get("MLM_DIST_CASES", "0")) or None


@pytest.mark.parametrize("key", [pytest.param(key, marks=pytest.mark.slow) for key in text_keys()[:CASES]])
def test_password_in_a_key_is_nowhere(key: str, tmp_path: Path, prose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the job accepts the value or refuses it."""
    work = tmp_path / "work"
    work.mkdir()
    log = tmp_path / "log"
    for job in ("plan", "prepare", "train"):
        given = [*flags(work, prose), f"--{key}={value(key)}"]
        ended = forking.run(job, *given, log=log, environ={"HOME": str(work)})
        assert ended.returncode in (0, 2), ended.output
        assert "Traceback" not in ended.output, ended.output
        assert_no_mark(ended.output, work)


@pytest.mark.parametrize(
    "jobs", [("train",), pytest.param(("train", "validate", "export", "report"), marks=pytest.mark.slow)], ids=len
)
def test_tokens_in_the_environment_are_nowhere(jobs: tuple[str, ...], tmp_path: Path, prose: Path) -> None:
    """Nor those in ~/.netrc."""
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    (home / ".netrc").write_text(f"machine 127.0.0.1 login user password {MARK}\n")
    os.chmod(home / ".netrc", 0o600)
    clean = {"HOME": str(home), "TMPDIR": str(tmp_path / "work"), **dict.fromkeys(NAMES, MARK)}
    (tmp_path / "work").mkdir()
    said = ""
    for job in jobs:
        given = flags(tmp_path / "work", prose) if job == "train" else [f"--output_dir={tmp_path / 'work' / 'run'}"]
        ended = forking.run(job, *given, log=log, of_a_run=job != "train", environ=clean)
        assert ended.returncode == 0, ended.output
        said += ended.output
    assert list((tmp_path / "work" / "run" / "tensorboard").glob("events.*"))
    assert (tmp_path / "work" / "run" / "model" / "README.md").is_file()
    assert_no_mark(said, tmp_path / "work")


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that refuses every password, after it has looked at the processes of this machine."""

    protocol_version = "HTTP/1.1"
    command_lines: list[str] = []  # noqa: RUF012 - of the class, so that the test sees it
    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        """Refuse."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if "git" in process.name():
                    self.command_lines.append(line)
        self.asked.append(self.headers.get("Authorization", ""))
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="documents"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def refusing(folder: Path) -> Iterator[int]:
    """The port of such a server, whose certificate nobody has signed."""
    if shutil.which("openssl") is None:
        pytest.skip("a certificate needs openssl")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def test_refused_password_is_neither_printed_nor_in_the_list_of_processes(tmp_path: Path, prose: Path) -> None:
    home = {"HOME": str(tmp_path), "GIT_SSL_NO_VERIFY": "1"}
    with refusing(tmp_path) as port:
        for key in ("corpus.source", "corpus.sources.a.source"):
            address = f"https://user:{MARK}@127.0.0.1:{port}/a.git"
            given = [flag for flag in flags(tmp_path / "work", prose) if not flag.startswith("--corpus.source=")]
            given.append(f"--corpus.cache_dir={tmp_path / 'work' / 'cache'}")
            log = tmp_path / "log"
            ended = forking.run("train", *given, f"--{key}={address}", log=log, environ=home)
            assert ended.returncode == 2, ended.output
            assert len([line for line in ended.output.splitlines() if line.startswith("error: ")]) == 1
            assert_no_mark(ended.output, tmp_path / "work")
    assert any(Refusing.asked), "the password did not reach the server"
    assert Refusing.command_lines and not [line for line in Refusing.command_lines if MARK in line]
