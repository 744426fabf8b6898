"""The plan of a preparation: what rank 0 has found out before the work, in files that the other ranks read.

Of a source with a million files, the list is a table of some tens of megabytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.corpus.manifest import CorpusInputs
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.files import temporary_folder, write_json, write_whole


@dataclass(frozen=True)
class Plan:
    """What all ranks need to know.

    Args:
        digest: The digest of the corpus.
        inputs: What it is made from; None if it is prepared already.
    """

    digest: str
    inputs: CorpusInputs | None

    @classmethod
    def agreed(cls, ranks: Rendezvous, make: Callable[[], Plan]) -> Plan:
        """Rank 0 makes the plan, and every rank returns it.

        Raises:
            PeerError: Another rank failed.
        """
        made: list[Plan] = []

        def write() -> str:
            made.append(make())
            return made[0].write(ranks.folder) if ranks.world_size > 1 else ""

        name = ranks.lead("plan", write)
        if made:
            return made[0]
        ranks.see([ranks.folder / name])
        return cls.read(ranks.folder / name)

    def write(self, parent: Path) -> str:
        """Write it to a new folder in another one, and return its name: an earlier launch may have left one."""
        folder = temporary_folder(parent / "plan")
        inputs: dict[str, Any] | None = None
        if self.inputs is not None:
            inputs = self.inputs.to_json() | {"sources": list(map(_without_files, self.inputs.sources))}
            for i, source in enumerate(self.inputs.sources):
                _write_files(source, folder / f"{i}.parquet")
        write_json(folder / "plan.json", {"digest": self.digest, "inputs": inputs}, durable=False)
        return folder.name

    @classmethod
    def read(cls, folder: Path) -> Plan:
        """The plan that `write` wrote."""
        value = json.loads((folder / "plan.json").read_text("utf-8"))
        inputs = value["inputs"]
        if inputs is None:
            return cls(value["digest"], None)
        sources = [one | _read_files(folder / f"{i}.parquet") for i, one in enumerate(inputs["sources"])]
        return cls(value["digest"], CorpusInputs.from_json(inputs | {"sources": sources}))


def _without_files(source: SourceFiles) -> dict[str, Any]:
    return source.to_json() | {"files": {}, "states": {}, "units": {}}


def _write_files(source: SourceFiles, path: Path) -> None:
    """Write the files of a source as a table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files, states = source.files, source.states
    columns = {
        "path": pa.array(map(os.fsencode, files), pa.large_binary()),
        "sha256": pa.array(map(bytes.fromhex, files.values()), pa.binary(32)),
        "size": pa.array((states[name][0] for name in files), pa.int64()),
        "changed": pa.array((states[name][1] for name in files), pa.int64()),
        "units": pa.array(map(source.units.get, files), pa.int64()),
    }
    write_whole(path, lambda temporary: pq.write_table(pa.table(columns), temporary), durable=False)


def _read_files(path: Path) -> dict[str, Any]:
    """The fields of `SourceFiles` that `_write_files` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = [os.fsdecode(name.as_py()) for name in table["path"]]
    hashes = (one.as_py().hex() for one in table["sha256"])
    states = zip(table["size"].to_pylist(), table["changed"].to_pylist(), strict=True)
    units = zip(names, table["units"].to_pylist(), strict=True)
    return {
        "files": dict(zip(names, hashes, strict=True)),
        "states": dict(zip(names, map(list, states), strict=True)),
        "units": {name: count for name, count in units if count is not None},
    }
