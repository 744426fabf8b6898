"""What the engines share: an `Accelerator`, its collectives and its trackers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.distributed.distributed_c10d import _abort_process_group

from mlm_dist import system_errors
from mlm_dist.config import TrackingConfig
from mlm_dist.engine import trackers
from mlm_dist.engine.launch import Launch
from mlm_dist.engine.protocol import Progress
from mlm_dist.engine.results_of_main import ResultsOfMain
from mlm_dist.errors import ConfigError, PeerError, UserError
from mlm_dist.optim.ema import EMA
from mlm_dist.optim.optimizers import set_step
from mlm_dist.spec import BatchSpec

T = TypeVar("T")


class AccelerateEngine:
    """An engine on an `Accelerator`; see `protocol.Engine`.

    Args:
        accelerator: The processes of this launch.
        launch: The launch.
        max_grad_norm: Gradients with a larger global norm are scaled down to it; None turns clipping off.
    """

    def __init__(self, accelerator: Accelerator, launch: Launch, max_grad_norm: float | None) -> None:
        self._accelerator = accelerator
        self._max_grad_norm = max_grad_norm
        self._module: nn.Module = nn.Identity()
        self._optimizer: Any = None
        self.model: Any = None
        self.device: torch.device = accelerator.device
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        self.is_main: bool = accelerator.is_main_process
        self.is_sharded = launch.is_sharded
        self.progress = Progress()
        self._phase = 0
        self._from_main = ResultsOfMain(self.is_main, self.progress) if self.world_size > 1 else None

    def setup(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """See `Engine`."""
        self._module = module
        self.model, self._optimizer = self._accelerator.prepare(module, optimizer)

    def set_batch(self, batch: BatchSpec) -> None:
        """See `Engine`."""
        self._accelerator.gradient_accumulation_steps = batch.accumulation

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """See `Engine`."""
        context: contextlib.AbstractContextManager[Any] = self._accelerator.autocast()
        return context

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """See `Engine`."""
        self.progress.count += 1
        total: torch.Tensor = self._accelerator.reduce(values, "sum")
        return total

    def min(self, value: float) -> float:
        """See `Engine`."""
        if self.world_size == 1:
            return value
        return float(self._accelerator.gather(torch.tensor([float(value)], device=self.device)).min())

    def on_main(self, work: Callable[[], T]) -> T:
        """See `Engine`."""
        failure: UserError | None = None
        result: Any = None
        if self.is_main:
            try:
                result = work()
            except UserError as error:
                failure = error
            except OSError as error:
                where = f"{error.filename} " if error.filename else ""
                failure = ConfigError(
                    f"output_dir: cannot write {where}({error.strerror}); free some space or choose another folder"
                )
            except Exception as error:
                failure = system_errors.explain(error)
                if failure is None:
                    raise
        if self._from_main is not None:
            result = self._from_main.share(result)
        # The store may be a part of rank 0's process, which must not end before all ranks have read it.
        if float(self.sum(torch.tensor(float(failure is not None), device=self.device))):
            raise failure or PeerError("rank 0 failed, and says why")
        value: T = result
        return value

    def begin_phase(self, index: int) -> None:
        """See `Engine`."""
        self._phase = index

    def begin_step(self, step: int, lr: float, num_micro_batches: int) -> float:
        """See `Engine`."""
        set_step(self._optimizer, step, lr, self._phase)
        self._accelerator.step = 0
        self._accelerator.gradient_accumulation_steps = num_micro_batches
        return float(self.world_size * num_micro_batches)

    def micro_batch(self) -> contextlib.AbstractContextManager[None]:
        """See `Engine`."""
        self.progress.count += 1
        context: contextlib.AbstractContextManager[None] = self._accelerator.accumulate(self.model)
        return context

    def backward(self, loss: torch.Tensor) -> None:
        """See `Engine`."""
        self._accelerator.backward(loss)

    def parameters(self) -> Iterator[tuple[str, torch.Tensor | None]]:
        """See `Engine`."""
        shapes = self.shapes()
        for name, parameter in self._named_parameters().items():
            yield name, self._whole(name, self._full_parameter(parameter), shapes[name])

    def moments(self, only: str | None = None) -> Iterator[tuple[str, torch.Tensor | None]]:
        """See `Engine`."""
        shapes, names = self.shapes(), self.moment_names()
        for name, parameter in self._named_parameters().items():
            if parameter.requires_grad and name not in names:
                raise RuntimeError(f"{name} is trained, but the optimizer does not have it")
            for key in names.get(name, ()):
                if only not in (None, key):
                    continue
                is_first = self._has_no_moments(parameter)
                if is_first and key != EMA:
                    yield f"{key}/{name}", torch.zeros(shapes[name]) if self.is_main else None
                else:
                    whole = self._full_parameter(parameter) if is_first else self._full_moment(parameter, key)
                    yield f"{key}/{name}", self._whole(f"{key}/{name}", whole, shapes[name])

    @torch.no_grad()
    def set_parameters(self, values: Iterable[tuple[str, torch.Tensor | None]]) -> None:
        """See `Engine`."""
        parameters, shapes = self._named_parameters(), self.shapes()
        for name, value in values:
            mine = torch.zeros(shapes[name]) if value is None else value
            whole = self.sum(mine.to(self.device))  # of rank 0's values and zeros: the same bits on all ranks
            self._set_parameter(parameters[name], whole)

    def _whole(self, name: str, value: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
        """What rank 0 gathered, which must be all of it, in fp32."""
        self.progress.count += 1
        if not self.is_main:
            return None
        if value is None or value.dtype != torch.float32 or tuple(value.shape) != shape:
            found = None if value is None else f"{value.dtype} {tuple(value.shape)}"
            raise RuntimeError(f"{name} is {found} instead of torch.float32 {shape}")
        return value.detach()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """See `Engine`."""
        named = self._named_parameters().items()
        return {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in named}

    def moment_names(self) -> Mapping[str, tuple[str, ...]]:
        """See `Engine`."""
        raise NotImplementedError

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        """{name: parameter}, as the optimizer has them."""
        return dict(self._module.named_parameters())

    def _full_parameter(self, parameter: nn.Parameter) -> torch.Tensor | None:
        """The unsharded values of a parameter, on rank 0 at least; collective."""
        raise NotImplementedError

    def _set_parameter(self, parameter: nn.Parameter, value: torch.Tensor) -> None:
        """Replace a trained parameter by unsharded fp32 values, which all ranks have; collective."""
        raise NotImplementedError

    def _full_moment(self, parameter: nn.Parameter, key: str) -> torch.Tensor | None:
        """The unsharded values of a moment, on rank 0 at least; collective."""
        raise NotImplementedError

    def _has_no_moments(self, parameter: nn.Parameter) -> bool:
        """Whether the optimizer has not met a parameter: before its first step, or without a gradient."""
        raise NotImplementedError

    def track(self, values: Mapping[str, float], step: int) -> None:
        """See `Engine`."""
        if self.is_main:
            trackers.log(self._accelerator, values, step)

    def start_trackers(
        self,
        tracking: TrackingConfig,
        settings: Mapping[str, bool | int | float | str],
        run_name: str,
        folder: str,
        resumed_from: int,
    ) -> None:
        """See `Engine`."""
        trackers.start(self._accelerator, tracking, settings, run_name, folder, resumed_from)

    def track_results(self, values: Mapping[str, float]) -> None:
        """See `Engine`."""
        if self.is_main:
            trackers.log_results(self._accelerator, values)

    def close(self, *, failed: bool = False) -> None:
        """See `Engine`."""
        # In this order: a process group whose last user is the model's gradient reducer can hang.
        self.model, self._optimizer = self._accelerator.free_memory(self.model, self._optimizer)
        self._module = nn.Identity()
        if dist.is_initialized() and failed and dist.get_backend() == "nccl":
            _abort_process_group()  # otherwise NCCL waits for ranks that may be elsewhere
        elif dist.is_initialized():
            self._destroy_process_group()
        # After a failure, trackers may fail as well, for example on a full disk; the first error counts.
        with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
            trackers.finish(self._accelerator)
        self._accelerator.end_training()

    def _destroy_process_group(self) -> None:
        dist.destroy_process_group()


def reset() -> None:
    """Let another engine start in this process, with another device, precision or sharding."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def library_versions() -> dict[str, str]:
    """Versions of the libraries whose numbers a checkpoint holds."""
    names = ("accelerate", "transformers", "deepspeed")
    return {name: importlib.metadata.version(name) for name in names if importlib.util.find_spec(name) is not None}
