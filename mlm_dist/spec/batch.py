"""How a global batch is spread over micro-batches, accumulation and processes."""

from __future__ import annotations

from dataclasses import dataclass, replace


def largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of a number that is at most `limit`."""
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)


@dataclass(frozen=True)
class BatchSpec:
    """How a global batch is spread: micro_size x accumulation x world_size = global_size.

    Args:
        global_size: Rows per step, over all processes.
        micro_size: Rows per process and forward pass.
        accumulation: Forward passes per step.
        world_size: Number of processes.
        initial_size: Rows of the first step; global_size if the batch does not grow.
        initial_length: Tokens of the first rows; the length of a row if rows do not grow.
        ramp_tokens: Tokens over which both grow; 0 if neither does.
    """

    global_size: int
    micro_size: int
    accumulation: int
    world_size: int
    initial_size: int
    initial_length: int
    ramp_tokens: int = 0

    def describe(self) -> str:
        """The arithmetic, for people."""
        factors = f"{self.micro_size} x {self.accumulation} x {self.world_size}"
        return f"{self.global_size} rows per step = {factors} (micro-batch x accumulation x processes)"

    def accumulation_of(self, num_rows: int) -> int:
        """Forward passes of a step of fewer rows; the last one may lack some."""
        return -(-num_rows // (self.micro_size * self.world_size))

    def with_micro_size(self, micro_size: int) -> BatchSpec:
        """The same global batch in micro-batches of another size, which divides the rows of a process."""
        rows = self.micro_size * self.accumulation
        assert rows % micro_size == 0
        return replace(self, micro_size=micro_size, accumulation=rows // micro_size)

    def halved(self) -> BatchSpec:
        """The same global batch in micro-batches of half the size, or of the next smaller size that divides."""
        rows = self.micro_size * self.accumulation
        return self.with_micro_size(largest_divisor(rows, max(1, self.micro_size // 2)))
