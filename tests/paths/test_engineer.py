"""An engineer launches topologies on CPUs, with `mlm-dist` and with `accelerate launch`, and submits Slurm's jobs."""

from __future__ import annotations

import launching
import pytest
from test_slurm import SCONTROL, SRUN
from wheel_user import User

SHORT = (
    "--corpus.source documents --corpus.cache_dir cache --optim.duration '6 steps' --logging.every 1 "
    "--tokenizer.train_vocab_size 1000 --rows.max_length 64 --export.verify false"
)


def losses(user: User, name: str) -> list[float]:
    return [line["loss"] for line in launching.metrics(user.folder / "runs" / name, "train")]


@pytest.mark.slow
def test_engineer_with_topologies(user: User) -> None:
    user.has_documents("documents")
    user.types(f"mlm-dist train --output_dir runs/one {SHORT}")
    expected = losses(user, "one")
    assert len(expected) == 6

    port = "--main_process_port 0"
    user.types(f"mlm-dist train --topology cpu_2 {port} --output_dir runs/ddp {SHORT}")
    user.types(f"mlm-dist train --topology fsdp2_cpu {port} --output_dir runs/fsdp2 {SHORT}")
    user.types(
        f"mlm-dist train --topology zero2 --num_processes 2 --gpu_ids=-1,-1 --mixed_precision no {port} "
        f"--output_dir runs/zero2 {SHORT}"
    )
    # One's own accelerate file, with accelerate's launcher.
    user.saves("mine.yaml", (user.package / "configs/accelerate/cpu_2.yaml").read_text("utf-8"))
    user.types(f"accelerate launch --config_file mine.yaml {port} -m mlm_dist.train --output_dir runs/launched {SHORT}")
    for name, processes in {"ddp": 2, "fsdp2": 2, "zero2": 2, "launched": 2}.items():
        (start,) = launching.metrics(user.folder / "runs" / name, "start")
        assert start["world_size"] == processes, name
        assert losses(user, name) == pytest.approx(expected, abs=1e-4), name

    # A topology for GPUs, on a machine without any.
    ended = user.types(f"mlm-dist train --topology ddp {port} {SHORT}", code=2)
    assert "GPU" in ended.stderr and "Traceback" not in ended.output


@pytest.mark.slow
def test_engineer_stops_a_run_which_exits_with_75_and_resumes(user: User) -> None:
    user.has_documents("documents")
    flags = SHORT.replace("6 steps", "400 steps")
    train = f"mlm-dist train --topology cpu_2 --main_process_port 0 --output_dir runs/stopped {flags}"
    has_begun = "grep -qs 'kind.*train' runs/stopped/metrics.jsonl"
    user.types(f"{train} & until {has_begun}; do sleep 0.1; done; kill -TERM $!; wait $!", code=75)
    done = len(losses(user, "stopped"))
    assert 0 < done < 400
    user.types(train)
    assert [start["resumed_from"] for start in launching.metrics(user.folder / "runs" / "stopped", "start")] == [
        0,
        done,
    ]
    assert len(losses(user, "stopped")) == 400


@pytest.mark.slow
def test_engineer_submits_the_jobs_of_slurm(user: User) -> None:
    """Slurm is replaced by two scripts; the jobs are the real ones, on two processes of one node."""
    user.has_documents("documents")
    user.types("""cp -rL "$(python -c 'import mlm_dist; print(mlm_dist.__path__[0])')/launch" launch""")
    for name, text in {"srun": SRUN, "scontrol": SCONTROL.replace("node0 node1", "127.0.0.1")}.items():
        user.saves(f"programs/{name}", text)
        (user.folder / "programs" / name).chmod(0o755)
    path = f"{user.folder}/programs:{user.environment}/bin:/usr/local/bin:/usr/bin:/bin"
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "here", "SLURM_NNODES": "1", "PATH": path}
    job["LOG"] = str(user.folder / "log")
    user.types(f"bash launch/slurm_prepare.sbatch {SHORT}", code=0, **job, SLURM_NTASKS="2", SLURM_CPUS_PER_TASK="1")
    (manifest,) = (user.folder / "cache").glob("*/manifest.json")
    before = manifest.stat().st_mtime_ns
    user.types(
        f"bash launch/slurm.sbatch --output_dir runs/slurm {SHORT}",
        code=0,
        **job,
        SLURM_GPUS_ON_NODE="2",
        SLURM_CPUS_PER_TASK="2",
        TOPOLOGY="cpu_2",
    )
    assert manifest.stat().st_mtime_ns == before, "the GPU job prepares nothing"
    (start,) = launching.metrics(user.folder / "runs" / "slurm", "start")
    assert start["world_size"] == 2
