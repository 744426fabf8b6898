"""The launch scripts, run as far as one machine without a GPU goes."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from launching import ROOT

from mlm_dist.config import parse
from mlm_dist.engine.topologies import TOPOLOGIES

SCRIPTS = sorted(path for path in (ROOT / "launch").iterdir() if path.suffix in {".sh", ".sbatch"})
Start = Callable[[int, str], tuple[list[str], dict[str, Any]]]  # node rank, port: command, environment
# The interpreter of the tests, wherever its environment is, comes first.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_well_formed(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n# ")
    ended = launching.run(["bash", "-n", str(path)])
    assert ended.returncode == 0, ended.output


@pytest.mark.slow
def test_local_trains_here(tmp_path: Path, prepared_cache: Path) -> None:
    ended = launching.run(
        [
            *("launch/local.sh", f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}"),
            *("--optim.duration=2 steps", *launching.TINY),
        ],
        PATH=PATH,
        TOPOLOGY="cpu_2",
    )
    assert ended.returncode == 0, ended.output
    (start,) = launching.metrics(tmp_path / "run", "start")
    assert (start["world_size"], start["device"], start["sharding"]) == (2, "cpu", "ddp")
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_unknown_topology_is_named(tmp_path: Path) -> None:
    ended = launching.run(["launch/local.sh"], PATH=PATH, TOPOLOGY="zero9")
    assert ended.returncode == 2
    assert "zero9" in ended.stderr


def short(cache: Path, run: Path) -> list[str]:
    """The flags of a run of four steps."""
    return [
        *(f"--corpus.cache_dir={cache}", f"--output_dir={run}"),
        *("--optim.duration=4 steps", "--logging.every=1", *launching.TINY),
    ]


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> list[float]:
    """The losses of that run on one process, launched by nobody."""
    run = tmp_path_factory.mktemp("alone") / "run"
    ended = launching.python("train.py", *short(prepared_cache, run))
    assert ended.returncode == 0, ended.output
    return [line["loss"] for line in launching.metrics(run, "train")]


def by_hand(rank: int, port: str) -> tuple[list[str], dict[str, Any]]:
    """What a person starts on each of two machines."""
    says = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NNODES": "2", "NODE_RANK": str(rank)}
    return ["launch/multinode.sh"], says | {"NPROC_PER_NODE": "1"}


def by_kubeflow(rank: int, port: str) -> tuple[list[str], dict[str, Any]]:
    """What Kubeflow Trainer starts in each of two pods, with what its Torch policy says of them."""
    says = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "NNODES": "2", "NODE_RANK": str(rank)}
    says |= {"NPROC_PER_NODE": "1"}
    return train_job()["spec"]["trainer"]["command"], {f"PET_{name}": value for name, value in says.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "topology", "sharding"),
    [
        pytest.param(by_hand, "cpu_2", "ddp", id="by hand, DDP"),
        pytest.param(by_kubeflow, "zero2", "zero2", id="by Kubeflow, ZeRO-2"),
    ],
)
def test_two_nodes_train_as_one_process_does(
    start: Start, topology: str, sharding: str, losses: list[float], tmp_path: Path, prepared_cache: Path
) -> None:
    """Both `machines` are this one; they meet at its loopback address."""
    port = str(launching.free_port())
    file = tmp_path / "topology.yaml"
    settings = yaml.safe_load((launching.ACCELERATE / f"{topology}.yaml").read_text("utf-8"))
    file.write_text(yaml.safe_dump(settings | {"mixed_precision": "no", "gpu_ids": "-1,-1"}), "utf-8")
    results: dict[int, launching.Ended] = {}

    def node(rank: int) -> None:
        command, says = start(rank, port)
        more: dict[str, Any] = {"PATH": PATH, "TOPOLOGY": str(file), **says}
        flags = short(prepared_cache, tmp_path / "run")
        results[rank] = launching.run([*command, *flags], **more)

    threads = [threading.Thread(target=node, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[rank].returncode for rank in range(2)] == [0, 0], results[0].output + results[1].output
    (line,) = launching.metrics(tmp_path / "run", "start")
    assert (line["world_size"], line["sharding"], line["precision"]) == (2, sharding, "fp32")
    assert "world size" in results[0].stdout
    assert "world size" not in results[1].stdout, "the second node has not joined the first"
    found = [line["loss"] for line in launching.metrics(tmp_path / "run", "train")]
    assert found == pytest.approx(losses, abs=1e-4)


def train_job() -> dict[str, Any]:
    """launch/kubernetes.yaml."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "launch" / "kubernetes.yaml").read_text("utf-8"))
    return job


def test_kubeflow_knows_every_field() -> None:
    """Its own models read the job, and drop what they do not know."""
    job = train_job()
    assert TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job


def test_kubernetes_job_fits_the_image() -> None:
    job = train_job()["spec"]
    trainer, (patch,) = job["trainer"], job["runtimePatches"]
    assert trainer["numProcPerNode"] == trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"]
    (replica,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replica["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    assert f"USER {pod['securityContext']['fsGroup']}:" in dockerfile
    assert f"VOLUME {container['volumeMounts'][0]['mountPath']}" in dockerfile
    assert {name["name"]: name["value"] for name in trainer["env"]}["TOPOLOGY"] in TOPOLOGIES
    assert parse(trainer["args"]).output_dir.startswith("runs/")


def test_multinode_names_what_is_missing() -> None:
    ended = launching.run(["launch/multinode.sh"], PATH=PATH, MASTER_ADDR="127.0.0.1")
    assert ended.returncode == 2
    assert "MASTER_PORT is not set" in ended.stderr
