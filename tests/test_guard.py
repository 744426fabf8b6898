"""What ends a run early: numbers that are not finite, and signals."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest
import torch

from mlm_dist.errors import TrainingError
from mlm_dist.training.guard import MAX_SKIPPED_IN_A_ROW, SIGNALS, Guard, StopSignal
from mlm_dist.training.step import StepResult


def result(*, skipped: bool = False, stop: int = 0, device: str = "cpu") -> StepResult:
    """What an update would report."""
    zero = torch.zeros(())
    stopping = torch.tensor(stop, device=device)
    return StepResult(zero, zero, zero, zero, torch.tensor(float(skipped)), stopping, zero)


class Watched:
    """A guard, what it said, and the updates it was shown."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.guard = Guard(lambda step: range(100 * step, 100 * step + 32), self.said.append)
        self.step = 0

    def updates(self, *flags: bool) -> None:
        """Show it updates that were left out, or were not."""
        for skipped in flags:
            self.guard.watch(self.step, result(skipped=skipped))
            self.step += 1


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_check_counts_since_the_last_check(watched: Watched) -> None:
    assert watched.guard.check() == 0
    watched.updates(False, True, False, True, True)
    assert watched.guard.check() == 3
    assert watched.guard.check() == 0
    watched.updates(False, False)
    assert watched.guard.check() == 0
    watched.updates(True)
    assert watched.guard.check() == 1


def test_messages_name_the_update_and_its_samples(watched: Watched) -> None:
    watched.updates(False, False, False, True, False, False, True)
    watched.guard.check()
    assert len(watched.said) == 2
    assert watched.said[0].startswith("update 4 was left out")
    assert watched.said[0].endswith("300, 301, 302, 303, 304, 305, 306, 307")
    assert watched.said[1].startswith("update 7 was left out")
    assert watched.said[1].endswith("600, 601, 602, 603, 604, 605, 606, 607")
    watched.updates(False)
    watched.guard.check()
    assert len(watched.said) == 2, "it was said twice"


def test_too_many_in_a_row_end_the_run(watched: Watched) -> None:
    watched.updates(*[False] * 3, *[True] * MAX_SKIPPED_IN_A_ROW)
    with pytest.raises(TrainingError) as caught:
        watched.guard.check()
    message = str(caught.value)
    assert "20 updates in a row, up to update 23," in message
    assert "optim.lr" in message
    assert "\n" not in message
    assert len(watched.said) == MAX_SKIPPED_IN_A_ROW


def test_one_less_is_let_through(watched: Watched) -> None:
    watched.updates(*[True] * (MAX_SKIPPED_IN_A_ROW - 1))
    assert watched.guard.check() == MAX_SKIPPED_IN_A_ROW - 1
    watched.updates(False)
    assert watched.guard.check() == 0


@pytest.mark.parametrize("per_check", [1, 3, 7, 19])
def test_too_many_in_a_row_across_checks(watched: Watched, per_check: int) -> None:
    while watched.step + per_check < MAX_SKIPPED_IN_A_ROW:
        watched.updates(*[True] * per_check)
        assert watched.guard.check() == per_check
    watched.updates(*[True] * per_check)
    with pytest.raises(TrainingError, match=f"{watched.step} updates in a row"):
        watched.guard.check()


@pytest.mark.parametrize("per_check", [1, 5, 40])
def test_a_good_one_interrupts_the_row(watched: Watched, per_check: int) -> None:
    flags = ([True] * (MAX_SKIPPED_IN_A_ROW - 1) + [False]) * 4
    skipped = 0
    for first in range(0, len(flags), per_check):
        watched.updates(*flags[first : first + per_check])
        skipped += watched.guard.check()
    assert skipped == 4 * (MAX_SKIPPED_IN_A_ROW - 1)


def noisy(num_losses: int) -> list[float]:
    """A falling loss with the noise of small batches."""
    draw = random.Random(0)
    return [4.0 + 3.0 * 0.98**i + draw.gauss(0, 0.1) for i in range(num_losses)]


def test_noise_is_no_spike() -> None:
    guard = Watched().guard
    assert not any(guard.is_spike(loss) for loss in noisy(500))


@pytest.mark.parametrize("after", [1, 5, 20, 300])
def test_a_jump_is_a_spike(after: int) -> None:
    guard = Watched().guard
    losses = noisy(after)
    for loss in losses:
        guard.is_spike(loss)
    assert not guard.is_spike(losses[-1])
    assert guard.is_spike(2 * losses[-1])


def test_a_fall_is_no_spike() -> None:
    guard = Watched().guard
    for loss in noisy(100):
        guard.is_spike(loss)
    assert not guard.is_spike(0.1)


def test_a_loss_that_is_not_finite_is_no_spike_and_changes_nothing() -> None:
    guard, plain = Watched().guard, Watched().guard
    assert not guard.is_spike(None)
    for loss in noisy(100):
        assert guard.is_spike(loss) == plain.is_spike(loss)
        assert not guard.is_spike(None)
    assert guard.is_spike(9.0)
    assert plain.is_spike(9.0)


@pytest.fixture
def stop() -> Iterator[StopSignal]:
    """A stop signal; the handlers of before come back afterwards."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield StopSignal()
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    """To this very process, but only where something takes note of it: else it would end the test run."""
    assert signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN)
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_both_signals_are_noted(stop: StopSignal, number: int) -> None:
    requested = [stop.requested]
    for each in (number, signal.SIGTERM, signal.SIGUSR1):
        send(each)
        requested.append(stop.requested)
    assert requested == [False, True, True, True]


def test_all_agree_to_what_one_was_told(stop: StopSignal) -> None:
    """What counts is what went around with the update, not what this process alone has heard since."""
    send(signal.SIGTERM)
    for line_due in (False, True):
        assert not stop.agreed(result(stop=0), line_due=line_due)
        assert stop.agreed(result(stop=1), line_due=line_due)
        assert stop.agreed(result(stop=3), line_due=line_due)


def test_an_accelerator_is_not_waited_for_without_need(stop: StopSignal) -> None:
    """A meta tensor cannot be looked at, as one on a busy device should not be."""
    assert not stop.agreed(result(stop=1, device="meta"), line_due=False)
    with pytest.raises((RuntimeError, NotImplementedError)):
        stop.agreed(result(stop=1, device="meta"), line_due=True)
