"""The launch scripts, run as far as one machine without a GPU goes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import launching
import pytest
from launching import ROOT

SCRIPTS = sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in {".sh", ".sbatch"})
# The interpreter of the tests, wherever its environment is, comes first.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_well_formed(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n# ")
    ended = launching.run(["bash", "-n", str(path)])
    assert ended.returncode == 0, ended.output


def test_local_trains_here(tmp_path: Path, prepared_cache: Path) -> None:
    ended = launching.run(
        [
            *("launch/local.sh", f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}"),
            *("--optim.steps=2", *launching.TINY),
        ],
        PATH=PATH,
        TOPOLOGY="cpu_2",
    )
    assert ended.returncode == 0, ended.output
    assert "2 processes on cpu, DDP" in ended.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_unknown_topology_is_named(tmp_path: Path) -> None:
    ended = launching.run(["launch/local.sh"], PATH=PATH, TOPOLOGY="zero9")
    assert ended.returncode == 2
    assert "zero9" in ended.stderr


def test_two_nodes_on_one_machine_train_together(tmp_path: Path, prepared_cache: Path) -> None:
    """Both `machines` are this one; they meet at its loopback address."""
    port = str(launching.free_port())
    results: dict[int, launching.Ended] = {}

    def node(rank: int) -> None:
        results[rank] = launching.run(
            [
                *("launch/multinode.sh", f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}"),
                *("--optim.steps=4", "--logging.every=1", *launching.TINY),
            ],
            PATH=PATH,
            TOPOLOGY="cpu_2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            NNODES="2",
            NODE_RANK=str(rank),
            NPROC_PER_NODE="1",
        )

    threads = [threading.Thread(target=node, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[rank].returncode for rank in range(2)] == [0, 0], results[0].output + results[1].output
    assert [line["step"] for line in launching.metrics(tmp_path / "run", "train")] == [1, 2, 3, 4]
    assert "2 processes on cpu, DDP" in results[0].stdout


def test_multinode_names_what_is_missing() -> None:
    ended = launching.run(["launch/multinode.sh"], PATH=PATH, MASTER_ADDR="127.0.0.1")
    assert ended.returncode == 2
    assert "MASTER_PORT is not set" in ended.stderr


def test_slurm_script_says_how_to_submit_it() -> None:
    ended = launching.run(["bash", "launch/slurm.sbatch"], PATH=PATH)
    assert ended.returncode == 2
    assert "sbatch" in ended.stderr
