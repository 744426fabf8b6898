"""Loss spikes: logged losses far above their moving average, which survives a resume."""

from __future__ import annotations

import json
import random
from pathlib import Path

import launching
import pytest

from mlm_dist.checkpoint.state import LossAverage


def noisy(num_losses: int) -> list[float]:
    """A falling loss with the noise of small batches."""
    draw = random.Random(0)
    return [4.0 + 3.0 * 0.98**i + draw.gauss(0, 0.1) for i in range(num_losses)]


def average_of(losses: list[float | None]) -> LossAverage:
    average = LossAverage()
    for loss in losses:
        average = average.after(loss)
    return average


def test_noise_is_not_a_spike() -> None:
    average = LossAverage()
    for loss in noisy(500):
        assert not average.is_spike(loss)
        average = average.after(loss)


@pytest.mark.parametrize("after", [1, 5, 20, 300])
def test_jump_is_a_spike(after: int) -> None:
    losses = noisy(after)
    average = average_of([*losses])
    assert not average.is_spike(losses[-1])
    assert average.is_spike(2 * losses[-1])


def test_fall_is_not_a_spike() -> None:
    assert not average_of([*noisy(100)]).is_spike(0.1)


def test_first_loss_is_not_a_spike() -> None:
    assert not LossAverage().is_spike(1e9)


def test_non_finite_loss_is_not_a_spike_and_changes_nothing() -> None:
    losses: list[float | None] = []
    for loss in noisy(100):
        losses += [None, loss]
    average = average_of(losses)
    assert average == average_of([*noisy(100)])
    assert not average.is_spike(None)
    assert average.is_spike(9.0)


@pytest.mark.slow
def test_spike_right_after_a_resume_is_flagged(tmp_path: Path, prepared_cache: Path) -> None:
    """The checkpoint's average is far below the loss of a resumed run, as if that had jumped."""
    run = tmp_path / "run"
    flags = (
        *(f"--corpus.cache_dir={prepared_cache}", f"--output_dir={run}", "--logging.every=1"),
        *("--checkpoint.every=8", "--validation.every=null", "--batch.global_size=8", *launching.TINY),
    )
    launching.here("train", "--optim.duration=8 steps", *flags)
    state = json.loads((run / "checkpoints" / "step-00000008" / "state.json").read_text("utf-8"))
    average = average_of([line["loss"] for line in launching.metrics(run, "train")])
    assert LossAverage(**state["loss_average"]) == average
    assert not any(line["spike"] for line in launching.metrics(run, "train"))

    # A learning rate of 1 makes the first step after the resume jump; without the average it would be the first value.
    done = launching.here("train", "--optim.duration=11 steps", "--optim.lr=1.0", "--optim.schedule=constant", *flags)
    resumed = [line for line in launching.metrics(run, "train") if line["step"] > 8]
    spikes = [line["step"] for line in resumed if line["spike"]]
    assert spikes and spikes[0] == 10, resumed
    assert not average.after(resumed[0]["loss"]).is_spike(resumed[0]["loss"])
    assert "(loss spike)" in done.log
