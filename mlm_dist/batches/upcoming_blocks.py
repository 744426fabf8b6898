"""The blocks that the next steps need: threads download them before their rows are read."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np

from mlm_dist.batches.mixture import Order
from mlm_dist.errors import UserError

THREADS = 4


class BlockRows(Protocol):
    """Rows that are read in blocks, see `corpus.stored_rows.StoredRows`."""

    def ahead(self, groups: Sequence[np.ndarray]) -> list[int]:
        """Those of some rows whose blocks there is room for."""
        ...

    def fetch(self, row: int) -> None:
        """Download the block of a row."""
        ...


class UpcomingBlocks:
    """Downloads blocks ahead of the steps; an error is left to the step that reads the block.

    Args:
        order: Which row comes when.
        rows: The rows.
    """

    def __init__(self, order: Order, rows: BlockRows) -> None:
        self._order, self._rows = order, rows
        self._lock = threading.Lock()  # two threads assemble two steps
        self._expected: list[int] = []
        self._futures: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="blocks")

    def expect(self, position: int) -> None:
        """Download the blocks of the rows from a position on, and then those that come after them; does not wait."""
        with self._lock:
            expected = self._rows.ahead(self._order.upcoming(position))
            if expected != self._expected:
                for future in self._futures:
                    future.cancel()
                self._expected = expected
                self._futures = [self._pool.submit(self._fetch, row) for row in expected]

    def _fetch(self, row: int) -> None:
        with contextlib.suppress(UserError):
            self._rows.fetch(row)

    def close(self) -> None:
        """Begin no more downloads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
