"""The memory of all tensors that exist at once, without what kernels allocate inside."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make inside, and remembers the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._total = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {one.untyped_storage()._cdata for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)}
        results = operation(*args, **(kwargs or {}))
        for result in tree_iter(results):
            # What an operation changes in place existed before, such as a gradient that is added to.
            if isinstance(result, torch.Tensor) and result.untyped_storage()._cdata not in given:
                self._add(result.untyped_storage())
        self.peak = max(self.peak, self._total)
        return results

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._total += storage.nbytes()
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._total -= self._sizes.pop(key, 0)
