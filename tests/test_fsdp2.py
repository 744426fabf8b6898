"""FSDP2 on two processes: every architecture whose rows are packed trains as on one, and its state is whole."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import launching
import pytest
from test_architectures import ROWS
from tiny import QUICK

NAMES = [name for name, row in ROWS.items() if row.split("|")[2:4] == [" yes ", " yes "]]
TOLERANCES = {"no": 1e-4, "bf16": 3e-2}  # of losses and relative to gradient norms


def steps(topology: str, names: list[str], precision: str) -> dict[str, Any]:
    """What sharded_steps.py prints."""
    script = str(launching.ROOT / "tests" / "sharded_steps.py")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", f"--mixed_precision={precision}"]
    file = f"--config_file={launching.ACCELERATE / topology}.yaml"
    ended = launching.run(
        [*launcher, file, f"--main_process_port={launching.free_port()}", script, *names],
        timeout=60 + 60 * len(names),
        PYTHONPATH=f"{launching.ROOT}{os.pathsep}{launching.ROOT / 'tests' / 'architectures'}",
    )
    assert ended.returncode == 0, ended.output
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("precision", [pytest.param("no"), pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "names", [[name for name in NAMES if name in QUICK][:2], pytest.param(NAMES, marks=pytest.mark.slow)], ids=len
)
def test_architectures_train_as_on_one_process(names: list[str], precision: str) -> None:
    if precision == "bf16":
        names = [name for name in names if name != "deberta"]  # it cannot be computed under autocast to bf16
    found, expected = (steps(topology, names, precision) for topology in ("fsdp2_cpu", "cpu"))
    close: dict[str, Any] = {"rel": TOLERANCES[precision], "abs": TOLERANCES[precision]}
    assert found.keys() == expected.keys() == set(names)
    for name, one in expected.items():
        sharded = found[name]
        assert sharded["losses"] == pytest.approx(one["losses"], **close), name
        assert sharded["norms"] == pytest.approx(one["norms"], **close), name
        # A validation leaves weights gathered, which a checkpoint must not miss or take for the fp32 ones.
        assert sharded["parameters"] and sharded["moments"] and sharded["fp32"], name
        assert sharded["zeros"] == one["zeros"], name
        assert sharded["weights"] == pytest.approx(one["weights"], **close), name
