"""Object stores: the files below an address such as s3://bucket/folder. Only this module imports fsspec.

Endpoint and credentials are those of the environment and of fsspec's own configuration.
"""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlm_dist.credentials import without_credentials
from mlm_dist.errors import ConfigError, reason
from mlm_dist.files import write_whole
from mlm_dist.retries import is_transient_of_store, retry
from mlm_dist.stored_object import StoredObject

T = TypeVar("T")

PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
}
# Of fsspec's file systems, those that end with the process, wrap another one, or hold repositories.
_NO_STORES = (
    *("memory", "data", "local", "asynclocal", "async_wrapper", "asyncwrapper", "pyscript", "dask", "jupyter", "jlab"),
    *("cached", "blockcache", "filecache", "simplecache", "dir", "generic", "reference", "root"),
    *("zip", "tar", "libarchive", "git", "github", "gist", "ssh", "ftp"),
)
_READ_ONLY = ("http", "https")
_OPTIONS: dict[str, dict[str, Any]] = {
    "file": {"auto_mkdir": True},
    "s3": {"max_concurrency": 2},  # parts of 50 MB of a file, which are in memory
}
# Errors of this machine's disk, and not of the store.
_LOCAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.EFBIG, errno.ENOMEM)


def protocol_of(address: str) -> str | None:
    """The protocol of an address that fsspec can read, such as s3; None for another text."""
    scheme = re.match(r"([A-Za-z][\w+.-]*)://.", address)
    if scheme is None or "::" in address:
        return None
    import fsspec

    name = scheme[1].lower()
    return name if name in fsspec.available_protocols() and name not in _NO_STORES else None


def check(address: str, key: str) -> None:
    """Refuse an address that is not one of a folder that can be written to; uses no network.

    Raises:
        ConfigError: The message does not quote the address, which may hold a password.
    """
    protocol = protocol_of(address)
    if protocol is None or protocol in _READ_ONLY:
        raise ConfigError(
            f"{key}: must be the address of a folder in an object store, such as s3://bucket/folder, or of a mounted "
            "one, such as file:///mnt/folder"
        )


class ObjectStore:
    """The objects below an address.

    Every method tries again what a network or a busy server interrupted.

    Args:
        address: The address of a folder or of an object.
        key: The config key that holds it, for messages.

    Raises:
        ConfigError: A package is missing, or the address is none.
    """

    def __init__(self, address: str, key: str) -> None:
        import fsspec

        self.address, self._key = without_credentials(address).rstrip("/"), key
        protocol = str(protocol_of(address))
        # Each store has its own file system, which remembers no listing: other programs change the objects.
        options = {"use_listings_cache": False, "skip_instance_cache": True, **_OPTIONS.get(protocol, {})}
        try:
            self._fs, root = fsspec.core.url_to_fs(address, **options)
        except ImportError as error:
            package = PACKAGES.get(protocol)
            raise ConfigError(
                f"{key}: {self.address} needs the package {package}; run pip install '{package}' or 'mlm_dist[scale]'"
                if package
                else f"{key}: {self.address} needs a package ({reason(error)}); install it"
            ) from None
        except Exception as error:  # of any file system
            raise self._failed("open", "", error) from None
        self._root = str(root).rstrip("/")

    def list(self, folder: str = "") -> dict[str, StoredObject]:
        """{path relative to the folder: object} of all objects below a folder; empty if there is no such folder.

        Raises:
            ConfigError: The store cannot be read.
        """
        prefix = f"{self._path(folder)}/"

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(prefix, detail=True)
            return found

        found = (self._try("list", folder, lambda: _unless_absent(find)) or {}).items()
        return {
            path.removeprefix(prefix): StoredObject.of(info)
            for path, info in found
            if path.startswith(prefix) and not path.endswith("/") and info.get("type", "file") == "file"
        }

    def find_file(self) -> StoredObject | None:
        """The object that the address itself names; None if it names none.

        Raises:
            ConfigError: The store cannot be read.
        """

        def info() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.info(self._root)
            return found

        found = self._try("read", "", lambda: _unless_absent(info))
        return StoredObject.of(found) if found is not None and found.get("type") == "file" else None

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none of that name.

        Raises:
            ConfigError: The store cannot be read.
        """

        def read() -> bytes:
            found: bytes = self._fs.cat_file(self._path(name))
            return found

        return self._try("read", name, lambda: _unless_absent(read))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """The bytes of an object in [start, stop); fewer if it is shorter.

        Raises:
            ConfigError: The store cannot be read, or has no such object.
        """

        def read() -> bytes:
            found: bytes = self._fs.cat_file(self._path(name), start=start, end=stop)
            return found

        return self._try("read", name, read)

    def folders(self) -> Sequence[str]:
        """The names of the folders directly below the address.

        Raises:
            ConfigError: The store cannot be read.
        """

        def find() -> Sequence[dict[str, Any]]:
            self._fs.invalidate_cache()
            found: Sequence[dict[str, Any]] = self._fs.ls(self._root, detail=True)
            return found

        found = self._try("list", "", lambda: _unless_absent(find)) or []
        return sorted(str(one["name"]).rstrip("/").rsplit("/", 1)[-1] for one in found if one["type"] == "directory")

    def modified(self, name: str) -> float:
        """When an object was written, in seconds since the epoch.

        Raises:
            ConfigError: The store cannot be read, or does not say it.
        """
        return float(self._try("read", name, lambda: self._fs.modified(self._path(name))).timestamp())

    def download(self, name: str, path: Path) -> None:
        """Download an object; the file is whole or not there.

        Args:
            name: The object; empty for the one that the address names.
            path: The file, whose folder is made.

        Raises:
            ConfigError: The store cannot be read, or has no such object.
        """
        path.parent.mkdir(parents=True, exist_ok=True)

        def get() -> None:
            write_whole(path, lambda file: self._fs.get_file(self._path(name), str(file)), durable=False)

        self._try("download", name, get)

    def upload(self, path: Path, name: str) -> None:
        """Upload a file.

        Raises:
            ConfigError: The store cannot be written to.
        """
        self._try("upload", name, lambda: self._fs.put_file(str(path), self._path(name)))

    def write(self, name: str, content: bytes) -> None:
        """Write a small object.

        Raises:
            ConfigError: The store cannot be written to.
        """
        self._try("upload", name, lambda: self._fs.pipe_file(self._path(name), content))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, in this order; one that is not there makes no difference. Raises as `write` does."""
        for name in names:
            remove = functools.partial(self._fs.rm_file, self._path(name))
            self._try("remove", name, functools.partial(_unless_absent, remove))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, what: str, name: str, call: Callable[[], T]) -> T:
        try:
            return retry(call, f"{self._key}: {what} {name or self.address}", is_transient_of_store)
        except Exception as error:  # of any file system
            if isinstance(error, OSError) and error.errno in _LOCAL:
                raise
            raise self._failed(what, name, error) from error

    def _failed(self, what: str, name: str, error: Exception) -> ConfigError:
        place = f"{self.address}/{name}" if name else self.address
        why = without_credentials(reason(error))
        return ConfigError(f"{self._key}: cannot {what} {place} ({why}); check the address, the access and the network")


def _unless_absent(call: Callable[[], T]) -> T | None:
    """What a call returns; None if there is no such object. fsspec says that of some lost connections as well."""
    try:
        return call()
    except FileNotFoundError as error:
        if is_transient_of_store(error):
            raise
        return None
