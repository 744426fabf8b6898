"""Hints for a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_LISTED = 20


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question, all of them if there are few, or a reference to --help."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"choose from {', '.join(names)}" if len(names) < MAX_LISTED else "see --help"
