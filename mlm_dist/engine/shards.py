"""Shards of FSDP2's tensors: gathered on rank 0, and made from a part of a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def gathered(value: Any, *, is_main: bool) -> torch.Tensor | None:
    """The whole of a tensor that may be a shard, on rank 0; None on other ranks. Collective for a shard.

    Ranks hold equal numbers of rows, as `torch.chunk` divides them: the last ones fewer, or none.

    Args:
        value: A tensor, or FSDP2's DTensor.
        is_main: Whether this is rank 0.
    """
    if not hasattr(value, "full_tensor"):
        return value if is_main else None
    if not _is_by_rows(value):
        whole: torch.Tensor = value.full_tensor()  # an all-gather; for meshes of several dimensions
        return whole if is_main else None
    local, size, rows = value.detach().to_local(), value.device_mesh.size(), _rows_per_rank(value)
    if len(local) < rows:  # a gather takes tensors of one shape
        local = torch.cat([local, local.new_zeros(rows - len(local), *local.shape[1:])])
    parts = [torch.empty_like(local) for _ in range(size)] if is_main else None
    dist.gather(local.contiguous(), parts, group=value.device_mesh.get_group(), group_dst=0)
    return None if parts is None else torch.cat(parts)[: value.shape[0]]


def sharded_like(parameter: Any, read: Callable[[slice], torch.Tensor]) -> torch.Tensor:
    """A tensor that is sharded as a parameter is, on its device; no rank sends anything.

    Args:
        parameter: A parameter, or FSDP2's DTensor.
        read: Reads rows of the tensor: slices of its first dimension.
    """
    if not hasattr(parameter, "full_tensor"):
        return read(slice(None)).to(parameter.device)
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh = parameter.device_mesh
    if not _is_by_rows(parameter):
        return distribute_tensor(read(slice(None)), mesh, parameter.placements, src_data_rank=None)
    rows, count = _rows_per_rank(parameter), parameter.shape[0]
    first = min(mesh.get_local_rank() * rows, count)
    local = read(slice(first, min(first + rows, count))).to(parameter.to_local().device)
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(local, mesh, parameter.placements, run_check=False, shape=shape, stride=stride)


def _is_by_rows(value: Any) -> bool:
    from torch.distributed.tensor import Shard

    return tuple(value.placements) == (Shard(0),)


def _rows_per_rank(value: Any) -> int:
    return -(-int(value.shape[0]) // int(value.device_mesh.size()))
