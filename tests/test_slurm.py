"""The jobs for Slurm, with programs that stand for its own and for `mlm-dist`: what they start, when they requeue."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import launching
import pytest
from launching import ROOT

# Starts the tasks of a step, and exits with their highest code, as srun does.
SRUN = r"""#!/usr/bin/env bash
echo "srun $*" >> "$LOG"
ntasks=1
while [[ $1 == --* ]]; do
    [[ $1 != --ntasks=* ]] || ntasks=${1#--ntasks=}
    shift
done
children=() interrupted=0
trap 'interrupted=1; kill -USR1 "${children[@]}"' USR1
for ((rank = 0; rank < ntasks; rank++)); do
    SLURM_NTASKS=$ntasks SLURM_PROCID=$rank SLURM_NODEID=$rank "$@" &
    children+=($!)
done
highest=0
for child in "${children[@]}"; do
    while true; do
        code=0
        wait "$child" || code=$?
        ((interrupted)) || break
        interrupted=0
    done
    ((code <= highest)) || highest=$code
done
exit "$highest"
"""
SCONTROL = r"""#!/usr/bin/env bash
echo "scontrol $*" >> "$LOG"
[[ $1 != show ]] || printf '%s\n' node0 node1
"""
MLM_DIST = r"""#!/usr/bin/env bash
echo "mlm-dist $* rank=${RANK:-} of=${WORLD_SIZE:-} at=$MASTER_ADDR" >> "$LOG"
if [[ -n ${RUNS:-} ]]; then
    trap 'exit 75' USR1
    touch "$LOG.running"
    while true; do sleep 0.05; done
fi
exit "${CODE:-0}"
"""


@dataclass(frozen=True)
class Slurm:
    """A folder with the launch files, and the programs that stand for a cluster."""

    folder: Path

    @property
    def log(self) -> list[str]:
        """The programs that were started, and their arguments."""
        return (self.folder / "log").read_text().splitlines()

    def environment(self, **changes: str) -> dict[str, str]:
        job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_NTASKS": "4"}
        path = f"{self.folder}/programs:/usr/local/bin:/usr/bin:/bin"
        job |= {"SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "64", "LOG": str(self.folder / "log"), "PATH": path}
        return job | changes

    def job(self, script: str, **changes: str) -> launching.Ended:
        """Run a batch script as Slurm would: a copy of it, in the folder it was submitted from."""
        (self.folder / "spool").write_text((self.folder / "launch" / script).read_text())
        return launching.run(
            ["bash", str(self.folder / "spool"), "--config", "mine.yaml"],
            cwd=self.folder,
            timeout=300,
            **self.environment(**changes),
        )


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    (tmp_path / "programs").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "mlm-dist": MLM_DIST}.items():
        (tmp_path / "programs" / name).write_text(text)
        (tmp_path / "programs" / name).chmod(0o755)
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    return Slurm(tmp_path)


def test_preparation_has_one_task_for_each_core(slurm: Slurm) -> None:
    ended = slurm.job("slurm_prepare.sbatch", SLURM_CPUS_PER_TASK="1")
    assert ended.returncode == 0, ended.output
    started = sorted(line for line in slurm.log if line.startswith("mlm-dist"))
    assert started == [f"mlm-dist prepare --config mine.yaml rank={rank} of=4 at=node0" for rank in range(4)]
    text = (ROOT / "launch" / "slurm_prepare.sbatch").read_text()
    assert "#SBATCH --cpus-per-task=1\n" in text and "gpus" not in re.sub(r"(?m)^# .*", "", text)


def test_training_starts_one_launcher_for_each_node(slurm: Slurm) -> None:
    ended = slurm.job("slurm.sbatch")
    assert ended.returncode == 0, ended.output
    started = sorted(line for line in slurm.log if line.startswith("mlm-dist"))
    assert len(started) == 2
    for rank, line in enumerate(started):
        assert line.startswith("mlm-dist train --topology multinode --deepspeed_multinode_launcher standard")
        assert f"--num_machines 2 --num_processes 16 --machine_rank {rank}" in line
        assert "--main_process_ip node0 --main_process_port 22345" in line
        assert "--config mine.yaml" in line
    assert not [line for line in slurm.log if " prepare " in line], "another job prepares the corpus"


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm_prepare.sbatch"])
@pytest.mark.parametrize(("code", "is_requeued"), [("0", False), ("1", False), ("2", False), ("75", True)])
def test_a_stopped_job_is_requeued_and_a_failed_one_is_not(
    script: str, code: str, is_requeued: bool, slurm: Slurm
) -> None:
    ended = slurm.job(script, CODE=code)
    assert ended.returncode == int(code), ended.output
    assert ("scontrol requeue 12345" in slurm.log) == is_requeued


def test_signal_before_the_time_limit_reaches_the_run_which_is_requeued(slurm: Slurm) -> None:
    (slurm.folder / "spool").write_text((ROOT / "launch" / "slurm.sbatch").read_text())
    process = subprocess.Popen(
        ["bash", "spool"],
        cwd=slurm.folder,
        env=launching.environment(**slurm.environment(RUNS="yes")),
        start_new_session=True,
    )
    try:
        while not (slurm.folder / "log.running").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 75
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "scontrol requeue 12345" in slurm.log


@pytest.mark.parametrize("script", ["slurm.sbatch", "slurm_prepare.sbatch"])
def test_a_script_outside_of_slurm_says_how_to_submit_it(script: str, slurm: Slurm) -> None:
    ended = slurm.job(script, SLURM_JOB_ID="")
    assert ended.returncode == 2
    assert ended.stderr == f"{script}: this is a batch script; submit it with sbatch\n"


def test_the_head_shows_both_jobs_and_explains_account_and_partition() -> None:
    head = (ROOT / "launch" / "slurm.sbatch").read_text().split("#SBATCH")[0]
    for words in ("--dependency=afterok:$job", "--parsable", "--account=NAME", "--partition=NAME", "sacctmgr", "sinfo"):
        assert words in head
