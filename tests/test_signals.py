"""Signals: a handler sets a flag only, and all ranks agree on the step after which they stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from mlm_dist.interruption import SIGNALS
from mlm_dist.training.signals import StopSignal
from mlm_dist.training.step import StepResult


def result(stop: int = 0, device: str = "cpu") -> StepResult:
    """The result of a step."""
    zero = torch.zeros((), dtype=torch.int64)
    return StepResult(zero, zero, zero, zero, zero, torch.tensor(stop, device=device), zero)


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    with StopSignal() as caught:
        yield caught


def send(number: int) -> None:
    """Send a signal to this process, if it is handled: otherwise it would end the tests."""
    assert signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_both_signals_request_a_stop(stop: StopSignal, number: int) -> None:
    requested = [stop.requested]
    for each in (number, signal.SIGTERM, signal.SIGUSR1):
        send(each)
        requested.append(stop.requested)
    assert requested == [False, True, True, True]


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignal():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_ranks_stop_if_one_was_asked_to(stop: StopSignal) -> None:
    """The flag that was sent around with the step counts, not what this process has received since."""
    send(signal.SIGTERM)
    for is_logged in (False, True):
        assert not stop.agreed(result(stop=0), is_logged=is_logged)
        assert stop.agreed(result(stop=1), is_logged=is_logged)
        assert stop.agreed(result(stop=3), is_logged=is_logged)


def test_accelerator_is_not_waited_for_between_log_steps(stop: StopSignal) -> None:
    """A meta tensor cannot be read, as one on a busy device should not be."""
    assert not stop.agreed(result(stop=1, device="meta"), is_logged=False)
    with pytest.raises((RuntimeError, NotImplementedError)):
        stop.agreed(result(stop=1, device="meta"), is_logged=True)
