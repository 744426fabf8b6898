"""Transfers of many objects at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")

THREADS = 8


def in_parallel(work: Callable[[str], T], names: Iterable[str]) -> Iterator[tuple[str, T]]:
    """(name, result) of some work on each name, in several threads, in the order in which they end.

    Raises:
        Exception: The first one of the work; what has not begun by then is not done.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        futures: dict[Future[T], str] = {pool.submit(work, name): name for name in names}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
