"""torch's flash-attention operator on the CPU, in plain operations: what its kernel computes on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Calls:
    """What the operator was called with.

    Args:
        windows: Tokens to the left that a token attends to, of each call; -1 for all.
        rights: The same to the right; 0 for causal attention.
        longest: Tokens of the longest chunk, of each call.
        dropouts: The dropout probability of each call.
        seeds: The random state of each call, and of each backward pass.
    """

    windows: list[int] = field(default_factory=list)
    rights: list[int] = field(default_factory=list)
    longest: list[int] = field(default_factory=list)
    dropouts: list[float] = field(default_factory=list)
    seeds: list[list[int]] = field(default_factory=list)
    backward_seeds: list[list[int]] = field(default_factory=list)


@contextlib.contextmanager
def kernel() -> Iterator[Calls]:
    """Inside, the CPU has the kernel, forward and backward."""
    calls = Calls()

    def forward(  # the schema of the operator
        *given: Any, scale: float | None = None, window_size_left: int = -1, window_size_right: int = -1, **_: Any
    ) -> tuple[torch.Tensor, ...]:
        query, key, value, starts, _starts, longest, _longest, dropout, is_causal, _debug = given
        assert window_size_right in (window_size_left, 0)
        assert is_causal == (window_size_right == 0), "the kernel sets its right side to 0 for causal attention"
        assert starts.dtype == torch.int32 and torch.equal(starts, _starts) and longest == _longest
        # As the kernel does, it takes its seed from torch's generator.
        state = torch.randint(1 << 62, (2,)) if dropout else torch.zeros(2, dtype=torch.int64)
        calls.windows.append(window_size_left)
        calls.rights.append(window_size_right)
        window = window_size_left, window_size_right
        calls.longest.append(longest)
        calls.dropouts.append(dropout)
        calls.seeds.append(state.tolist())
        probabilities, keep = parts(query, key, starts, scale, window, state, dropout)
        attended = torch.einsum("hqk,khd->qhd", probabilities * keep, repeated(value, query))
        where = torch.arange(len(query))
        within = where - starts[torch.searchsorted(starts, where.to(torch.int32), right=True) - 1]
        attended[within >= longest] = float("nan")  # the kernel leaves these as they were in memory
        nothing = torch.zeros(0)
        rest = torch.zeros(query.shape[1], len(query)), state.to(torch.uint64), torch.zeros((), dtype=torch.uint64)
        return attended.to(query.dtype).contiguous(), *rest, nothing

    def backward(
        *given: Any, scale: float | None = None, window_size_left: int = -1, window_size_right: int = -1, **_: Any
    ) -> Any:
        gradient, query, key, value, _out, _sums, starts, _s, _m, _n, dropout, is_causal, state, _unused = given
        assert is_causal == (window_size_right == 0)
        window = window_size_left, window_size_right
        calls.backward_seeds.append([int(number) for number in state])
        probabilities, keep = parts(query, key, starts, scale, window, state, dropout)
        g, k, v = gradient.float(), repeated(key, query), repeated(value, query)
        of_kept = torch.einsum("qhd,khd->hqk", g, v) * keep
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        of_scores = probabilities * (of_kept - (of_kept * probabilities).sum(-1, keepdim=True)) * factor
        found = (
            torch.einsum("hqk,khd->qhd", of_scores, k),
            summed(torch.einsum("hqk,qhd->khd", of_scores, query.float()), key),
            summed(torch.einsum("hqk,qhd->khd", probabilities * keep, g), value),
        )
        return tuple(one.to(query.dtype).contiguous() for one in found)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        library.impl("_flash_attention_backward", backward, "CPU")
        yield calls


def parts(
    query: torch.Tensor,
    key: torch.Tensor,
    starts: torch.Tensor,
    scale: float | None,
    window: tuple[int, int],
    state: torch.Tensor,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[heads, tokens, tokens] probabilities, and what dropout multiplies them with."""
    where = torch.arange(len(query), dtype=torch.int32)
    chunk = torch.searchsorted(starts, where, right=True)
    allowed = chunk[:, None] == chunk[None]
    left, right = window
    back = where[:, None] - where[None]
    if left >= 0:
        allowed &= back <= left
    if right >= 0:
        allowed &= -back <= right
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.einsum("qhd,khd->hqk", query.float(), repeated(key, query)) * factor
    probabilities = scores.masked_fill(~allowed, -1e30).softmax(-1)
    generator = torch.Generator().manual_seed(int(state[0]) ^ int(state[1]))
    keep = torch.rand(probabilities.shape, generator=generator) >= dropout
    return probabilities, keep / (1 - dropout)


def repeated(states: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Keys or values in fp32, for each head of the queries."""
    return states.float().repeat_interleave(query.shape[1] // states.shape[1], 1)


def summed(gradient: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The inverse of `repeated` for gradients."""
    return gradient.view(len(states), states.shape[1], -1, states.shape[2]).sum(2)
