"""Files that are written whole, locks, and hashes of content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlm_dist.system_errors import named

if TYPE_CHECKING:
    import numpy as np


def write_whole(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """Write a file to a temporary path beside `path`, then rename it, so that no reader sees a partial file.

    Args:
        path: The file to write or replace.
        write: Writes the content to the path it is given.
        durable: Wait until the disk has stored the file, so that a power failure leaves the old file or the new one.
    """
    temporary = _new_name(path.parent, path.name)
    with named(path, temporary):
        try:
            temporary.touch(exist_ok=False)  # with the mode that the user's umask allows
            write(temporary)
            if durable:
                sync(temporary)
            temporary.replace(path)
            if durable:
                sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def temporary_folder(path: Path) -> Path:
    """Make a folder beside `path`, to be renamed to it later, with the mode that the user's umask allows."""
    folder = _new_name(path.parent, path.name)
    with named(path, folder):
        folder.mkdir()
    return folder


def give_modes(folder: Path) -> None:
    """Give all files below a folder the mode that the user's umask allows: some libraries write them for one user.

    The folder itself has it, see `temporary_folder`.
    """
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def _new_name(parent: Path, name: str) -> Path:
    return parent / f".{name[:100]}-{secrets.token_hex(6)}"


def sync(path: Path) -> None:
    """Wait until the disk has stored a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write bytes as a file, see `write_whole`."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_whole(path, write, durable=durable)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as an .npy file. numpy itself would not say why the disk did not take it."""
    write_parts(path, array.shape, array.dtype, [array])


def write_parts(path: Path, shape: Sequence[int], dtype: Any, parts: Iterable[np.ndarray]) -> None:
    """Write an array as an .npy file from its parts along the first dimension, one at a time."""
    import numpy as np

    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(header, description | {"shape": tuple(shape)})
    with named(path), open(path, "wb") as file:
        file.write(header.getbuffer())
        for part in parts:
            file.write(np.ascontiguousarray(part).data)


def write_json(path: Path, value: Any, *, durable: bool = True, indent: int | None = None) -> None:
    """Write a JSON value as a file, see `write_whole`."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    # File names may hold bytes that are not UTF-8. Python represents them as lone surrogates, which cannot be encoded.
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"), durable=durable)


def lock(path: Path, *, wait: bool) -> Any:
    """Acquire a file lock, held until its `release` is called or the process ends.

    On a disk that does not support locks, nothing is locked.

    Raises:
        BlockingIOError: Another process holds the lock and `wait` is false.
        OSError: The file of the lock cannot be made.
    """
    from filelock import FileLock, Timeout

    held = FileLock(path)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BlockingIOError(f"{path} is locked") from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM, errno.EIO):
            raise  # otherwise, the disk has no locks, as that of a mounted cloud drive
    return held


def mapped(path: Path) -> Any:
    """The content of a file, memory-mapped, as a `pyarrow.Buffer`. It keeps no descriptor open, of which few may be."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def mapped_array(path: Path) -> np.ndarray:
    """The array of an .npy file, memory-mapped as by `mapped`."""
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.frombuffer(mapped(path), array.dtype, array.size, array.offset).reshape(array.shape)


def sha256_of(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_tensors(path: Path) -> Any:
    """A safetensors file for reading, as `safetensors.safe_open` gives it.

    Raises:
        OSError: It cannot be opened. The library says of every reason that there is no such file.
    """
    from safetensors import safe_open

    try:
        return safe_open(str(path), framework="pt")
    except FileNotFoundError:
        os.close(os.open(path, os.O_RDONLY))  # raises the true reason
        return safe_open(str(path), framework="pt")
