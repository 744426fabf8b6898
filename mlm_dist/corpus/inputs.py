"""What a corpus is made from, and the files in which processes hand it to each other.

Of a source with a million files, the list is a table of some tens of megabytes.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlm_dist.corpus.sources import SourceFiles
from mlm_dist.files import write_json, write_whole


@dataclass(frozen=True)
class CorpusInputs:
    """What a corpus is made from.

    Args:
        digest: The corpus's digest.
        sources: The files of each source.
        dependencies: What `digests.dependencies` returned.
    """

    digest: str
    sources: list[SourceFiles]
    dependencies: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write them to a new folder, or over those that a launch before wrote to it."""
        folder.mkdir(exist_ok=True)
        for i, source in enumerate(self.sources):
            _write_files(source, folder / f"{i}.parquet")
        value = vars(self) | {"sources": list(map(_without_files, self.sources))}
        write_json(folder / "inputs.json", value, durable=False)

    @classmethod
    def read(cls, folder: Path) -> CorpusInputs:
        """Read what `write` wrote."""
        value = json.loads((folder / "inputs.json").read_text("utf-8"))
        sources = [one | _read_files(folder / f"{i}.parquet") for i, one in enumerate(value["sources"])]
        return cls(**value | {"sources": [SourceFiles.from_json(one) for one in sources]})


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
        "states": dict(zip(names, states, strict=True)),
        "units": {name: count for name, count in units if count is not None},
    }
