"""The same run on any topology: every one is really launched, and compared with one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import launching
import pytest

ACCUMULATED = ("--batch.micro_size", "4")
TOPOLOGIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "one process, 4 micro-batches": ("cpu", ACCUMULATED),
    "two processes": ("cpu_2", ()),
    "zero1": ("zero1", ACCUMULATED),
    "zero2": ("zero2", ACCUMULATED),
    "zero3": ("zero3", ACCUMULATED),
    "zero3_offload": ("zero3_offload", ACCUMULATED),
}
FAST_IN_BF16 = ("two processes", "zero2")
PRECISIONS = {"no": (1e-4, 1e-3), "bf16": (3e-2, 3e-2)}  # {precision: (loss, relative gradient norm)} may differ by


def launch(folder: Path, prepared_cache: Path, topology: str, precision: str, *arguments: str) -> Any:
    """20 steps of a tiny model with a global batch of 16."""
    processes = () if topology == "cpu" else ("--num_processes=2",)
    ended = launching.accelerate(
        topology,
        "train.py",
        f"--corpus.cache_dir={prepared_cache}",
        f"--output_dir={folder}",
        *(
            "--optim.duration",
            "20 steps",
            "--batch.global_size",
            "16",
            "--logging.every",
            "1",
            "--validation.every",
            "10",
        ),
        *launching.TINY,
        *arguments,
        launch=(f"--mixed_precision={precision}", *processes),
    )
    assert ended.returncode == 0, ended.output
    return launching.metrics(folder, "train"), launching.metrics(folder, "validation")


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Any:
    """(precision, train lines, validation lines) of one process."""
    folder = tmp_path_factory.mktemp("reference")
    return request.param, *launch(folder, prepared_cache, "cpu", request.param)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        pytest.param(precision, name, marks=() if precision == "no" or name in FAST_IN_BF16 else pytest.mark.slow)
        for precision in PRECISIONS
        for name in TOPOLOGIES
    ],
    indirect=["reference"],
)
def test_topology_follows_one_process(name: str, reference: Any, tmp_path: Path, prepared_cache: Path) -> None:
    precision, *expected = reference
    topology, arguments = TOPOLOGIES[name]
    check_same(precision, launch(tmp_path / "run", prepared_cache, topology, precision, *arguments), expected)


@pytest.mark.slow
def test_packed_rows_follow_one_process(tmp_path: Path, prepared_cache: Path) -> None:
    """Micro-batches differ in size, so that rows meet others with and without several chunks."""
    arguments = ("--rows.mode=pack", "--rows.max_length=128")
    expected = launch(tmp_path / "one", prepared_cache, "cpu", "no", *arguments)
    found = launch(tmp_path / "two", prepared_cache, "zero2", "no", *arguments, "--batch.micro_size=2")
    check_same("no", found, expected)


# Muon computes in bfloat16, which enlarges differences in the last bit.
COARSE = 2e-2
OPTIONS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "by layer, frozen, under zero2": (
        "zero2",
        ("--optim.layer_lr_decay=0.7", "--model.freeze_embeddings=true"),
        1e-4,
    ),
    "muon": ("cpu_2", ("--optim.name=muon", "--optim.layer_lr_decay=0.7"), COARSE),
    "stableadamw": ("cpu_2", ("--optim.name=stableadamw",), 1e-4),
    "by layer under zero1": ("zero1", ("--optim.layer_lr_decay=0.7",), 1e-4),
    "by layer under zero3": ("zero3", ("--optim.layer_lr_decay=0.7",), 1e-4),
    "frozen on two": ("cpu_2", ("--model.freeze_embeddings=true",), 1e-4),
    "frozen under zero3": ("zero3", ("--model.freeze_embeddings=true",), 1e-4),
    "wsd": ("zero1", ("--optim.schedule=wsd",), 1e-4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_optimizer_options_follow_one_process(name: str, tmp_path: Path, prepared_cache: Path) -> None:
    topology, arguments, tolerance = OPTIONS[name]
    expected, _ = launch(tmp_path / "one", prepared_cache, "cpu", "no", *arguments)
    found, _ = launch(tmp_path / "two", prepared_cache, topology, "no", *arguments, "--batch.micro_size=4")
    assert [line["learning_rate"] for line in found] == [line["learning_rate"] for line in expected]
    losses, wanted = ([line["loss"] for line in lines] for lines in (found, expected))
    assert losses[:2] == pytest.approx(wanted[:2], abs=1e-5)
    assert losses == pytest.approx(wanted, abs=tolerance)
    assert losses[-1] < losses[0]


def check_same(precision: str, ours: Any, theirs: Any) -> None:
    """Compare (train lines, validation lines) of two runs."""
    (found, found_validation), (expected, expected_validation) = ours, theirs
    loss_tolerance, norm_tolerance = PRECISIONS[precision]
    assert len(found) == len(expected) == 20
    for line, other in zip(found, expected, strict=True):
        for exact in ("step", "learning_rate", "samples", "tokens", "masked_tokens", "skipped_steps"):
            assert line[exact] == other[exact], exact
        assert line["loss"] == pytest.approx(other["loss"], abs=loss_tolerance)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=norm_tolerance)
    for line, other in zip(found_validation, expected_validation, strict=True):
        assert line["masked_tokens"] == other["masked_tokens"]
        assert line["loss"] == pytest.approx(other["loss"], abs=loss_tolerance)
    assert found[-1]["loss"] < found[0]["loss"]
    assert any(line["grad_norm"] > 1.0 for line in found), "no gradient was clipped"
