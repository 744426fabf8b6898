"""What rank 0 tells the other ranks after work that it does alone, however long that takes."""

from __future__ import annotations

import itertools
import json
import os
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import _get_default_store

from mlm_dist.engine.protocol import Progress
from mlm_dist.errors import PeerError

POLL_SECONDS = 0.02
_KEY = "mlm_dist/store"


class ResultsOfMain:
    """JSON values that rank 0 hands to all ranks through a store. They poll for it: a collective would time out.

    The store is in rank 0's process. torch's own is in that of the launcher: without it, nothing could be saved.

    Args:
        is_main: Whether this is rank 0. It listens on any free port of MASTER_ADDR, which is its machine.
        progress: What the watchdog sees of this rank.
    """

    def __init__(self, is_main: bool, progress: Progress) -> None:
        self._is_main, self._progress = is_main, progress
        self._numbers = itertools.count()  # every rank counts the same values
        address, timeout = os.environ.get("MASTER_ADDR", "127.0.0.1"), timedelta(minutes=15)
        port = 0 if is_main else int(_get_default_store().get(_KEY))
        self._store = TCPStore(address, port, is_master=is_main, timeout=timeout, wait_for_workers=False)
        if is_main:
            _get_default_store().set(_KEY, str(self._store.port))

    def share(self, result: Any) -> Any:
        """Rank 0's value, once it has one; collective.

        Raises:
            PeerError: Rank 0 has ended.
        """
        key = f"mlm_dist/on_main/{next(self._numbers)}"
        if self._is_main:
            self._store.set(key, json.dumps(result))
            return result
        self._progress.waits_for_main = True
        try:
            while not self._store.check([key]):
                time.sleep(POLL_SECONDS)
            return json.loads(self._store.get(key))
        except dist.DistError:
            raise PeerError("the connection to rank 0 is lost; see its log") from None
        finally:
            self._progress.waits_for_main = False
