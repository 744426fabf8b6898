"""Shares of work."""

from __future__ import annotations

from collections.abc import Sequence


def share(sizes: Sequence[int], rank: int, count: int) -> list[int]:
    """The indices of one share of items, chosen so that the sizes of all shares are about equal.

    Args:
        sizes: Sizes of all items.
        rank: Which share, from 0.
        count: Number of shares.
    """
    loads = [0] * count
    mine = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):  # the largest first, to the share with the least
        least = loads.index(min(loads))
        loads[least] += max(sizes[i], 1)
        if least == rank:
            mine.append(i)
    return sorted(mine)
