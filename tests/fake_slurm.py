"""Programs that stand for Slurm's: sbatch keeps each script and runs its tasks, after those of the job before."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SBATCH = r"""#!/usr/bin/env bash
set -u
jobs=${FAKE_SLURM:?}
id=$(($(find "$jobs" -name '*.script' | wc -l) + 101))
[[ $id != "${REFUSED:-}" ]] || { echo "sbatch: error: invalid partition specified" >&2; exit 1; }
script=${!#}
cp "$script" "$jobs/$id.script"
echo "$*" > "$jobs/$id.arguments"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$script")
output=$(sed -n 's/^#SBATCH --output=//p' "$script")
before=$(sed -n 's/.*--dependency=afterok:\([0-9]*\).*/\1/p' "$jobs/$id.arguments")
run() {
    while [[ -e $jobs/held || (-n $before && ! -e $jobs/$before.code) ]]; do sleep 0.1; done
    code=0
    if [[ -n ${LOST:-} || (-n $before && $(<"$jobs/$before.code") != 0) ]]; then
        code=1
    else
        for ((task = 0; task <= last; task++)); do
            log=${output/\%A/$id}
            SLURM_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task SLURM_NODELIST=node0 RUN_OFFSET=0 \
                bash "$jobs/$id.script" > "${log/\%a/$task}" 2>&1 || code=1
        done
    fi
    echo "$code" > "$jobs/$id.code"
}
(run > /dev/null 2>&1 < /dev/null &)
echo "Submitted batch job $id"
"""
SQUEUE = r"""#!/usr/bin/env bash
for script in "$FAKE_SLURM"/*.script; do
    [[ ! -e $script || -e ${script%.script}.code ]] || basename "$script" .script
done
"""
SRUN = r"""#!/usr/bin/env bash
while [[ $1 != launch_pickled_pipeline ]]; do shift; done
exec "$@"
"""
SCONTROL = r"""#!/usr/bin/env bash
echo node0
"""
SCANCEL = r"""#!/usr/bin/env bash
echo "$*" > "$FAKE_SLURM/cancelled"
"""
PROGRAMS = {"sbatch": SBATCH, "squeue": SQUEUE, "srun": SRUN, "scontrol": SCONTROL, "scancel": SCANCEL}


@dataclass(frozen=True)
class Slurm:
    """A folder with the programs, and what they were asked for."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> Slurm:
        (folder / "programs").mkdir(parents=True)
        for name, text in PROGRAMS.items():
            (folder / "programs" / name).write_text(text)
            (folder / "programs" / name).chmod(0o755)
        return cls(folder)

    @property
    def environment(self) -> dict[str, Any]:
        """The changes to the environment in which a command finds them, and Python's own programs."""
        path = [str(self.folder / "programs"), str(Path(sys.executable).parent), os.environ["PATH"]]
        return {"FAKE_SLURM": str(self.folder), "PATH": os.pathsep.join(path)}

    @property
    def scripts(self) -> list[str]:
        """The scripts that were submitted."""
        return [path.read_text() for path in sorted(self.folder.glob("*.script"))]

    @property
    def arguments(self) -> list[str]:
        """The arguments with which they were."""
        return [path.read_text() for path in sorted(self.folder.glob("*.arguments"))]
