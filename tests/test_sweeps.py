"""The sweeps of docs/sweeps.md: the shell loop is run with two settings, Optuna with three short trials."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import launching
import optuna
import pytest
from launching import ROOT

PAGE = (ROOT / "docs" / "sweeps.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
LOOP, COMPARE = [body for language, body in BLOCKS if language == "bash"]
(SWEEP,) = [body for language, body in BLOCKS if language == "python"]


def replaced(text: str, changes: dict[str, str]) -> str:
    for written, replacement in changes.items():
        assert written in text, written
        text = text.replace(written, replacement)
    return text


@pytest.mark.slow
def test_shell_loop_and_its_comparison(tmp_path: Path, prose: Path) -> None:
    flags = f"{prose} --corpus.cache_dir cache --tokenizer.train_vocab_size 1000 --rows.max_length 64"
    prepare, loop = LOOP.splitlines()
    short = "--optim.duration '6 steps' --validation.every 3 --export.verify false"
    loop = replaced(loop, {"3e-4 1e-3 3e-3": "3e-4 3e-3", "1 2 3": "1", "my_docs": f"{flags} {short}"})
    prepare = replaced(prepare, {"my_docs": flags})
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    more = {"PATH": path, "PYTHONPATH": str(ROOT)}
    for line in (prepare, loop, COMPARE):
        ended = launching.run(["bash", "-c", f"set -euo pipefail; {line}"], cwd=tmp_path, timeout=900, **more)
        assert ended.returncode == 0, ended.output
    assert len(list((tmp_path / "cache").glob("*/manifest.json"))) == 1, "all runs share one corpus"
    assert all(run in ended.stdout for run in ("lr=3e-3,seed=1", "lr=3e-4,seed=1"))
    assert "optim.lr" in ended.stdout and (tmp_path / "comparison.html").exists()


def sweep(folder: Path, prose: Path, **changes: str) -> str:
    """The script of the page with short runs on a few documents."""
    source = f'"source": "{prose}", "cache_dir": "{prose.parent / "sweep-cache"}", "validation_fraction": 0.2'
    small = 'tokenizer={"train_vocab_size": 1000},\n        rows={"max_length": 64},\n        export={"verify": False},'
    return replaced(
        SWEEP,
        {
            'corpus={"source": "my_docs"},': f"corpus={{{source}}},\n        {small}",
            '"3 epochs"': '"4 steps"',
            '{"every": 100}': '{"every": 2}',
            "runs/optuna": f"{folder}/runs/optuna",
            "sqlite:///sweep.db": f"sqlite:///{folder}/sweep.db",
            "n_trials=20": "n_trials=3",
        }
        | changes,
    )


@pytest.mark.slow
def test_optuna_keeps_the_best_trial_and_prunes(tmp_path: Path, prose: Path, one_core: None) -> None:
    """The pruner of the page waits for four trials; here it prunes at once what is worse than before."""
    pruner = (
        "optuna.pruners.ThresholdPruner(upper=0.0, n_warmup_steps=3) if len(STUDIES) else optuna.pruners.NopPruner()"
    )
    names: dict[str, object] = {"STUDIES": []}
    changes = {"optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=200)": pruner}
    with launching.logged():
        exec(sweep(tmp_path, prose, **changes), names)
    study = names["study"]
    assert isinstance(study, optuna.Study)
    values = [trial.value for trial in study.trials]
    assert len(values) == 3 and all(value is not None for value in values)
    assert study.best_value == min(value for value in values if value is not None)
    assert {trial.params.keys() == {"lr", "warmup", "masking"} for trial in study.trials} == {True}
    last = launching.metrics(tmp_path / "runs/optuna/000", "validation")[-1]
    assert last["loss"] == values[0] or study.trials[0].intermediate_values[2] == values[0]

    names["STUDIES"] = ["the first"]
    with launching.logged():
        exec(sweep(tmp_path, prose, **changes, **{"n_trials=3": "n_trials=1"}), names)
    again = names["study"]
    assert isinstance(again, optuna.Study)
    assert [trial.state.name for trial in again.trials] == ["COMPLETE"] * 3 + ["PRUNED"]
    assert not (tmp_path / "runs/optuna/003/model").exists()
