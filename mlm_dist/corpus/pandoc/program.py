"""The program pandoc, run without files or network, within bounded time and memory."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

REQUIRES = ("pypandoc_binary",)
SECONDS = 25.0  # documents have a minute to be cleaned, and LaTeX is read up to four times
MEMORY = "2g"
MAX_OUTPUT = 256 << 20  # bytes of JSON, some ten for each character of text


class UnreadableError(Exception):
    """Pandoc cannot read a document; the message says why."""


def read(data: bytes, format_: str) -> dict[str, Any]:
    """The document tree, see https://hackage.haskell.org/package/pandoc-types.

    Args:
        data: The content of a file. No other file is read.
        format_: What `pandoc --from` takes.

    Raises:
        UnreadableError: The data is not in this format, or takes too much time or memory.
    """
    command = [str(_path()), "+RTS", f"-M{MEMORY}", "-RTS", "--sandbox", "--quiet", "--preserve-tabs"]
    command += ["--from", format_, "--to", "json"]
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        with subprocess.Popen(
            command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=os.sep
        ) as process:
            is_late = threading.Event()

            def stop() -> None:
                is_late.set()
                process.kill()

            timer = threading.Timer(SECONDS, stop)
            timer.daemon = True
            timer.start()
            try:
                assert process.stdout is not None
                output = process.stdout.read(MAX_OUTPUT + 1)
                if len(output) > MAX_OUTPUT:
                    raise UnreadableError(f"over {MAX_OUTPUT >> 20} MB as a document tree")
                process.wait()
            finally:
                timer.cancel()
                process.kill()
    if is_late.is_set():
        raise UnreadableError(f"over {SECONDS:g} s to read")
    if process.returncode == 251:
        raise UnreadableError(f"over {MEMORY}B of memory to read")
    if process.returncode:
        raise UnreadableError(f"not read by pandoc (exit status {process.returncode})")
    try:
        tree: dict[str, Any] = json.loads(output)
    except (ValueError, RecursionError):
        raise UnreadableError("nested too deeply") from None
    return tree


def _path() -> Path:
    """The program in the package, never another one on the machine."""
    spec = importlib.util.find_spec("pypandoc")
    assert spec is not None, "the package pypandoc_binary is not installed"
    return Path(spec.origin or "").parent / "files" / ("pandoc.exe" if os.name == "nt" else "pandoc")
