"""train.py under FSDP2 on CPUs: only the places that ask for a GPU are changed. Started by torch.distributed.run."""

from __future__ import annotations

import os
from typing import Any

os.environ |= {
    **{"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"},
    **{"FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT", "FSDP_OFFLOAD_PARAMS": "false"},
    **{"FSDP_CPU_RAM_EFFICIENT_LOADING": "false", "ACCELERATE_TORCH_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "-1"},
}

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from mlm_dist import runtime, train
from mlm_dist.engine import conflicts, start


def gloo(self: Any, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None) -> tuple[str, Any]:
    return "gloo", DistributedType.MULTI_GPU


PartialState._prepare_backend = gloo
create: Any = vars(start)["Accelerator"]
vars(start)["Accelerator"] = lambda cpu=None, **settings: create(cpu=False, **settings)
conflicts._of_fsdp = lambda environ, on_cpu: iter(())

if __name__ == "__main__":
    runtime.main(train.run, prog="train.py", description="")
