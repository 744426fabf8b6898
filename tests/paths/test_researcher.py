"""A researcher sweeps learning rates and seeds with a shell loop, and compares the runs."""

from __future__ import annotations

import launching
import pytest
from wheel_user import User

SWEEP = """
for lr in 1e-4 3e-3; do
    for seed in 1 2; do
        mlm-dist train documents --corpus.cache_dir cache --optim.lr $lr --seed $seed \
            --output_dir runs/lr=$lr,seed=$seed --optim.duration '12 steps' --validation.every 6 --logging.every 1 \
            --tokenizer.train_vocab_size 1000 --rows.max_length 64 --export.verify false
    done
done
"""


@pytest.mark.slow
def test_researcher_sweeps_and_compares(user: User) -> None:
    user.has_documents("documents")
    user.types(SWEEP)
    runs = sorted((user.folder / "runs").iterdir())
    assert len(runs) == 4
    assert len(list((user.folder / "cache").glob("*/manifest.json"))) == 1, "the runs share one prepared corpus"
    final = {run.name: launching.metrics(run, "validation")[-1] for run in runs}
    assert all(line["step"] == 12 for line in final.values())
    for seed in (1, 2):
        assert final[f"lr=3e-3,seed={seed}"]["loss"] < final[f"lr=1e-4,seed={seed}"]["loss"]
    compared = user.types("mlm-dist compare runs/*").stdout
    assert all(run.name in compared for run in runs)
    assert "optim.lr" in compared and "seed" in compared, "the settings that differ"
    assert (user.folder / "comparison.html").stat().st_size > 10_000
    # A repeated run has the same losses, to the last bit.
    first = launching.metrics(runs[0], "train")
    user.types("mv runs/lr=1e-4,seed=1 runs/before")
    user.types(SWEEP.replace("1e-4 3e-3", "1e-4").replace("in 1 2", "in 1"))
    again = launching.metrics(user.folder / "runs" / "lr=1e-4,seed=1", "train")
    assert [line["loss"] for line in again] == [line["loss"] for line in first]
