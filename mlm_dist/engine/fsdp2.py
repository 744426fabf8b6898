"""FSDP2: the settings that accelerate does not choose right, and the parts of it that a checkpoint needs."""

from __future__ import annotations

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from torch import nn

from mlm_dist.model.precision import Precision


def plugin(precision: str) -> FullyShardedDataParallelPlugin:
    """Accelerate's plugin, with gradients that are reduced in fp32, and outputs in the type the model gives them.

    Accelerate's own policy rounds both to 16 bits: the loss, and the sum of gradients over ranks.

    Args:
        precision: fp32, bf16 or fp16.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    policy = MixedPrecisionPolicy(param_dtype=Precision(precision).dtype, reduce_dtype=torch.float32, output_dtype=None)
    return FullyShardedDataParallelPlugin(mixed_precision_policy=policy)


def join_on_cpu(group: InitProcessGroupKwargs) -> None:
    """Join the processes of this launch with gloo, before accelerate does, which would start FSDP on GPUs only."""
    state = PartialState(cpu=True, **group.to_kwargs())
    state.distributed_type = DistributedType.MULTI_GPU  # accelerate's word for several devices on which FSDP works


def reshard(module: nn.Module) -> None:
    """Free the gathered weights of a module that FSDP2 shards, so that its parameters are the sharded fp32 ones.

    A forward pass without a backward pass leaves weights of the root gathered, in the precision of the forward pass.
    """
    from torch.distributed.fsdp import FSDPModule

    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
