"""The plan of a preparation, which rank 0 hands to the others as files."""

from __future__ import annotations

import dataclasses
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlm_dist.config import SourceConfig
from mlm_dist.corpus.inputs import CorpusInputs
from mlm_dist.corpus.plan import Plan
from mlm_dist.corpus.rendezvous import Rendezvous
from mlm_dist.corpus.sources import SourceFiles, acquire


@pytest.fixture
def source(tmp_path: Path) -> SourceFiles:
    """Files, one of them with a name that is not UTF-8, and a link, which is dropped."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for i, name in enumerate((b"a.md", b"caf\xe9.md", "\u20ac.md".encode(), b"z.md")):
        (folder / os.fsdecode(name)).write_text("word " * (i + 1))
    (folder / "link.md").symlink_to(folder / "a.md")
    return acquire(SourceConfig(source=str(folder)), tmp_path / "cache")


def test_written_inputs_are_read_again(source: SourceFiles, tmp_path: Path) -> None:
    records = dataclasses.replace(source, name="records", units={"z.md": 3})
    inputs = CorpusInputs("digest", [source, records], {"rows": {"mode": "pack"}})
    assert len(source.files) == 4 and source.dropped
    inputs.write(tmp_path / "inputs")
    again = CorpusInputs.read(tmp_path / "inputs")
    assert again == inputs
    assert [list(one.files) for one in again.sources] == [list(source.files)] * 2


@pytest.mark.parametrize("is_prepared", [False, True])
def test_all_ranks_have_the_plan_of_rank_0(source: SourceFiles, tmp_path: Path, is_prepared: bool) -> None:
    plan = Plan("digest", None if is_prepared else CorpusInputs("digest", [source], {}))
    sizes: list[list[str]] = []
    both = threading.Barrier(3, timeout=60)

    def run(rank: int) -> Plan:
        with Rendezvous(tmp_path / "rendezvous", rank, 3) as ranks:
            (ranks.folder / "inputs").mkdir(exist_ok=True)  # as of an earlier launch
            found = Plan.agreed(ranks, lambda: plan if rank == 0 else Plan("another", None))
            both.wait()
            sizes.append([path.name for path in ranks.folder.glob(".inputs-*/*")])
            both.wait()
            return found

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [plan] * 3
    assert {tuple(sorted(names)) for names in sizes} == {() if is_prepared else ("0.parquet", "inputs.json")}
