"""The benchmarks still run, with models and runs too small to measure anything; what they compute of it is right."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
from launching import ROOT, Ended

sys.path.append(str(ROOT / "benchmarks"))
cards, common, contest, rivals, step_time, time_to_loss, workload = map(
    importlib.import_module, ("cards", "common", "contest", "rivals", "step_time", "time_to_loss", "workload")
)
# Small enough to end soon.
TINY = ("--vocabulary=1000", "--rounds=1")
SHORT = (*TINY, "--lengths=64")


def bench(program: str, small: tuple[Path, int], output: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark on the small corpus to its end, and read what it wrote."""
    cache = small[0]
    ended = run(program, f"--cache={cache}", f"--source={cache / 'documents'}", f"--output={output}", *arguments)
    assert ended.returncode == 0, ended.output
    found: dict[str, Any] = json.loads(output.read_text("utf-8"))
    assert found["machine"]["cores"] >= 1 and found["versions"]["torch"]
    return found


def run(program: str, *arguments: str) -> Ended:
    return launching.run([sys.executable, f"benchmarks/{program}.py", *arguments], timeout=900)


@pytest.mark.slow
def test_throughput(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--models=1x32", "--contenders=mlm-dist,trainer", "--batch=256", "--steps=1", "--peak-seconds=0.05")
    found = bench("throughput", small, tmp_path / "found.json", *SHORT, *flags)
    (case,) = found["cases"]
    assert (case["model"], case["length"], case["batch"], case["updates"]) == ("1x32", 64, 4, 1)
    ours, theirs = case["contenders"]["mlm-dist"], case["contenders"]["trainer"]
    speeds = [one["tokens_per_second"]["median"] for one in (ours, theirs)]
    assert theirs["times_faster"]["median"] == pytest.approx(speeds[0] / speeds[1])
    needed = workload.shape("1x32", 1000).flops_per_token(64)
    assert ours["share_of_peak"] == pytest.approx(speeds[0] * needed / found["gemm_peak_flops"]["bf16"])
    assert theirs["peak_precision"] == "fp32" and theirs["peak_memory_bytes"] > 2**26


@pytest.mark.slow
def test_throughput_of_all_contenders_with_the_search(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--models=1x32", "--batch=256", "--steps=1", "--peak-seconds=0.05")
    found = bench("throughput", small, tmp_path / "found.json", *SHORT, *flags)
    assert set(found["cases"][0]["contenders"]) == {"mlm-dist", "trainer", "tuned", "plain"}
    tried = found["cases"][0]["tried"]
    assert len(tried) >= 4 and all(isinstance(rate, float) for rate in tried.values()), tried


@pytest.mark.slow
def test_time_to_loss(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--model=1x32", "--epochs=2", "--", "--optim.warmup=0")
    found = bench("time_to_loss", small, tmp_path / "found.json", *TINY, *flags)
    (one,) = found["rounds"]
    assert one["ours"][0]["seconds"] == 0 and len(one["ours"]) > 1
    assert found["keys"] == ["--optim.warmup=0"]
    for held_out in ("first", "whole"):
        losses = [point["losses"][held_out] for point in one["ours"]]
        assert losses[0] > 5  # random weights know nothing
        assert losses[-1] < losses[0] and found["held_out"][held_out]["loss_at_start"] == losses[0]


@pytest.mark.slow
def test_quality(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--model=1x32", "--quality", "--tokens=8000", "--seeds=2", "--vocabulary=1000")
    found = bench("time_to_loss", small, tmp_path / "found.json", *flags)
    whole = found["held_out"]["whole"]
    assert len(whole["fast"]) == len(whole["slow"]) == 2
    assert whole["difference"][0] == pytest.approx((sum(whole["fast"]) - sum(whole["slow"])) / 2)


@pytest.mark.slow
def test_recipes(small: tuple[Path, int], tmp_path: Path) -> None:
    """More work teaches more, and a recipe that is refused is named."""
    flags = ("--model=1x32", "--length=64", "--vocabulary=1000", "--seeds=2", "--recipes=chunk,pack,whole words")
    found = {
        work: bench("recipes", small, tmp_path / f"{work}.json", *flags, f"--work={work}")["sources"]
        for work in ("2e8", "2e9")
    }
    for source, more in zip(found["2e8"].values(), found["2e9"].values(), strict=True):
        assert set(source["recipes"]) == {"chunk", "pack", "whole words"}
        for name, one in source["recipes"].items():
            assert len(one["seeds"]) == 2
            longer = more["recipes"][name]["seeds"]
            assert all(b["per_character"] < a["per_character"] for a, b in zip(one["seeds"], longer, strict=True))


@pytest.mark.slow
def test_loader(small: tuple[Path, int], tmp_path: Path) -> None:
    found = bench("loader", small, tmp_path / "found.json", *SHORT, "--batch=8", "--tokens=2000")
    contenders = found["cases"][0]["contenders"]
    assert len(contenders) == 7 and all(one["tokens_per_second"]["min"] > 0 for one in contenders.values())


@pytest.mark.slow
def test_scaling(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--model=1x32", "--length=64", "--rows=4", "--lines=1")
    found = bench("scaling", small, tmp_path / "found.json", *TINY, *flags)
    assert set(found["tokens_per_second"]) == {"1 process", "cpu_2, weak", "cpu_2, strong"}
    assert found["all_reduce_seconds"] > 0 and found["fitted"]["bandwidth"] > 0


def gpu(small: tuple[Path, int], output: Path, *arguments: str) -> dict[str, Any]:
    parts: dict[str, Any] = bench("gpu", small, output, "--dry-run", "--lengths=64", *arguments)["parts"]
    for cases in parts.values():
        assert all("error" not in found for found in cases.values()), cases
    return parts


@pytest.mark.slow
def test_gpu_goes_on_where_it_was_cut_short(small: tuple[Path, int], tmp_path: Path) -> None:
    """Two parts, one after the other, in one file; a case that is there is not measured again."""
    output = tmp_path / "gpu.json"
    first = gpu(small, output, "--parts=peak")
    there = json.loads(output.read_text("utf-8"))
    there["parts"]["throughput"] = {
        f"1x32, 64 tokens, {name}": {"tokens_per_second": {"median": speed}, "flops_per_token": 10.0}
        for name, speed in {
            **{f"mlm-dist, compile {how}": 100.0 for how in ("none", "regional", "whole")},
            "Trainer tuned": 25.0,
        }.items()
    }
    output.write_text(json.dumps(there), "utf-8")
    parts = gpu(small, output, "--parts=throughput")
    assert parts["peak"] == first["peak"]
    found = parts["throughput"]
    notebook = found["1x32, 64 tokens, Trainer as the notebook has it"]
    assert notebook["tokens_per_second"]["median"] > 0 and notebook["rows"] == 2
    whole = found["1x32, 64 tokens, mlm-dist, compile whole"]
    assert whole["times_faster_than"]["Trainer tuned"] == 4
    assert whole["model_flop_utilisation"] == pytest.approx(100 * 10 / max(parts["peak"]["gemm"].values()))


@pytest.mark.slow
def test_gpu_in_all_its_parts(small: tuple[Path, int], tmp_path: Path) -> None:
    parts = gpu(small, tmp_path / "gpu.json")
    assert set(parts) == {"peak", "throughput", "ablation", "packed", "sharding", "losses"}
    assert len(parts["throughput"]) == 5 and len(parts["ablation"]) == 4 and len(parts["packed"]) == 3
    assert all(found["agrees"] for found in parts["losses"].values())
    speeds = [found["tokens_per_second"]["median"] for found in parts["sharding"].values()]
    assert len(speeds) == 2 and min(speeds) > 0


def test_cards_are_known_by_their_names() -> None:
    known = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-40GB": 312e12, "Tesla T4": 65e12, "NVIDIA L4": 121e12}
    assert {name: cards.vendor_peak(name) for name in known} == known
    assert cards.vendor_peak("NVIDIA L40S") is None and cards.vendor_peak("NVIDIA H100 PCIe") is None


def test_the_model_of_larger_machines_is_printed() -> None:
    ended = run("scaling", "--predict", "--model=2x128", "--processes=4")
    assert ended.returncode == 0, ended.output
    assert "not a measurement" in ended.stdout and "ZeRO-3" in ended.stdout


def test_an_unknown_contender_is_refused() -> None:
    ended = run("throughput", "--contenders=mlm-dist,trainner")
    assert ended.returncode == 2 and "trainner is none of" in ended.stderr


@pytest.mark.parametrize("name", ["bert-base", "6x384", "2x128", "1x32"])
def test_shapes_have_as_many_parameters_as_they_say(name: str) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    shape = workload.shape(name)
    with torch.device("meta"):
        model = BertForMaskedLM(BertConfig(**shape.overrides))
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.num_parameters


def test_needed_work_of_bert_base() -> None:
    # 12 layers of 12 x 768^2 weights, 6 FLOPs each; attention over 128; 15% of the positions through the head.
    work = workload.shape("bert-base").flops_per_token(128)
    assert work == 6 * 12 * 12 * 768**2 + 12 * 12 * 768 * 128 + 6 * 0.15 * (768 * 30522 + 768**2)


def test_ratios_are_taken_round_by_round() -> None:
    # The machine was half as fast in the second round: the ratio does not change.
    assert common.ratios([10.0, 5.0, 12.0], [5.0, 2.5, 4.0]) == (2.0, 2.0, 3.0)


def test_when_a_loss_was_reached() -> None:
    def point(seconds: float, loss: float) -> Any:
        return rivals.Point(seconds, {"first": loss})

    curve = [point(0.0, 9.0), point(10.0, 7.0), point(20.0, 6.0), point(30.0, 6.5)]
    assert time_to_loss.Round(point(80.0, 6.0), curve).share_of_time("first") == 0.25
    assert time_to_loss.Round(point(80.0, 5.9), curve).share_of_time("first") == math.inf


def test_the_model_counts_bytes_as_the_papers_do() -> None:
    shape = workload.shape("bert-base")
    hardware = step_time.Hardware(flops=1e12, memory=1e12, bandwidth=1.0, latency=0.0, overlap=0.0)
    sent = [step_time.predict(shape, 128, 1, 4, stage, hardware).communication for stage in range(4)]
    bf16 = 2 * shape.num_parameters * 3 / 4
    assert sent == pytest.approx([2 * 2 * bf16, 2 * bf16, 2 * bf16, 3 * bf16])
    assert step_time.predict(shape, 128, 1, 1, 0, hardware).communication == 0


def test_fitted_parameters_reproduce_what_they_were_fitted_to() -> None:
    shape = workload.shape("6x384")
    fitted = step_time.fit(shape, 128, 16, 800.0, 1400.0, 0.5, 1e10)
    for processes, speed in ((1, 800.0), (2, 1400.0)):
        total = step_time.predict(shape, 128, 16, processes, 0, fitted).total
        assert processes * 16 * 128 / total == pytest.approx(speed)


def test_a_contender_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(contest.Failed, match="ValueError: invalid literal"):
        contest.apart(int, "three", log=tmp_path / "log")
