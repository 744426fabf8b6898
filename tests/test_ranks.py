"""What ranks do together: wait for rank 0, gather shards, and read their own rows; on two and three gloo processes."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import launching
import pytest
from ranks_on_cpu import LONG_SECONDS, SHAPES, TIMEOUT_SECONDS

Outcome = list[dict[str, Any]]


@pytest.fixture(scope="module", params=[2, 3])
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What each rank found."""
    folder = tmp_path_factory.mktemp("ranks")
    script = launching.ROOT / "tests" / "ranks_on_cpu.py"
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={request.param}"]
    ended = launching.run(
        [*command, f"--master_port={launching.free_port()}", str(script), str(folder)],
        PYTHONPATH=f"{launching.ROOT}:{launching.ROOT / 'tests'}",
        ACCELERATE_USE_CPU="true",
    )
    assert ended.returncode == 0, ended.output
    return [json.loads((folder / f"rank-{rank}.json").read_text("utf-8")) for rank in range(request.param)]


@pytest.mark.slow
def test_work_of_rank_0_may_take_longer_than_the_timeout_of_the_process_group(outcome: Outcome) -> None:
    assert LONG_SECONDS > 2 * TIMEOUT_SECONDS
    for rank, found in enumerate(outcome):
        assert found["waits"]["answer"] == {"step": 7}
        assert found["waits"]["nothing"] is None
        expected = "PeerError: rank 0 failed, and says why" if rank else "ConfigError: output_dir: no"
        assert found["waits"]["error"] == expected
        assert found["timeout_hours"] == 2


@pytest.mark.slow
def test_shards_are_gathered_on_rank_0_and_read_by_rows(outcome: Outcome) -> None:
    """Also where ranks hold different numbers of rows, or none."""
    for rank, found in enumerate(outcome):
        for shape, one in zip(SHAPES, found["shards"], strict=True):
            assert one["gathered"] is (True if rank == 0 else None)
            assert one["same_shard"] and one["same_layout"] and one["whole"], shape
            each = math.ceil(shape[0] / len(outcome))
            first = min(rank * each, shape[0])
            assert one["asked"] == [[first, min(first + each, shape[0])]]


@pytest.mark.slow
def test_ddp_exchanges_no_buffers_and_rank_0_alone_has_the_values(outcome: Outcome) -> None:
    for rank, found in enumerate(outcome):
        assert not found["ddp"]["broadcast_buffers"]
        assert set(found["ddp"]["values"]) == set(found["ddp"]["moments"]) == {rank == 0}
