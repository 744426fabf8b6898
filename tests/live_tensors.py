"""The memory of all tensors that exist at once, without what kernels allocate inside."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make inside, and remembers the largest sum.

    Args:
        besides: Tensors that exist already; views of them do not count.
    """

    def __init__(self, besides: Iterable[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._besides = {tensor.untyped_storage()._cdata for tensor in besides}
        self._sizes: dict[int, int] = {}
        self._total = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = operation(*args, **(kwargs or {}))
        for result in tree_iter(results):
            if isinstance(result, torch.Tensor):
                self._add(result.untyped_storage())
        self.peak = max(self.peak, self._total)
        return results

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes and key not in self._besides:
            self._sizes[key] = storage.nbytes()
            self._total += storage.nbytes()
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._total -= self._sizes.pop(key, 0)
