"""A model of the time of a step on several processes, and how its parameters are fitted to measurements on two."""

from __future__ import annotations

from dataclasses import dataclass

from common import console
from rich.table import Table
from workload import Shape

ADAMW_BYTES = 28  # per parameter: weight, gradient and two moments are read, all but the gradient written, in fp32
GRADIENT_BYTES, WEIGHT_BYTES = 4, 2  # DDP reduces fp32, ZeRO reduces and gathers bf16
BACKWARD = 2 / 3  # fraction of the FLOPs in the backward pass


@dataclass(frozen=True)
class Hardware:
    """The properties of a machine that the model uses.

    Args:
        flops: Required FLOP/s that one process reaches in a training step.
        memory: Bytes/s of its memory.
        bandwidth: Bytes/s that each process sends while all send.
        latency: Seconds that a collective takes per process, whatever its size.
        overlap: Fraction of the backward pass that communication overlaps with.
    """

    flops: float
    memory: float
    bandwidth: float
    latency: float
    overlap: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, as the model computes them; `exposed` is the communication that the processes wait for."""

    compute: float
    optimizer: float
    communication: float
    exposed: float

    @property
    def total(self) -> float:
        """All seconds."""
        return self.compute + self.optimizer + self.exposed


def predict(shape: Shape, length: int, rows: int, processes: int, stage: int, hardware: Hardware) -> StepTime:
    """The time of a step with `rows` rows per process.

    The bytes that each process sends are counted as in Rajbhandari et al. (2020): (N-1)/N for a reduce-scatter or an
    all-gather, twice that for an all-reduce. DDP all-reduces fp32 gradients; ZeRO reduces them and gathers the weights
    in bf16, stage 3 a second time for the backward pass.

    Args:
        shape: The model.
        length: Tokens per row.
        rows: Rows per process and step.
        processes: N.
        stage: Stage of ZeRO; 0 for DDP.
        hardware: The machine.
    """
    share = (processes - 1) / processes
    size = shape.num_parameters
    compute = shape.flops_per_token(length) * length * rows / hardware.flops
    optimizer = ADAMW_BYTES * size / hardware.memory / (processes if stage else 1)

    def seconds(num_bytes: float) -> float:
        return num_bytes / hardware.bandwidth + (hardware.latency * processes if processes > 1 else 0.0)

    match stage:
        case 0:
            hidden, open_ = seconds(2 * share * GRADIENT_BYTES * size), 0.0
        case 1 | 2:
            hidden = open_ = seconds(share * WEIGHT_BYTES * size)  # weights are gathered after the optimizer
        case _:
            hidden, open_ = seconds(3 * share * WEIGHT_BYTES * size), 0.0
    exposed = open_ + max(0.0, hidden - hardware.overlap * compute * BACKWARD)
    return StepTime(compute, optimizer, hidden + open_, exposed)


def show_prediction(shape: Shape, length: int, rows: int, hardware: Hardware, most: int) -> None:
    """Print the model's table for up to `most` processes."""
    table = Table(
        *("processes", "sharding", "compute", "optimizer", "communication", "exposed", "tokens/s", "efficiency"),
        title=f"A model, not a measurement: {shape.name}, {length} tokens, {rows} rows per process",
    )
    for stage in range(4):
        alone = predict(shape, length, rows, 1, stage, hardware).total
        processes = 1
        while processes <= most:
            one = predict(shape, length, rows, processes, stage, hardware)
            times = (
                f"{1000 * value:,.1f} ms" for value in (one.compute, one.optimizer, one.communication, one.exposed)
            )
            speed = processes * rows * length / one.total
            name = f"ZeRO-{stage}" if stage else "DDP"
            table.add_row(str(processes), name, *times, f"{speed:,.0f}", f"{alone / one.total:.0%}")
            processes *= 2
    console.print(table)


def fit(shape: Shape, length: int, rows: int, one: float, two: float, all_reduce: float, memory: float) -> Hardware:
    """The properties of a machine, from measurements.

    Args:
        shape: The model.
        length: Tokens per row.
        rows: Rows per process and step.
        one: Tokens per second of one process.
        two: Tokens per second of two processes, each with as many rows.
        all_reduce: Seconds of an all-reduce of the gradients on two processes, without training.
        memory: Bytes/s of the memory.
    """
    tokens = rows * length
    whole = tokens / one
    exposed = max(0.0, 2 * tokens / two - whole)
    compute = whole - ADAMW_BYTES * shape.num_parameters / memory
    hidden = max(0.0, all_reduce - exposed)
    return Hardware(
        flops=shape.flops_per_token(length) * tokens / compute,
        memory=memory,
        bandwidth=GRADIENT_BYTES * shape.num_parameters / all_reduce,
        latency=0.0,
        overlap=min(1.0, hidden / (compute * BACKWARD)),
    )
