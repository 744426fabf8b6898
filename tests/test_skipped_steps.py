"""Skipped steps: each is logged with its samples, and 20 in a row end the run, also across a resume."""

from __future__ import annotations

import shutil
from pathlib import Path

import launching
import pytest
import torch

from mlm_dist.checkpoint.state import TrainState
from mlm_dist.errors import TrainingError
from mlm_dist.training.skipped_steps import MAX_IN_A_ROW, SkippedSteps
from mlm_dist.training.step import StepResult


class Steps:
    """Steps of a run, of which some are skipped, and their reports."""

    def __init__(self, caplog: pytest.LogCaptureFixture, state: TrainState | None = None) -> None:
        self._caplog = caplog
        self._skipped = SkippedSteps(lambda step: range(100 * step, 100 * step + 32))
        self.state = state or TrainState.new(torch.device("cpu"))

    def take(self, *flags: bool) -> None:
        """Take steps; True skips one."""
        for flag in flags:
            zero, skipped = torch.zeros((), dtype=torch.int64), torch.tensor(int(flag))
            self._skipped.add(self.state.step, StepResult(zero, zero, zero, zero, skipped, zero, zero))
            self.state = self.state.after(16 * (self.state.step + 1), zero, skipped)

    def report(self) -> list[str]:
        """The messages of a report."""
        self._caplog.clear()
        with self._caplog.at_level("WARNING", "mlm_dist"):
            self._skipped.report(self.state, lambda: None)
        return self._caplog.messages


@pytest.fixture
def steps(caplog: pytest.LogCaptureFixture) -> Steps:
    return Steps(caplog)


def test_report_covers_the_steps_since_the_last_report(steps: Steps) -> None:
    assert steps.report() == []
    steps.take(False, True, False, True, True)
    assert len(steps.report()) == 3
    assert steps.report() == []
    steps.take(False, False)
    assert steps.report() == []
    steps.take(True)
    assert len(steps.report()) == 1
    assert int(steps.state.skipped_steps) == 4


def test_messages_name_the_step_and_its_samples(steps: Steps) -> None:
    steps.take(False, False, False, True, False, False, True)
    first, second = steps.report()
    assert first.startswith("step 4 was skipped: ")
    assert first.endswith("300, 301, 302, 303, 304, 305, 306, 307")
    assert second.startswith("step 7 was skipped: ")
    assert second.endswith("600, 601, 602, 603, 604, 605, 606, 607")


def test_too_many_in_a_row_end_the_run(steps: Steps, caplog: pytest.LogCaptureFixture) -> None:
    steps.take(*[False] * 3, *[True] * MAX_IN_A_ROW)
    with pytest.raises(TrainingError) as caught:
        steps.report()
    message = str(caught.value)
    assert "20 steps in a row, up to step 23," in message
    assert "optim.lr" in message
    assert "\n" not in message
    assert len(caplog.messages) == MAX_IN_A_ROW


def test_one_fewer_does_not_end_the_run(steps: Steps) -> None:
    steps.take(*[True] * (MAX_IN_A_ROW - 1))
    assert len(steps.report()) == MAX_IN_A_ROW - 1
    steps.take(False)
    assert steps.report() == []


@pytest.mark.parametrize("per_report", [1, 3, 7, 19])
def test_too_many_in_a_row_across_reports(steps: Steps, per_report: int) -> None:
    while steps.state.step + per_report < MAX_IN_A_ROW:
        steps.take(*[True] * per_report)
        assert len(steps.report()) == per_report
    steps.take(*[True] * per_report)
    with pytest.raises(TrainingError, match=f"{steps.state.step} steps in a row"):
        steps.report()


@pytest.mark.parametrize("per_report", [1, 5, 40])
def test_finite_step_ends_the_streak(steps: Steps, per_report: int) -> None:
    flags = ([True] * (MAX_IN_A_ROW - 1) + [False]) * 4
    skipped = 0
    for first in range(0, len(flags), per_report):
        steps.take(*flags[first : first + per_report])
        skipped += len(steps.report())
    assert skipped == 4 * (MAX_IN_A_ROW - 1) == int(steps.state.skipped_steps)


@pytest.mark.parametrize("before", [1, 12, 19])
def test_streak_survives_the_json_of_a_checkpoint(caplog: pytest.LogCaptureFixture, before: int) -> None:
    steps = Steps(caplog)
    steps.take(False, *[True] * before)
    steps.report()
    resumed = Steps(caplog, TrainState.from_json(steps.state.to_json(), torch.device("cpu")))
    resumed.take(*[True] * (MAX_IN_A_ROW - 1 - before))
    resumed.report()
    resumed.take(True)
    with pytest.raises(TrainingError, match=r"20 steps in a row, up to step 21"):
        resumed.report()


@pytest.mark.slow
def test_diverging_run_keeps_the_checkpoints_from_before(tmp_path: Path, prepared_cache: Path) -> None:
    """A learning rate of a million makes weights explode, then every step is skipped."""
    flags = (
        *(f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", "--logging.every=1"),
        *("--checkpoint.every=5", "--checkpoint.keep_last=2", "--validation.every=null", "--batch.global_size=8"),
        *("--optim.schedule=constant", "--optim.max_grad_norm=null", *launching.TINY),
    )
    launching.here("train", "--optim.duration=20 steps", *flags)
    with pytest.raises(TrainingError) as caught:
        launching.here("train", "--optim.duration=90 steps", "--optim.lr=1e6", *flags)
    points = tmp_path / "run" / "checkpoints"
    kept = sorted(path.name for path in points.iterdir())
    assert f"run again with --checkpoint.resume {points / 'step-00000020'}" in str(caught.value)
    assert "step-00000020" in kept and len(kept) <= 3
    steps = [line["step"] for line in launching.metrics(tmp_path / "run", "train") if line["loss"] is None]
    assert not any(f"step-{step:08d}" in kept for step in steps), "saved within the streak"


def test_loss_that_jumps_and_stays_high_keeps_the_checkpoint_from_before(tmp_path: Path, prepared_cache: Path) -> None:
    """All losses are finite, so nothing is skipped; the end of the run names the checkpoint."""
    flags = (
        *(f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", "--logging.every=1"),
        *("--checkpoint.every=5", "--checkpoint.keep_last=1", "--validation.every=null", "--batch.global_size=8"),
        *("--optim.schedule=constant", *launching.TINY),
    )
    launching.here("train", "--optim.duration=20 steps", *flags)
    done = launching.here("train", "--optim.duration=40 steps", "--optim.lr=1.0", *flags)
    points = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in points.iterdir()) == ["step-00000020", "step-00000040"]
    assert f"continue with --checkpoint.resume {points / 'step-00000020'}, with a lower optim.lr" in done.log
    assert int(launching.metrics(tmp_path / "run", "end")[0]["skipped_steps"]) == 0


def test_divergence_ends_when_the_loss_comes_back() -> None:
    state, zero = TrainState.new(torch.device("cpu")), torch.zeros((), dtype=torch.int64)
    losses: list[float | None] = [7.0, 6.9, 6.8, 99.0, None, 85.0]
    for loss in losses:
        state = state.after(0, zero, zero).logged(loss)
    assert (state.divergence.has_begun, state.divergence.good_step) == (True, 3)
    assert TrainState.from_json(state.to_json(), torch.device("cpu")).divergence == state.divergence
    state = state.after(0, zero, zero).logged(6.9)
    assert (state.divergence.has_begun, state.divergence.good_step) == (False, 7)


@pytest.mark.slow
def test_streak_survives_a_resume(tmp_path: Path, prepared_cache: Path) -> None:
    """12 skipped steps up to the end of a run and 8 after it was extended are 20 in a row; 8 alone are not."""
    first, then = "--optim.duration=16 steps", "--optim.duration=60 steps"
    flags = (
        *(f"--corpus.cache_dir={prepared_cache}", "--logging.every=4"),
        *("--checkpoint.every=16", "--validation.every=null", "--batch.global_size=8", *launching.TINY),
    )
    fault = ",".join(f"nan@{step}" for step in range(4, 30))
    run = tmp_path / "run"
    launching.here("train", f"--output_dir={run}", *flags, first, MLM_DIST_FAULT=fault)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000016"]
    shutil.copytree(run, tmp_path / "again")

    with pytest.raises(TrainingError, match=r"20 steps in a row, up to step 24, were not finite"):
        launching.here("train", f"--output_dir={run}", *flags, then, MLM_DIST_FAULT=fault)
    assert launching.metrics(run, "train")[-1]["step"] == 20

    short = ",".join(f"nan@{step}" for step in range(16, 23))
    done = launching.here("train", f"--output_dir={tmp_path / 'again'}", *flags, then, MLM_DIST_FAULT=short)
    assert done.result.is_finished
    assert launching.metrics(tmp_path / "again", "train")[-1]["skipped_steps"] == 12 + 7
