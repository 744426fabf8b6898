"""Limits of the system that end a job: a disk without space or permission, too little memory, too many open files.

They can occur in every line that writes or allocates, and leave a job at one place, which turns them into one line for
people. An error of the system knows the path if a file could not be opened, but not if an open file could not be
written; `named` adds the path there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mlm_dist.errors import MlmDistError, ResourceError, reason

_OPEN_FILES, _SPACE = "raise the limit of open files (ulimit -n)", "free some space or inodes"
_DISK, _PERMISSION = "check the disk", "change its permissions, or name another folder"
_REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
    errno.EROFS: "make it writable, or name another folder",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.EAGAIN: "raise the limit of processes (ulimit -u)",
    errno.EIO: _DISK,
    errno.ESTALE: _DISK,
    errno.ENXIO: _DISK,
}
# How libraries that are not written in Python quote an error of the system: safetensors and tokenizers, and pyarrow.
_QUOTED = re.compile(r"\(os error (\d+)\)|\[[Ee]rrno (\d+)\]")
_MEMORY = re.compile(r"can't allocate memory|cannot allocate memory|not enough memory|bad_alloc", re.IGNORECASE)
_THREADS = "can't start new thread"


def os_error(error: BaseException) -> OSError | None:
    """The error of the system that an exception is, or quotes; None for all others, also those of a connection."""
    if isinstance(error, MlmDistError | ConnectionError):
        return None
    if isinstance(error, OSError) and error.errno:
        return error
    quoted = _QUOTED.search(str(error))
    number = int(quoted[1] or quoted[2]) if quoted else errno.EAGAIN if _THREADS in str(error) else 0
    return OSError(number, os.strerror(number)) if number else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the host's memory is used up."""
    is_no_memory = isinstance(error, RuntimeError | OSError) and _MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or is_no_memory


def passes(error: OSError) -> bool:
    """Whether an error says nothing about the file, which can be read once this process has room for it."""
    return error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR)


def explain(error: BaseException) -> ResourceError | None:
    """The error for people; None if it is no error of the system."""
    if isinstance(error, MlmDistError):
        return None
    if is_out_of_memory(error):
        return ResourceError(
            f"memory: this process cannot get as much as it needs ({reason(error)}); use a machine, or a limit, with "
            "more memory, or lower batch.micro_size, rows.max_length or corpus.max_document_mb, and run again"
        )
    found = os_error(error)
    if found is None:
        return None
    path = found.filename if found.filename is not None else os.getcwd()
    path = os.fsdecode(path) if isinstance(path, str | bytes) else path
    remedy = _REMEDIES.get(found.errno or 0, "name another path")
    return ResourceError(
        f"cannot use {path} ({found.strerror}); {remedy}, and run again: what was saved before is intact"
    )


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn errors of the system that leave a job into a ResourceError; a context manager and a decorator."""
    try:
        yield
    except Exception as error:
        if (found := explain(error)) is None:
            raise
        raise found from error


@contextlib.contextmanager
def named(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Let errors of the system inside name a path, if they name none, or one that is temporary.

    Args:
        path: The file or folder that is written.
        temporary: What is written in its place, and renamed later.
    """
    try:
        yield
    except Exception as error:
        found = os_error(error)
        if found is None or (found.filename is not None and not _is_below(found.filename, temporary)):
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error


def _is_below(name: object, folder: Path | None) -> bool:
    return folder is not None and isinstance(name, str | os.PathLike) and Path(name).is_relative_to(folder)
