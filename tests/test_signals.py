"""Signals: a handler sets a flag only, and all ranks agree on the step after which they stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import specs
import torch

from mlm_dist import interruption
from mlm_dist.errors import ConfigError, Interrupted
from mlm_dist.interruption import SIGNALS
from mlm_dist.training.signals import StopSignal
from mlm_dist.training.step import StepResult


def result(stop: int = 0, device: str = "cpu") -> StepResult:
    """The result of a step."""
    zero = torch.zeros((), dtype=torch.int64)
    return StepResult(zero, zero, zero, zero, zero, torch.tensor(stop, device=device), zero)


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}  # the background ignores some
    try:
        with StopSignal() as caught:
            yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def test_second_ctrl_c_raises(stop: StopSignal, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook; a program ends at once, see test_interruption.py. Some wrappers send a Ctrl-C twice."""
    send(signal.SIGINT)
    send(signal.SIGINT)
    assert stop.requested
    monkeypatch.setattr(interruption, "REPEAT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_ignored_signals_stay_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP under nohup, SIGINT of a job in the background."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        with StopSignal():
            ignored = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_IGN]
        assert ignored == [signal.SIGINT, signal.SIGHUP]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_stop_before_the_first_step_is_agreed_upon(stop: StopSignal) -> None:
    with specs.cpu_engine() as engine:
        stop.check(engine)
        send(signal.SIGTERM)
        with pytest.raises(Interrupted, match="before there was anything new to save; run the same command again"):
            stop.check(engine)


@pytest.mark.parametrize(
    ("is_sent", "error", "raised"),
    [
        (True, RuntimeError("the compiler was ended by signal 2"), Interrupted),
        (False, RuntimeError("the compiler found an error"), RuntimeError),
        (True, ConfigError("seed: wrong"), ConfigError),
    ],
)
def test_consequence_of_a_signal_is_no_fault(is_sent: bool, error: Exception, raised: type[Exception]) -> None:
    def job() -> None:
        with StopSignal():
            if is_sent:
                send(signal.SIGTERM)
            raise error

    with pytest.raises(raised):
        job()


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
