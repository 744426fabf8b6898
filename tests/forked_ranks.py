"""Ranks forked from a server that has imported the package: most of a launch's seconds are imports.

Each rank is a process of its own with the environment that accelerate's launcher gives it, and runs what
`python mlm_dist/train.py` runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import forking
import launching

# One process without a launcher, and two processes of the others.
TOPOLOGIES = {
    **{"one": "", "two": "cpu_2", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3"},
    "fsdp2": "fsdp2_cpu",
}
SECONDS_TO_LEAVE = 30.0  # as torch's launcher gives the others when one process has failed
_recorded: dict[str, list[dict[str, str]]] = {}


class Ranks:
    """A job's processes, which write what they print to one file. Killed at the end of the context.

    Args:
        topology: A name in `TOPOLOGIES`.
        flags: The flags of `train.py`.
        output: Where its output goes.
        changes: Changes to the environment.
    """

    def __init__(
        self, topology: str, flags: Sequence[str], output: Path, changes: Mapping[str, str] | None = None
    ) -> None:
        port = str(launching.free_port())
        self._output = output
        self.processes: list[BaseProcess] = []
        for environment in environments(topology):
            given = {**environment, "MASTER_PORT": port, **(changes or {})}
            self.processes.append(forking.start("train", flags, output, given))

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    @property
    def output(self) -> str:
        """What they printed."""
        return self._output.read_text("utf-8", errors="replace") if self._output.exists() else ""

    @property
    def is_alive(self) -> bool:
        """Whether any of them runs."""
        return any(process.is_alive() for process in self.processes)

    def kill(self, rank: int) -> None:
        """Kill one of them, and stop the others as a launcher does."""
        self.processes[rank].kill()
        self.processes[rank].join()
        self.stop()

    def stop(self) -> None:
        """Ask all to stop, and kill those that do not in time."""
        for process in self.processes:
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_LEAVE
        for process in self.processes:
            process.join(max(deadline - time.monotonic(), 0))
            process.kill()
            process.join()

    def end(self, timeout: float = 120) -> list[int | None]:
        """Their exit codes once all have ended; if one fails, the others are stopped as a launcher does."""
        deadline = time.monotonic() + timeout
        while self.is_alive:
            assert time.monotonic() < deadline, f"they did not end in {timeout} s:\n{self.output}"
            if any(process.exitcode for process in self.processes):
                self.stop()
            time.sleep(0.02)
        return [process.exitcode for process in self.processes]


def environments(topology: str) -> list[dict[str, str]]:
    """What accelerate's launcher puts into the environment of each rank; recorded once per topology."""
    if not TOPOLOGIES[topology]:
        return [launching.environment()]
    if topology not in _recorded:
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, str(rank)) for rank in range(2)]
            script = f"import json, os; json.dump(dict(os.environ), open('{folder}/' + os.environ['RANK'], 'w'))"
            ended = launching.run(
                [
                    *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes=2", "--mixed_precision=no"),
                    f"--config_file={launching.ACCELERATE / TOPOLOGIES[topology]}.yaml",
                    *(("--gpu_ids=-1,-1",) if topology.startswith("zero") else ()),
                    *(f"--main_process_port={launching.free_port()}", "--no_python", sys.executable, "-c", script),
                ]
            )
            assert ended.returncode == 0, ended.output
            found = [json.loads(file.read_text("utf-8")) for file in files]
        for environment in found:
            environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # there is no agent: rank 0 has the store
        _recorded[topology] = found
    return _recorded[topology]
