"""A run has the same losses on any topology: each is launched, and compared with one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from conftest import Runs
from safetensors.torch import load_file

ACCUMULATED = ("--batch.micro_size=4",)
TOPOLOGIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "one process, 4 micro-batches": ("one", ACCUMULATED),
    "two processes": ("cpu_2", ()),
    "zero1": ("zero1", ACCUMULATED),
    "zero2": ("zero2", ACCUMULATED),
    "zero3": ("zero3", ACCUMULATED),
    "zero3_offload": ("zero3_offload", ACCUMULATED),
    "fsdp2": ("fsdp2_cpu", ACCUMULATED),
}
QUICK = {("no", "two processes"), ("no", "zero2")}  # and FSDP2 in test_fsdp2.py
QUICK_PAIRS = {("contrastive", "two processes")}
PRECISIONS = {"no": (1e-4, 1e-3), "bf16": (3e-2, 3e-2)}  # {precision: (loss, relative gradient norm)} may differ by


def lines(run: Path) -> tuple[Any, Any]:
    """The train lines and the validation lines of a run."""
    return launching.metrics(run, "train"), launching.metrics(run, "validation")


@pytest.mark.parametrize(
    ("precision", "name"),
    [
        pytest.param(precision, name, marks=() if (precision, name) in QUICK else pytest.mark.slow)
        for precision in PRECISIONS
        for name in TOPOLOGIES
    ],
)
def test_topology_follows_one_process(precision: str, name: str, runs: Runs) -> None:
    topology, arguments = TOPOLOGIES[name]
    expected = lines(runs("one", precision=precision))
    check_same(precision, lines(runs(topology, *arguments, precision=precision)), expected)


def test_accumulation_follows_one_micro_batch(runs: Runs, tmp_path: Path) -> None:
    launching.here("train", *runs.flags, *ACCUMULATED, f"--output_dir={tmp_path / 'run'}")
    check_same("no", lines(tmp_path / "run"), lines(runs("one")))


@pytest.mark.parametrize("topology", ["zero2", pytest.param("fsdp2_cpu", marks=pytest.mark.slow)])
def test_exported_model_is_that_of_one_process(topology: str, runs: Runs) -> None:
    found, expected = (
        load_file(run / "model" / "model.safetensors") for run in (runs(topology, *ACCUMULATED), runs("one"))
    )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype == torch.float32 and found[name].shape == value.shape, name
        # The gradient of a key's bias is 0 but for rounding, and Adam gives it the size of the learning rate.
        if not name.endswith("key.bias"):
            assert torch.allclose(found[name], value, atol=2e-3), name
    for name in ("config.json", "tokenizer.json"):
        texts = [(run / "model" / name).read_text("utf-8") for run in (runs(topology, *ACCUMULATED), runs("one"))]
        assert texts[0] == texts[1], name


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["zero2", "fsdp2_cpu"])
def test_packed_rows_follow_one_process(topology: str, runs: Runs) -> None:
    """Micro-batches differ in size, so that rows meet others with and without several chunks."""
    arguments = ("--rows.mode=pack", "--rows.max_length=128")
    check_same("no", lines(runs(topology, *arguments, "--batch.micro_size=2")), lines(runs("one", *arguments)))


CAUSAL = ("--objective=causal_lm",)


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["pack", "chunk"])
@pytest.mark.parametrize(
    ("topology", "arguments"),
    [("cpu_2", ()), ("zero2", ACCUMULATED), ("fsdp2_cpu", (*ACCUMULATED, "--model.checkpointing=layers"))],
)
def test_causal_lm_follows_one_process(topology: str, arguments: tuple[str, ...], rows: str, runs: Runs) -> None:
    """Its validations, of masked LM, come between causal steps on the same module."""
    mode = f"--rows.mode={rows}"
    expected = lines(runs("one", *CAUSAL, mode))
    check_same("no", lines(runs(topology, *CAUSAL, mode, *arguments)), expected)
    first = expected[0][0]
    assert first["masked_tokens"] > 0.9 * first["tokens"]  # all but the first of each chunk


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
    "muon under fsdp2": ("fsdp2_cpu", ("--optim.name=muon", "--optim.layer_lr_decay=0.7"), COARSE),
    "stableadamw under fsdp2": ("fsdp2_cpu", ("--optim.name=stableadamw",), 1e-4),
    "by layer under zero1": ("zero1", ("--optim.layer_lr_decay=0.7",), 1e-4),
    "by layer under zero3": ("zero3", ("--optim.layer_lr_decay=0.7",), 1e-4),
    "frozen on two": ("cpu_2", ("--model.freeze_embeddings=true",), 1e-4),
    "frozen under zero3": ("zero3", ("--model.freeze_embeddings=true",), 1e-4),
    "last layer on two": ("cpu_2", ("--model.trainable_layers=1",), 1e-4),
    "last layer under zero3": ("zero3", ("--model.trainable_layers=1",), 1e-4),
    "frozen under fsdp2": ("fsdp2_cpu", ("--model.freeze_embeddings=true",), 1e-4),
    "last layer under fsdp2": ("fsdp2_cpu", ("--model.trainable_layers=1",), 1e-4),
    "by layer under fsdp2": ("fsdp2_cpu", ("--optim.layer_lr_decay=0.7",), 1e-4),
    "wsd": ("zero1", ("--optim.schedule=wsd",), 1e-4),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_optimizer_options_follow_one_process(name: str, runs: Runs) -> None:
    topology, arguments, tolerance = OPTIONS[name]
    expected, _ = lines(runs("one", *arguments))
    found, _ = lines(runs(topology, *arguments, "--batch.micro_size=4"))
    assert [line["learning_rate"] for line in found] == [line["learning_rate"] for line in expected]
    losses, wanted = ([line["loss"] for line in each] for each in (found, expected))
    assert losses[:2] == pytest.approx(wanted[:2], abs=1e-5)
    assert losses == pytest.approx(wanted, abs=tolerance)
    assert losses[-1] < losses[0]


def check_same(precision: str, ours: Any, theirs: Any) -> None:
    """Compare (train lines, validation lines) of two runs."""
    (found, found_validation), (expected, expected_validation) = ours, theirs
    loss_tolerance, norm_tolerance = PRECISIONS[precision]
    assert len(found) == len(expected) == 20
    for line, other in zip(found, expected, strict=True):
        for exact in ("step", "learning_rate", "samples", "tokens", "skipped_steps"):
            assert line[exact] == other[exact], exact
        counted = "pairs" if "pairs" in line else "masked_tokens"
        assert line[counted] == other[counted]
        assert line["loss"] == pytest.approx(other["loss"], abs=loss_tolerance)
        assert line["grad_norm"] == pytest.approx(other["grad_norm"], rel=norm_tolerance)
    for line, other in zip(found_validation, expected_validation, strict=True):
        assert line["masked_tokens"] == other["masked_tokens"]
        assert line["loss"] == pytest.approx(other["loss"], abs=loss_tolerance)
    # The pairs of each step are others, some harder to tell apart; the validation has the same ones.
    of_validation = "pairs_loss" in found_validation[0]
    lines, name = (found_validation, "pairs_loss") if of_validation else (found, "loss")
    assert lines[-1][name] < lines[0][name]
    assert any(line["grad_norm"] > 1.0 for line in found), "no gradient was clipped"


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        pytest.param(objective, name, marks=() if (objective, name) in QUICK_PAIRS else pytest.mark.slow)
        for objective in ("contrastive", "contrastive_masked_lm")
        for name in TOPOLOGIES
    ],
)
def test_pairs_of_all_ranks_are_compared_as_on_one_process(objective: str, name: str, runs: Runs) -> None:
    """The negatives of a query are in other micro-batches and on other ranks."""
    topology, arguments = TOPOLOGIES[name]
    flags = (f"--objective={objective}",)
    expected, found = lines(runs("one", *flags)), lines(runs(topology, *flags, *arguments))
    check_same("no", found, expected)
    for one, other in zip(found[1], expected[1], strict=True):
        assert one["pairs_loss"] == pytest.approx(other["pairs_loss"], rel=1e-3)
