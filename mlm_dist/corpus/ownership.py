"""Whose folder a cache is: what is read from it must not have been written by just anybody."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mlm_dist.errors import CorpusError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def require_own(folder: Path, key: str) -> None:
    """Refuse a folder of another user that others can write to, as git and ssh do; folders of root are trusted.

    Args:
        folder: The folder.
        key: The config key that names it, for the message.

    Raises:
        CorpusError: Another user owns it, and its group or everybody can write to it.
    """
    if not hasattr(os, "getuid"):
        return
    status = folder.stat()
    if status.st_uid in (0, os.getuid()) or not status.st_mode & _OTHERS_WRITE:
        return
    raise CorpusError(
        f"{key}: {folder} belongs to user {_name(status.st_uid)} and others can write to it (mode "
        f"{stat.S_IMODE(status.st_mode):o}), so they could change your corpus; name a folder of your own, or let its "
        f"owner run chmod go-w {folder}"
    )


def _name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
