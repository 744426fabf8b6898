"""Resuming from a checkpoint: exactly on the same topology, elastically on any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from conftest import Runs

from mlm_dist.checkpoint.find import newest
from mlm_dist.errors import CheckpointError

TOPOLOGIES = {
    **{"one": "cpu", "two": "cpu_2", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3"},
    "fsdp2": "fsdp2_cpu",
}
STEPS, SAVED_AT = 8, 4


def launch(run: Path, cache: Path, topology: str, *arguments: str, precision: str = "no", fault: str = "") -> Any:
    """A run in a directory, on two processes unless the topology is `one`."""
    processes = () if topology == "one" else ("--num_processes=2",)
    return launching.accelerate(
        TOPOLOGIES[topology],
        "train.py",
        f"--corpus.cache_dir={cache}",
        f"--output_dir={run}",
        *("--batch.global_size=8", "--logging.every=1", "--validation.every=null"),
        *launching.TINY,
        *arguments,
        launch=(f"--mixed_precision={precision}", *processes),
        MLM_DIST_FAULT=fault,
    )


def final_weights(run: Path) -> bytes:
    """The weights file of the newest checkpoint, which is a good one."""
    found, problems = newest(run / "checkpoints")
    assert found is not None and not problems
    return (found / "model.safetensors").read_bytes()


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in launching.metrics(run, "train")]


class Full:
    """Uninterrupted runs, each made once, when it is needed."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache

    def __call__(self, topology: str, precision: str = "no", more: tuple[str, ...] = ()) -> Path:
        run = self.folder / f"{topology}-{precision}{''.join(more)}"
        if not run.exists():
            arguments = (f"--optim.duration={STEPS} steps", f"--checkpoint.every={SAVED_AT}", *more)
            ended = launch(run, self.cache, topology, *arguments, precision=precision)
            assert ended.returncode == 0, ended.output
        return run


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, prepared_cache: Path) -> Full:
    return Full(tmp_path_factory.mktemp("full"), prepared_cache)


def check_resume(
    full: Full,
    tmp_path: Path,
    saved_by: str,
    resumed_by: str,
    precision: str = "no",
    more: tuple[str, ...] = (),
    tolerance: float = 1e-5,
) -> None:
    before = full(saved_by, precision, more)
    run = tmp_path / "run"
    shutil.copytree(before, run)
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    ended = launch(run, full.cache, resumed_by, f"--optim.duration={STEPS} steps", *more, precision=precision)
    assert ended.returncode == 0, ended.output
    assert f"resuming from {run / 'checkpoints'}/step-{SAVED_AT:08d}" in ended.stdout
    assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, STEPS + 1))
    assert losses(run) == pytest.approx(losses(before), rel=tolerance if precision == "no" else 3e-2)
    assert launching.metrics(run, "train")[-1]["tokens"] == launching.metrics(before, "train")[-1]["tokens"]
    if saved_by == resumed_by and precision == "no":
        assert final_weights(run) == final_weights(before), "not equal bit by bit"


@pytest.mark.slow
@pytest.mark.parametrize(("saved_by", "resumed_by"), [(a, b) for a in TOPOLOGIES for b in TOPOLOGIES])
def test_any_topology_resumes_from_any_other(full: Full, tmp_path: Path, saved_by: str, resumed_by: str) -> None:
    check_resume(full, tmp_path, saved_by, resumed_by)


@pytest.mark.parametrize(("topology", "arguments"), [("one", ()), ("zero2", ("--batch.micro_size=4",))])
def test_one_process_resumes(topology: str, arguments: tuple[str, ...], runs: Runs, tmp_path: Path) -> None:
    """From a checkpoint of its own, bit by bit, and from one of two processes under ZeRO-2."""
    before, run = runs(topology, *arguments), tmp_path / "run"
    shutil.copytree(before, run)
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    done = launching.here("train", *runs.flags, f"--output_dir={run}")
    assert f"resuming from {run / 'checkpoints'}/step-00000010 at step 10" in done.log
    assert ("the micro-batch is 16 rows, before it was 4" in done.log) == (topology == "zero2")
    assert sorted(done.result.losses) == list(range(11, 21))
    assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, 21))
    assert losses(run) == pytest.approx(losses(before), rel=1e-5)
    assert launching.metrics(run, "train")[-1]["tokens"] == launching.metrics(before, "train")[-1]["tokens"]
    if topology == "one":
        assert losses(run) == losses(before)
        assert final_weights(run) == final_weights(before), "not equal bit by bit"


def test_shorter_run_than_its_checkpoint_is_refused(runs: Runs, tmp_path: Path) -> None:
    """It would end at once, every time it is started again. A run of just as many steps is finished."""
    run = tmp_path / "run"
    shutil.copytree(runs("one"), run)
    before = final_weights(run)
    with pytest.raises(
        CheckpointError, match=r"^optim\.duration: 12 steps, but .*step-00000020 has 20 already; choose"
    ):
        launching.here("train", *runs.flags, "--optim.duration=12 steps", f"--output_dir={run}")
    assert [line["step"] for line in launching.metrics(run, "train")] == list(range(1, 21))
    done = launching.here("train", *runs.flags, f"--output_dir={run}")
    assert "the run is finished: all 20 steps are done" in done.log
    assert done.result.is_finished and not done.result.losses
    assert final_weights(run) == before


# {option: relative tolerance}; Muon computes in bfloat16, which enlarges differences.
OPTIONS = {
    "--optim.name=stableadamw": 1e-5,
    "--optim.name=muon": 1e-3,
    "--optim.schedule=cosine": 1e-5,
    "--optim.schedule=wsd": 1e-5,
    "--optim.layer_lr_decay=0.7": 1e-5,
    "--model.freeze_embeddings=true": 1e-5,
}
WHOLE = ("--optim.name=stableadamw", "--optim.name=muon")  # ZeRO does not take them


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "saved_by", "resumed_by"),
    [
        (option, *pair)
        for option in OPTIONS
        for pair in (
            *(("one", "one"), ("one", "two"), ("two", "one"), ("one", "fsdp2"), ("fsdp2", "two")),
            *(() if option in WHOLE else (("one", "zero2"), ("zero1", "zero3"), ("zero3", "one"))),
        )
    ],
)
def test_optimizer_options_survive_a_resume(
    full: Full, tmp_path: Path, option: str, saved_by: str, resumed_by: str
) -> None:
    check_resume(full, tmp_path, saved_by, resumed_by, more=(option,), tolerance=OPTIONS[option])


@pytest.mark.slow
def test_frozen_embeddings_are_not_rounded(full: Full, tmp_path: Path) -> None:
    """DeepSpeed computes with a bf16 table and keeps no other; checkpoints hold the table the run began with."""
    from safetensors.torch import load_file

    frozen = ("--model.freeze_embeddings=true",)
    tables = []
    for topology, precision in (("one", "no"), ("zero2", "bf16"), ("zero3", "bf16")):
        point = full(topology, precision, frozen) / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
        tables.append(load_file(point)["model.model.embeddings.tok_embeddings.weight"])
    assert torch.equal(tables[0], tables[1])
    assert torch.equal(tables[0], tables[2])
    check_resume(full, tmp_path, "zero3", "zero2", "bf16", frozen)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saved_by", "resumed_by"),
    [("one", "zero2"), ("zero2", "two"), ("zero3", "one"), ("one", "fsdp2"), ("fsdp2", "zero2")],
)
def test_bf16_survives_a_resume(full: Full, tmp_path: Path, saved_by: str, resumed_by: str) -> None:
    check_resume(full, tmp_path, saved_by, resumed_by, "bf16")


@pytest.mark.slow
@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="this CPU has no fp16 arithmetic")
def test_loss_scale_survives_a_resume(full: Full, tmp_path: Path) -> None:
    before = full("zero2", "fp16")
    check_resume(full, tmp_path, "zero2", "zero2", "fp16")

    def scale(run: Path) -> Any:
        state = run / "checkpoints" / f"step-{STEPS:08d}" / "state.json"
        return json.loads(state.read_text("utf-8"))["loss_scale"]

    assert scale(before) is not None
    assert scale(tmp_path / "run") == scale(before)


@pytest.mark.slow
def test_micro_batch_may_change(full: Full, tmp_path: Path) -> None:
    before = full("one")
    run = tmp_path / "run"
    shutil.copytree(before, run)
    shutil.rmtree(run / "checkpoints" / f"step-{STEPS:08d}")
    ended = launch(run, full.cache, "two", f"--optim.duration={STEPS} steps", "--batch.micro_size=2")
    assert ended.returncode == 0, ended.output
    assert losses(run) == pytest.approx(losses(before), rel=1e-5)


def test_resume_from_a_named_checkpoint(runs: Runs, tmp_path: Path) -> None:
    before = runs("one")
    point = before / "checkpoints" / "step-00000010"
    launching.here("train", *runs.flags, f"--output_dir={tmp_path / 'run'}", f"--checkpoint.resume={point}")
    assert losses(tmp_path / "run") == pytest.approx(losses(before), rel=1e-6)
    assert launching.metrics(tmp_path / "run", "start")[-1]["resumed_from"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["one", "two", "zero2"])
def test_run_killed_around_an_epoch_end_ends_bit_equal(topology: str, tmp_path: Path, small: tuple[Path, int]) -> None:
    """SIGKILL one before, at and one after an epoch's end, and twice within an epoch, with dropout on."""
    cache, num_rows = small
    epoch_end = num_rows // 8  # the step in which the first epoch ends
    num_steps = epoch_end + 8
    arguments = (f"--optim.duration={num_steps} steps", "--checkpoint.every=1", *launching.DROPOUT)
    source = f"--corpus.source={cache / 'documents'}"
    ended = launch(tmp_path / "whole", cache, topology, source, *arguments)
    assert ended.returncode == 0, ended.output
    for step in (epoch_end - 5, epoch_end - 1, epoch_end, epoch_end + 1, epoch_end + 5):
        ended = launch(tmp_path / "killed", cache, topology, source, *arguments, fault=f"mid_step@{step}")
        assert ended.returncode != 0, f"was not killed at {step}"
    ended = launch(tmp_path / "killed", cache, topology, source, *arguments)
    assert ended.returncode == 0, ended.output
    lines = launching.metrics(tmp_path / "killed", "train")
    assert [line["step"] for line in lines] == list(range(1, num_steps + 1)), "a step was lost or repeated"
    assert [line["samples"] for line in lines] == [8 * step for step in range(1, num_steps + 1)]
    assert lines[-1]["tokens"] == launching.metrics(tmp_path / "whole", "train")[-1]["tokens"]
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert final_weights(tmp_path / "killed") == final_weights(tmp_path / "whole")


MASKS = ("--masking.unit=span", "--masking.probability=0.4", "--masking.final_probability=0.1", "--rows.mode=pack")


def check_schedule_resumes(
    tmp_path: Path, cache: Path, arguments: tuple[str, ...], change: str, named: str, *resumed_by: str
) -> list[dict[str, Any]]:
    """A run of one process resumes exactly on any topology; a changed flag is refused with the name of its key.

    Returns:
        The train lines of the run that was not interrupted.
    """
    arguments = (f"--optim.duration={STEPS} steps", f"--checkpoint.every={SAVED_AT}", *arguments)
    whole, half = tmp_path / "whole", tmp_path / "half"
    ended = launch(whole, cache, "one", *arguments)
    assert ended.returncode == 0, ended.output
    expected: list[dict[str, Any]] = launching.metrics(whole, "train")
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / f"step-{STEPS:08d}")
    refused = launch(half, cache, "one", *arguments, change)
    assert refused.returncode != 0 and f"{named}: " in refused.stderr, refused.output
    for topology in resumed_by:
        run = tmp_path / topology
        shutil.copytree(half, run)
        ended = launch(run, cache, topology, *arguments)
        assert ended.returncode == 0, ended.output
        assert f"step-{SAVED_AT:08d}" in ended.stdout
        found = launching.metrics(run, "train")
        assert [line["samples"] for line in found] == [line["samples"] for line in expected]
        assert losses(run) == pytest.approx(losses(whole), rel=1e-5)
        if topology == "one":
            assert final_weights(run) == final_weights(whole)
    return expected


@pytest.mark.slow
def test_masking_schedule_resumes_exactly(tmp_path: Path, prepared_cache: Path) -> None:
    change = "--masking.unit=token"
    lines = check_schedule_resumes(tmp_path, prepared_cache, MASKS, change, "masking.unit", "one", "zero2")
    assert lines[0]["masked_tokens"] > 2 * lines[-1]["masked_tokens"], "the rate does not go from 0.4 to 0.1"


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "back"), [("one", 1), ("one", 0), ("two", 1), ("zero2", 2)])
def test_resume_keeps_the_best_and_the_patience(
    topology: str, back: int, tmp_path: Path, small: tuple[Path, int]
) -> None:
    """Resumed before its patience is used up, it ends as it did; resumed after, it trains no more steps."""
    cache, _ = small
    arguments = (f"--corpus.source={cache / 'documents'}", *launching.PATIENT)
    more = ("--checkpoint.every=1", "--checkpoint.keep_last=4")
    whole, run = tmp_path / "whole", tmp_path / "run"
    ended = launch(whole, cache, topology, *arguments, *more)
    assert ended.returncode == 0, ended.output
    shutil.copytree(whole, run)
    (end,) = launching.metrics(whole, "end")
    assert end["stopped_early"]
    for step in range(end["step"] - back + 1, end["step"] + 1):
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    shutil.rmtree(run / "model")
    ended = launch(run, cache, topology, *arguments, *more)
    assert ended.returncode == 0, ended.output
    assert f"resuming from {run / 'checkpoints'}/step-{end['step'] - back:08d}" in ended.stdout
    (again,) = launching.metrics(run, "end")
    names = ("step", "best_step", "best_loss", "stopped_early")
    assert [again[name] for name in names] == [end[name] for name in names]
    assert launching.metrics(run, "validation") == launching.metrics(whole, "validation")
    ours, theirs = ((each / "model" / "model.safetensors").read_bytes() for each in (run, whole))
    assert ours == theirs


def test_best_on_other_validation_rows_is_not_compared(tmp_path: Path, prepared_cache: Path) -> None:
    run = tmp_path / "run"
    common = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={run}", *launching.TINY, "--logging.every=1")
    flags = (*common, "--validation.every=2", "--checkpoint.every=2", "--export.checkpoint=best")
    done = launching.here("train", *flags, "--validation.max_rows=null", "--optim.duration=2 steps")
    (start,) = launching.metrics(run, "start")
    assert start["validation_rows"] == start["validation_rows_total"] > 20
    folder = run / "checkpoints" / "step-00000002"
    again = launching.here("train", *flags, "--validation.max_rows=20", "--optim.duration=4 steps")
    assert f"resuming from {folder} at step 2" in again.log
    total = start["validation_rows_total"]
    rows = f"20 of {total:,} validation rows"
    assert f"validation is on {rows}, before it was on {total:,} of {total:,} validation rows: losses" in again.log
    assert again.result.best.rows == rows and again.result.best.step == 4
    assert done.result.best.step == 2
    (end,) = launching.metrics(run, "end")
    assert end["loss_before"] is None and end["loss_after"] == launching.metrics(run, "validation")[-1]["loss"]
    (run / "report.html").unlink()
    launching.here("report", f"--output_dir={run}", of_a_run=True)
    assert "other validation rows, up to step 2" in (run / "report.html").read_text("utf-8")
    assert f"20 of {total:,}, evenly spaced (validation.max_rows)" in (run / "report.html").read_text("utf-8")
