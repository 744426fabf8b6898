"""The optimizers that `optim.name` can mean, and what each keeps of a parameter from one update to the next."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch

from mlm_dist.config import OptimConfig

Groups = list[dict[str, Any]]


class Kept(NamedTuple):
    """What an optimizer keeps.

    Args:
        moments: The names of its tensors of a parameter's shape.
        counts: Where it counts its updates: with every parameter, with every group of them, or nowhere.
    """

    moments: tuple[str, ...]
    counts: Literal["parameter", "group", "nowhere"]


_ADAMW = ("exp_avg", "exp_avg_sq")
_KEPT = {
    "AdamW": Kept(_ADAMW, "parameter"),
    "StableAdamW": Kept(_ADAMW, "group"),
    "Lion": Kept(("exp_avg",), "group"),
    "Muon": Kept(("momentum_buffer",), "nowhere"),
}
_PACKAGES = {"stableadamw": "pytorch_optimizer", "lion": "pytorch_optimizer"}
# Whole matrices or whole tensors decide on the length of a step in these, so that no part of one can be updated alone.
NEED_WHOLE_TENSORS = ("muon", "stableadamw")


class Parts(torch.optim.Optimizer):
    """Several optimizers as one, each with parameters of its own.

    They work on the groups and the state of this one, wherever a library puts others in their place. Like a fused
    optimizer it takes `found_inf` for a scaler's verdict and leaves the update out, but it has to ask the device: once
    per update, for neither of the libraries' other optimizers can be told to do nothing.

    Args:
        parts: The optimizers.
    """

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts
        self.found_inf: torch.Tensor | None = None
        for number, part in enumerate(parts):
            for group in part.param_groups:
                group["part"] = number
        super().__init__([group for part in parts for group in part.param_groups], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Let each part make its step, unless `found_inf` says that the update is to be left out."""
        assert closure is None
        if self.found_inf is not None and bool(self.found_inf):
            return
        for number, part in enumerate(self.parts):
            part.param_groups = [group for group in self.param_groups if group["part"] == number]
            part.state = self.state
            part.step()


def kept_of(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Kept:
    """What an optimizer keeps of the parameters of one of its groups."""
    part = optimizer.parts[group["part"]] if isinstance(optimizer, Parts) else optimizer
    return _KEPT[type(part).__name__]


def missing_package(name: str) -> str | None:
    """The package that an optimizer comes from, where it is not installed."""
    package = _PACKAGES.get(name)
    return package if package is not None and importlib.util.find_spec(package) is None else None


def make(config: OptimConfig, groups: Groups, peak: float) -> torch.optim.Optimizer:
    """The optimizer of `optim.name`, its weight decay decoupled and multiplied with the learning rate.

    - adamw: Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101; fused.
    - stableadamw: AdamW whose step of each tensor is made shorter while its gradients are larger than the moments
      expect, as in Adafactor (Wortsman et al., 2023, https://arxiv.org/abs/2304.13013).
    - lion: the sign of the momentum (Chen et al., 2023, https://arxiv.org/abs/2302.06675).
    - muon: momentum whose matrix is made orthogonal (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon),
      for the groups that say `hidden`, its steps scaled to the size of AdamW's so that one rate is good for both (Liu
      et al., 2025, https://arxiv.org/abs/2502.16982); AdamW for the others.

    Args:
        config: Its name and numbers.
        groups: `params` and `weight_decay`, and whether they are `hidden` matrices.
        peak: The learning rate.
    """
    both: Any = config.betas
    match config.name:
        case "adamw":
            return _adamw(config, groups, peak)
        case "stableadamw":
            from pytorch_optimizer import StableAdamW

            return Parts(StableAdamW(groups, lr=peak, betas=both, eps=config.eps, kahan_sum=False))
        case "lion":
            from pytorch_optimizer import Lion

            return Parts(Lion(groups, lr=peak, betas=both))
        case "muon":
            hidden = [group for group in groups if group["hidden"]]
            others = [group for group in groups if not group["hidden"]]
            muon = torch.optim.Muon(hidden, lr=peak, adjust_lr_fn="match_rms_adamw")
            return Parts(muon, _adamw(config, others, peak))


def set_count(optimizer: torch.optim.Optimizer, num_updates: int) -> None:
    """Let an optimizer take its moments for those of so many updates."""
    for group in optimizer.param_groups:
        match kept_of(optimizer, group).counts:
            case "parameter":
                for parameter in group["params"]:
                    count = torch.tensor(float(num_updates), device=parameter.device)
                    optimizer.state[parameter]["step"] = count
            case "group":
                group["step"] = num_updates


def moment_bytes(name: str, num_parameters: int, num_hidden: int) -> int:
    """Bytes of fp32 moments of so many parameters, some of them in the matrices of hidden layers."""
    match name:
        case "lion":
            return 4 * num_parameters
        case "muon":
            return 8 * num_parameters - 4 * num_hidden
    return 8 * num_parameters


def _adamw(config: OptimConfig, groups: Groups, peak: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=peak, betas=config.betas, eps=config.eps, fused=True)
