"""Objects of a store: their sizes, and what changes with their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

# Names that file systems give what changes with the content of a file.
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "blob_id", "xet_hash"),
    *("LastModified", "last_modified", "Last-Modified", "modified", "mtime", "updated"),
)


class StoredObject(NamedTuple):
    """An object of a store.

    Args:
        size: Its size in bytes.
        version: What changes with its content, such as its ETag and the time of its last change; empty if unknown.
    """

    size: int
    version: str

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> StoredObject:
        """The object that a file system of fsspec describes."""
        versions = [f"{name} {info[name]}" for name in _VERSIONS if info.get(name)]
        return cls(int(info.get("size") or 0), "; ".join(versions))
