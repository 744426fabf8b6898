"""Hints for a name that is not known."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable

MAX_LISTED = 20


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, all of them if there are few, or a reference to the keys."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose from {', '.join(names)}" if len(names) < MAX_LISTED else "see mlm-dist keys"


def nearest_path(path: str) -> str | None:
    """The existing path that is most like a missing one, part by part; None if there is no such path.

    The case of letters is ignored. The result begins as the path does: `~` stays, and a relative path stays relative.
    """
    whole = path.rstrip("/")
    found = "/" if whole.startswith("/") else ""
    for part in filter(None, whole.split("/")):
        here = os.path.join(found, part)
        if os.path.exists(os.path.expanduser(here)):
            found = here
            continue
        close = _nearest_entry(os.path.expanduser(found) or ".", part)
        if close is None:
            return None
        found = os.path.join(found, close)
    return found or None


def _nearest_entry(folder: str, name: str) -> str | None:
    """The entry of a folder that is most like a name."""
    try:
        entries = {entry.lower(): entry for entry in sorted(os.listdir(folder))}
    except OSError:
        return None
    close = difflib.get_close_matches(name.lower(), entries, n=1, cutoff=0.6)
    return entries[close[0]] if close else None
