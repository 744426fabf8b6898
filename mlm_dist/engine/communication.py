"""The time that processes take to exchange gradients and weights in a step: a model, not a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from mlm_dist.engine.cards import card
from mlm_dist.engine.launch import BYTES, Launch

# Assumptions, in bytes/s that each process sends while it receives as many. Collectives reach a part of the links in
# the vendor's data sheet; cards that are not in our table count as cards on PCIe 4.0.
LINK_SHARE, PCIE = 0.6, 32e9
NETWORK = 12.5e9  # 100 Gbit/s for each machine; a ring crosses each machine's link once
GLOO = 0.8e9  # between processes of one machine, as fitted on 2 cores in benchmarks/results/scaling.json


@dataclass(frozen=True)
class Communication:
    """What each process sends in a step.

    Args:
        num_bytes: Bytes.
        bandwidth: Assumed bytes/s.
    """

    num_bytes: float
    bandwidth: float

    @property
    def seconds(self) -> float:
        """Seconds, if nothing else happens meanwhile."""
        return self.num_bytes / self.bandwidth


def communication(launch: Launch, parameters: int, accumulation: int) -> Communication:
    """What each process of a launch sends in a step, and how fast.

    As in section 7 of Rajbhandari et al., 2020 (ZeRO, https://arxiv.org/abs/1910.02054): a reduce-scatter or an
    all-gather of b bytes on P processes sends (P-1)/P x b, an all-reduce twice that. With N parameters, all
    of them trained, and e bytes of a number in matrix products: DDP all-reduces gradients in fp32 once per step. ZeRO-1
    reduces e N bytes of gradients once per step, ZeRO-2 in each micro-batch, and both gather e N bytes of weights after
    it. ZeRO-3 gathers the weights twice in each micro-batch and reduces the gradients in each. FSDP2 does as well, with
    gradients in fp32.

    Args:
        launch: The launch.
        parameters: N.
        accumulation: Micro-batches per step.
    """
    e, share = BYTES.get(launch.precision, 4), (launch.world_size - 1) / launch.world_size
    gathered = reduced = e * parameters
    match launch.sharding_name:
        case "fsdp2":
            total = accumulation * (2 * gathered + 4 * parameters)
        case "zero1":
            total = reduced + gathered
        case "zero2":
            total = accumulation * reduced + gathered
        case "zero3":
            total = accumulation * (2 * gathered + reduced)
        case _:
            total = 2 * 4 * parameters
    return Communication(share * total, _bandwidth(launch))


def _bandwidth(launch: Launch) -> float:
    if launch.device.kind == "cpu":
        within = GLOO
    else:
        known = card(launch.device.name)
        within = LINK_SHARE * (PCIE if known is None else known.link)
    return within if launch.world_size == launch.local_world_size else min(within, NETWORK)
