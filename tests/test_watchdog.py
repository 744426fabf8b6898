"""The watchdog: a rank that hangs ends the run with the stacks of all ranks; long work of rank 0 does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import launching
import pytest

# `train.py` with a planned hang on rank 1, before its batch of step 4.
HANGS = """
import os, signal, sys, time
sys.argv[0] = "train.py"
from mlm_dist import runtime, train
from mlm_dist.batches.loader import TrainingBatches

take = TrainingBatches.__getitem__

def hanging(self, step):
    if step == 3 and os.environ["RANK"] == "1":
        HOW
    return take(self, step)

TrainingBatches.__getitem__ = hanging
runtime.main(train.run, prog="train.py")
"""
# One process, whose validation takes a multiple of the limit, but is not stuck.
WORKS_LONG = """
import sys, time
from mlm_dist import train

from mlm_dist.config import parse
from mlm_dist.objectives.masked_lm import MaskedLM

evaluate = MaskedLM.evaluate

def slowly(self, *given):
    time.sleep(0.6)
    return evaluate(self, *given)

MaskedLM.evaluate = slowly
print(train.run(parse(sys.argv[1:])).step)
"""


def flags(run: Path, cache: Path, minutes: str) -> list[str]:
    return [
        *(f"--corpus.cache_dir={cache}", f"--output_dir={run}", "--optim.duration=6 steps", "--logging.every=1"),
        *("--validation.max_rows=64", "--batch.global_size=8", "--batch.micro_size=4", "--checkpoint.every=2"),
        *(f"--watchdog.minutes={minutes}", *launching.TINY),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "verdict", "written"),
    [
        pytest.param("time.sleep(1000)", "rank 1 on {host} is behind", [0, 1], id="hangs"),
        pytest.param("os.kill(os.getpid(), signal.SIGSTOP)", "rank 1 does not answer", [0], id="is stopped"),
    ],
)
def test_rank_that_hangs_is_named(
    how: str, verdict: str, written: list[int], tmp_path: Path, prepared_cache: Path
) -> None:
    run, script = tmp_path / "run", tmp_path / "hangs.py"
    script.write_text(HANGS.replace("HOW", how), "utf-8")
    ended = launching.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *(f"--config_file={launching.ACCELERATE / 'cpu_2.yaml'}", "--main_process_port=0", str(script)),
            *flags(run, prepared_cache, "0.1"),
        ],
        PYTHONPATH=str(launching.ROOT),
        OMP_NUM_THREADS="1",
    )
    assert ended.returncode == 1, ended.output
    stacks = {rank: (run / "logs" / f"stacks-rank-{rank}.txt").read_text("utf-8") for rank in written}
    reports = {rank: json.loads(text.splitlines()[0]) for rank, text in stacks.items()}
    said = verdict.format(host=reports[0]["host"])
    assert ended.output.count(f"no progress for 0.1 minutes (watchdog.minutes) after step 3: {said};") == 1
    assert {report["step"] for report in reports.values()} == {3}
    assert "train_step" in stacks[0]  # where the main thread waits
    if 1 in stacks:
        assert "in hanging" in stacks[1]
        assert reports[1]["count"] < reports[0]["count"]
    assert sorted(path.name for path in (run / "logs").iterdir()) == [f"stacks-rank-{rank}.txt" for rank in written]

    # The same command resumes, and is not ended by the stacks of the first time.
    ended = launching.accelerate("cpu_2", "train.py", *flags(run, prepared_cache, "1"), PYTHONPATH=str(launching.ROOT))
    assert ended.returncode == 0, ended.output
    assert (run / "logs" / "previous-stacks-rank-0.txt").read_text("utf-8") == stacks[0]


@pytest.mark.slow
def test_each_validation_batch_is_progress(tmp_path: Path, prepared_cache: Path) -> None:
    """A validation that takes longer than the limit in all."""
    run = tmp_path / "run"
    command = [sys.executable, "-c", WORKS_LONG, *flags(run, prepared_cache, "0.1")]  # 6 s; 16 batches of 0.6 s
    ended = launching.run(command, PYTHONPATH=str(launching.ROOT))
    assert ended.returncode == 0, ended.output
    assert ended.stdout.splitlines()[-1] == "6"
    assert not (run / "logs").exists()
