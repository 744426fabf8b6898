"""Writing files so that nobody ever reads half of one."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """Let `write` fill a temporary neighbour of `path`, then put it in place in one step.

    Args:
        path: Where the file shall be.
        write: Writes the file at the path it is given.
        durable: Wait until the disk has it, so that a power cut leaves the old file or the new one.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write bytes as a whole file."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_whole(path, write, durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True, indent: int | None = None) -> None:
    """Write a JSON-like value as a whole file."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # Names of files can hold bytes that are no UTF-8; they stand in the text as lone surrogates and must not stop us.
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), durable=durable)


def lock(path: Path, *, wait: bool) -> Any:
    """Hold a lock until its `release` is called or the process ends; on a disk without locks, hold nothing.

    Raises:
        BlockingIOError: Another process holds it, and we do not wait.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BlockingIOError(f"{path} is locked") from None
    except (OSError, NotImplementedError):
        pass  # such as a cloud drive that is mounted as a folder
    return held


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
