"""The environment of this process: libraries change it, jobs leave it as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Restore the environment variables afterwards; a context manager and a decorator."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
