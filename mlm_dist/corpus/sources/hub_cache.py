"""The layout of the Hugging Face Hub's cache: snapshots hold links to files that are named by their hashes."""

from __future__ import annotations

import os
import re
from pathlib import Path

_REPOSITORY = re.compile(r"(datasets|models|spaces)--[^/]+")


def is_own_blob(link: Path) -> bool:
    """Whether a link in `<repository>/snapshots/<commit>/` leads to a file in `<repository>/blobs/`, and nowhere else.

    Args:
        link: The link, in a folder whose path has no links.
    """
    target = os.path.realpath(link)
    for folder in link.parents:
        if folder.name == "snapshots" and _REPOSITORY.fullmatch(folder.parent.name):
            return os.path.dirname(target) == str(folder.parent / "blobs") and os.path.isfile(target)
    return False
