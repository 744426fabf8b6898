"""The benchmarks run, with models and runs too small to measure anything, and compute the right figures."""

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
from making import made_up_prose
from transformers import AutoTokenizer, BertConfig, BertModel

sys.path.append(str(ROOT / "benchmarks"))
MODULES = (
    *("common", "cost_model", "gpu_cases", "gpu_results", "loss_curves", "processes"),
    *("startup_parts", "step_time", "time_to_loss", "workload"),
)
common, cost_model, gpu_cases, gpu_results, loss_curves, processes, startup_parts, step_time, time_to_loss, workload = (
    map(importlib.import_module, MODULES)
)
TINY = ("--vocabulary=1000", "--rounds=1")
SHORT = (*TINY, "--lengths=64")


def bench(program: str, small: tuple[Path, int], output: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark on the small corpus, and read its results."""
    cache = small[0]
    ended = run(program, f"--cache={cache}", f"--source={cache / 'documents'}", f"--output={output}", *arguments)
    assert ended.returncode == 0, ended.output
    results: dict[str, Any] = json.loads(output.read_text("utf-8"))
    assert results["machine"]["cores"] >= 1 and results["versions"]["torch"]
    return results


def run(program: str, *arguments: str) -> Ended:
    return launching.run([sys.executable, f"benchmarks/{program}.py", *arguments], timeout=900)


@pytest.mark.slow
def test_throughput(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--models=1x32", "--systems=mlm-dist,trainer", "--batch=256", "--steps=1", "--peak-seconds=0.05")
    results = bench("throughput", small, tmp_path / "results.json", *SHORT, *flags)
    (case,) = results["cases"]
    assert (case["model"], case["length"], case["batch"], case["steps"]) == ("1x32", 64, 4, 1)
    mlm_dist, trainer = case["systems"]["mlm-dist"], case["systems"]["trainer"]
    speeds = [system["tokens_per_second"]["median"] for system in (mlm_dist, trainer)]
    assert trainer["speedup"]["median"] == pytest.approx(speeds[0] / speeds[1])
    required = workload.shape("1x32", 1000).flops_per_token(64)
    assert mlm_dist["share_of_peak"] == pytest.approx(speeds[0] * required / results["gemm_peak_flops"]["bf16"])
    assert trainer["peak_precision"] == "fp32" and trainer["peak_memory_bytes"] > 2**26


@pytest.mark.slow
def test_throughput_of_all_systems_with_the_search_of_settings(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--models=1x32", "--batch=256", "--steps=1", "--peak-seconds=0.05")
    (case,) = bench("throughput", small, tmp_path / "results.json", *SHORT, *flags)["cases"]
    assert set(case["systems"]) == {"mlm-dist", "trainer", "tuned", "plain"}
    tried = case["tried"]
    assert len(tried) >= 4 and all(isinstance(rate, float) for rate in tried.values()), tried


@pytest.mark.slow
def test_time_to_loss(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--model=1x32", "--epochs=2", "--", "--optim.warmup=0")
    results = bench("time_to_loss", small, tmp_path / "results.json", *TINY, *flags)
    (one,) = results["rounds"]
    curve = one["mlm-dist"]
    assert curve[0]["seconds"] == 0 and len(curve) > 1
    assert results["flags"] == ["--optim.warmup=0"]
    for part in ("first", "whole"):
        losses = [point["losses"][part] for point in curve]
        assert losses[0] > 5  # random weights
        assert losses[-1] < losses[0] and results["validation"][part]["loss_at_start"] == losses[0]


@pytest.mark.slow
def test_quality(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--model=1x32", "--quality", "--tokens=8000", "--seeds=2", "--vocabulary=1000")
    whole = bench("time_to_loss", small, tmp_path / "results.json", *flags)["validation"]["whole"]
    assert len(whole["fast"]) == len(whole["slow"]) == 2
    assert whole["difference"][0] == pytest.approx((sum(whole["fast"]) - sum(whole["slow"])) / 2)


@pytest.mark.slow
def test_head_initialization(small: tuple[Path, int], tmp_path: Path) -> None:
    """On a tiny encoder: the naive head starts by guessing, the other one at the unigram baseline."""
    tokenizer = AutoTokenizer.from_pretrained(next(small[0].glob("*/tokenizer")))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes)
    encoder = BertModel(config, add_pooling_layer=False)
    encoder.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    flags = (f"--model={tmp_path / 'encoder'}", "--steps=4", "--every=2", "--seeds=2", "--validation=0.3")
    seeds = bench("head_initialization", small, tmp_path / "results.json", *flags)["seeds"]
    assert len(seeds) == 2
    for one in seeds:
        assert set(one["naive"]) == {"0", "4"} and one["naive"]["0"] == pytest.approx(math.log(len(tokenizer)), abs=0.3)
        assert one["ours"]["0"] == pytest.approx(one["unigram_loss"], abs=0.3) and one["ours"]["0"] < one["naive"]["0"]


@pytest.fixture
def guides(small: tuple[Path, int], tmp_path: Path) -> tuple[Path, Path]:
    """Documents with titles in three folders, and a tiny encoder."""
    for i in range(36):
        sections = [f"## Part {i} {j}\n\n{made_up_prose(10 * i + j, 8)}\n\n" for j in range(3)]
        path = tmp_path / "guides" / "abc"[i % 3] / f"{i}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Guide {i} of things\n\n{made_up_prose(1000 + i, 8)}\n\n{''.join(sections)}", "utf-8")
    tokenizer = AutoTokenizer.from_pretrained(next(small[0].glob("*/tokenizer")))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    return tmp_path / "guides", tmp_path / "encoder"


@pytest.mark.slow
def test_contrastive(small: tuple[Path, int], guides: tuple[Path, Path], tmp_path: Path) -> None:
    flags = (f"--model={guides[1]}", "--length=64", "--batch=4", "--steps=1", "--rounds=2")
    output = tmp_path / "results.json"
    ended = run("contrastive", *flags, f"--source={guides[0]}", f"--cache={small[0]}", f"--output={output}")
    assert ended.returncode == 0, ended.output
    results = json.loads(output.read_text("utf-8"))
    rates = results["pairs_per_second"]
    assert {name: len(rounds) for name, rounds in rates.items()} == {"mlm-dist": 2, "sentence-transformers": 2}
    ratios = [a / b for a, b in zip(*rates.values(), strict=True)]
    assert results["ratio"]["min"] == pytest.approx(min(ratios))


@pytest.mark.slow
def test_worth(guides: tuple[Path, Path], tmp_path: Path) -> None:
    """Each recipe is trained once, and judged on the same queries as BM25 and the start."""
    flags = (str(guides[0]), f"--start={guides[1]}", f"--folder={tmp_path / 'work'}", f"--output={tmp_path / 'r.json'}")
    ended = run("worth", *flags, "--recipes=embed,MLM 0.25M tokens")
    assert ended.returncode == 0, ended.output
    one = json.loads((tmp_path / "r.json").read_text("utf-8"))["corpora"]["guides"]
    assert one["documents"] == 36 and one["queries"] >= 10
    recipes = one["recipes"]
    assert list(recipes) == ["start", "embed", "MLM 0.25M tokens"]
    assert recipes["start"]["against_start"]["mean"] == 0
    for recipe in recipes.values():
        assert recipe["against_bm25"]["mean"] == pytest.approx(recipe["ndcg"] - one["bm25"])
        assert 0 <= recipe["accuracy"] <= 1 and set(recipe["of_kinds"]) == {"title", "half"}
    judged = tmp_path / "work" / "judged" / "guides" / "embed-0.json"
    before = judged.stat().st_mtime_ns
    assert run("worth", *flags, "--recipes=embed").returncode == 0
    assert judged.stat().st_mtime_ns == before, "what is written is not trained again"


@pytest.mark.slow
def test_first_result(small: tuple[Path, int], tmp_path: Path) -> None:
    """Longer training gives a lower loss, with each variant."""
    flags = ("--seeds=2", "--variants=modernbert-tiny,bert-tiny")
    results = [
        bench("first_result", small, tmp_path / f"{steps}.json", *flags, f"--duration={steps} steps")["variants"]
        for steps in (2, 40)
    ]
    for name, short in results[0].items():
        longer = results[1][name]
        assert len(short) == 2 and all(b["loss"] < a["loss"] for a, b in zip(short, longer, strict=True))
        assert all(0 <= one["words"] <= one["examples"] for one in longer)


@pytest.mark.slow
def test_recipes(small: tuple[Path, int], tmp_path: Path) -> None:
    """More compute gives a lower loss."""
    flags = ("--model=1x32", "--length=64", "--vocabulary=1000", "--seeds=2", "--recipes=chunk,pack,whole words")
    results = {
        work: bench("recipes", small, tmp_path / f"{work}.json", *flags, f"--work={work}")["sources"]
        for work in ("2e8", "2e9")
    }
    for source, more in zip(results["2e8"].values(), results["2e9"].values(), strict=True):
        assert set(source["recipes"]) == {"chunk", "pack", "whole words"}
        for name, one in source["recipes"].items():
            assert len(one["seeds"]) == 2
            longer = more["recipes"][name]["seeds"]
            assert all(b["per_character"] < a["per_character"] for a, b in zip(one["seeds"], longer, strict=True))


@pytest.mark.slow
def test_loader(small: tuple[Path, int], tmp_path: Path) -> None:
    (case,) = bench("loader", small, tmp_path / "results.json", *SHORT, "--batch=8", "--tokens=2000")["cases"]
    systems = case["systems"]
    assert len(systems) == 7 and all(system["tokens_per_second"]["min"] > 0 for system in systems.values())


@pytest.mark.slow
def test_scaling(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--model=1x32", "--length=64", "--rows=4", "--lines=1")
    results = bench("scaling", small, tmp_path / "results.json", *TINY, *flags)
    assert set(results["tokens_per_second"]) == {"1 process", "cpu_2, weak", "cpu_2, strong"}
    assert results["all_reduce_seconds"] > 0 and results["fitted"]["bandwidth"] > 0


@pytest.mark.slow
def test_preparation(small: tuple[Path, int], tmp_path: Path) -> None:
    documents, output = small[0] / "documents", tmp_path / "results.json"
    flags = ("--mb=0.2", "--runs=1", f"--folder={tmp_path}", f"--output={output}")
    ended = run("prepare", f"--source={documents}", *flags)
    assert ended.returncode == 0, ended.output
    results = json.loads(output.read_text("utf-8"))["comparison, documents"]
    assert set(results["notebook"]["systems"]) == {"notebook", "mlm-dist", "mlm-dist, fast extra"}
    assert len(results["stages"]["systems"]) == 5
    assert set(results["processes"]["systems"]) == {"one process", "two processes"}


@pytest.mark.slow
def test_scale(small: tuple[Path, int], tmp_path: Path) -> None:
    source, output = small[0] / "documents", tmp_path / "results.json"
    flags = ("--short", "200", "600", "--long", "20", "--check", "800", f"--folder={tmp_path}", f"--output={output}")
    ended = run("scale", f"--source={source}", *flags)
    assert ended.returncode == 0, ended.output
    results = json.loads(output.read_text("utf-8"))
    stages = {"files", "documents", "tokenizer", "selection", "rows", "publish", "restart"}
    assert set(results["seconds"]) == set(results["memory"]) == set(results["check"]["model"]) == stages
    assert [case["workers"] for case in results["cases"]] == [1, 1, 1, 2, 2]
    kept = results["check"]["measured"]["stages"]["restart"]["documents"]
    assert 0.7 * 800 < kept < 0.9 * 800  # a fifth are duplicates, and some of the others are held out
    hours = results["extrapolated"]["10^9 documents, 10 TB"]["rows"]["hours"]
    assert hours["100"] == pytest.approx(10 * hours["1000"])
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    ended = run("checkpoint", "--parameters=2", "--runs=1", f"--folder={tmp_path}", f"--output={output}")
    assert ended.returncode == 0, ended.output
    results = json.loads(output.read_text("utf-8"))
    assert results["bytes"] == 2 * 12 * 10**6 and results["hold_seconds"] > 0


@pytest.mark.slow
def test_activation_memory(small: tuple[Path, int], tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    flags = ("--model=bert-tiny", "--overrides={}", "--max-length=64", "--global-size=4", "--precision=no")
    ended = run("activation_memory", f"--source={small[0] / 'documents'}", *flags, f"--output={output}")
    assert ended.returncode == 0, ended.output
    none, layers = json.loads(output.read_text("utf-8"))["results"]
    assert (none["checkpointing"], layers["checkpointing"]) == ("none", "layers")
    assert none["losses"] == layers["losses"] and len(none["losses"]) == 3
    assert none["peak_bytes"] > 100 << 20 and none["estimated_bytes"] > layers["estimated_bytes"]


@pytest.mark.slow
def test_operators() -> None:
    """No attention with a mask, and no graph break, in packed rows with attention dropout."""
    ended = run("operators", "--models", "BERT-base", "--json")
    assert ended.returncode == 0, ended.output
    (found,) = json.loads(ended.stdout).values()
    assert found["eager"]["attention with a mask"] == 0 and found["eager"]["operators"] > 100
    assert found["regional"]["graph breaks"] == 0 and found["regional"]["graphs"] > 0


@pytest.mark.slow
def test_startup_of_two_checkouts(small: tuple[Path, int], tmp_path: Path) -> None:
    flags = ("--rounds=1", f"--checkout={ROOT}", "--flags=--optim.duration '3 steps'", "--", *launching.TINY)
    results = bench("startup", small, tmp_path / "results.json", *flags)
    for job, last in (("train", "first step"), ("plan", "time of a step")):
        assert set(results[job]["checkouts"]) == {"this checkout", "other checkout"}
        assert all(one["seconds"]["value"]["min"] > 0 for one in results[job]["checkouts"].values())
        parts = results[job]["parts"]
        assert next(iter(parts)) == startup_parts.IMPORTS and list(parts)[-1] == last
        assert {"flags", "resolve", "corpus"} < set(parts)
    assert {"model", "engine", "memory trial", "validation before the first step"} < set(results["train"]["parts"])


def test_a_part_inside_another_counts_for_itself_only(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2.0, 3.0, 6.0, 10.0, 11.0])
    monkeypatch.setattr(startup_parts.time, "perf_counter", lambda: next(times))
    parts = startup_parts.Parts(began=0.0)
    with parts.part("outer"), parts.part("inner"):
        pass
    assert parts.end() == {startup_parts.IMPORTS: 2.0 + 1.0, "outer": 1.0 + 4.0, "inner": 3.0}


def gpu(cache: Path, output: Path, *arguments: str) -> dict[str, Any]:
    """The cases of a dry run of benchmarks/gpu.py, none of which fails."""
    flags = ("--quick", "--dry-run", "--minutes=60", f"--cache={cache}", f"--output={output}")
    ended = run("gpu", *flags, *arguments)
    assert ended.returncode == 0, ended.output
    found: dict[str, Any] = json.loads(output.read_text("utf-8"))["cases"]
    return found


@pytest.fixture(scope="module")
def gpu_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


QUICK = [case for case in gpu_cases.cases() if case.is_quick]


@pytest.mark.slow
@pytest.mark.parametrize("part", sorted({case.part for case in QUICK}))
def test_dry_run_covers_every_quick_case(part: str, gpu_cache: Path, tmp_path: Path) -> None:
    parts = {"facts", part} if part == "speed" else {part}  # utilization needs the peak among the facts
    found = gpu(gpu_cache, tmp_path / "gpu.json", f"--cases={','.join(parts)}")
    assert set(found) == {case.name for case in QUICK if case.part in parts}
    found = {case.name: found[case.name] for case in QUICK if case.part == part}
    for result in found.values():
        assert not gpu_results.failed(result), result
    check = CHECKS.get(part)
    assert check is None or all(map(check, found.values())), found


# What the results of a part hold.
CHECKS: dict[str, Any] = {
    "facts": lambda one: one["measured_flops"]["bf16"] > 0 and one["has_bf16"],
    "kernel": lambda one: {"bert", "roberta", "modernbert"} <= set(one) and one["bert"]["difference_of_gradients"] > 0,
    "run": lambda one: len(one["losses"]) == 20 and all(one["checks"].values()) and one["moments"] > 0,
    "stop": lambda one: one["exit_code"] == 75 and one["checkpoints"],
    "speed": lambda one: (
        all(one[how]["tokens_per_second"] > 0 and one[how]["estimated_bytes"] > 0 for how in ("none", "regional"))
        and one["none"]["model_flop_utilization"] > 0
    ),
    "fit": lambda one: one["rows"] * one["accumulation"] == one["asked_rows"] and one["rows"] < one["asked_rows"],
    "fp16": lambda one: one["skipped_steps"] == 1,
    "save": lambda one: one["hold_seconds"] > 0,
    "trainer": lambda one: one["trainer"]["tokens_per_second"]["median"] > 0,
}


@pytest.mark.slow
def test_gpu_measures_only_missing_cases_and_stops_at_the_clock(gpu_cache: Path, tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    gpu(gpu_cache, output, "--cases=facts")
    before = output.read_text("utf-8")
    flags = ("--quick", "--dry-run", f"--cache={gpu_cache}", f"--output={output}")
    assert "facts" not in run("gpu", *flags, "--cases=facts").stdout
    ended = run("gpu", *flags, "--minutes=0.00001", "--cases=facts,save", "--again")
    assert output.read_text("utf-8") == before and ended.stdout.count("no time left") == 2, ended.output


def test_cases_of_gpu_are_ordered_and_named_once() -> None:
    names = [case.name for case in gpu_cases.cases()]
    assert len(set(names)) == len(names)
    assert {case.part for case in gpu_cases.cases()} == set(gpu_cases.PARTS) == {case.part for case in QUICK}
    assert names[:3] == ["facts", "kernel", "run, one device"]


def test_results_of_gpu_that_differ_or_wait_are_failures() -> None:
    good = {"losses": [1.0], "agrees": True, "regional": {"waits_for_the_device": ""}}
    assert not gpu_results.failed(good)
    assert gpu_results.failed(good | {"agrees": False}) and gpu_results.failed({"error": "no memory"})
    assert gpu_results.failed({"regional": {"waits_for_the_device": "a synchronizing operation"}})
    assert gpu_results.compared([1.0, 2.0], [1.0, 2.0005])["agrees"]
    assert not gpu_results.compared([1.0, 2.0], [1.0, 2.002])["agrees"]


@pytest.mark.parametrize("length", [512, 8192])
def test_required_flops_of_bert_and_modernbert(length: int) -> None:
    from transformers import BertConfig, ModernBertConfig

    assert workload.required_flops(BertConfig(), length, packed=False) == workload.shape("bert-base").flops_per_token(
        length
    )
    # 22 layers of 4 x 768^2 + 3 x 768 x 1152 weights; 8 attend to the whole row, 14 to 128 tokens.
    found = workload.required_flops(ModernBertConfig(), length, packed=False)
    head = 6 * 0.15 * (768 * 50368 + 768**2)
    weights = 6 * 22 * (4 * 768**2 + 3 * 768 * 1152)
    assert found == pytest.approx(weights + 12 * 768 * (8 * length + 14 * 128) + head)
    assert workload.required_flops(ModernBertConfig(), length, packed=True) == pytest.approx(weights + head)


def test_cost_model_is_fitted_to_corpora_of_two_lengths() -> None:
    amounts = [cost_model.Amount(n, n * size) for n in (1e5, 1e6) for size in (4e-4, 1e-2)]
    true = cost_model.CostModel(2.0, 9e-5, 0.03)
    found = cost_model.fit(amounts, [*map(true, amounts)])
    assert (found.constant, found.per_document, found.per_megabyte) == pytest.approx((2.0, 9e-5, 0.03))
    falling = cost_model.fit(amounts, [10.0, 9.0, 8.0, 7.0])
    assert min(falling.constant, falling.per_document, falling.per_megabyte) >= 0


def test_prediction_for_larger_machines() -> None:
    hardware = ("--flops=4e14", "--memory=3e12", "--bandwidth=2e11", "--latency=5e-6", "--overlap=0.9")
    ended = run("scaling", "--predict", "--model=2x128", "--processes=4", *hardware)
    assert ended.returncode == 0, ended.output
    assert "not a measurement" in ended.stdout and "ZeRO-3" in ended.stdout


def test_prediction_without_measured_values_is_refused() -> None:
    ended = run("scaling", "--predict", "--flops=4e14", "--memory=3e12", "--overlap=0.9")
    assert ended.returncode == 2 and "--predict needs --bandwidth, --latency:" in ended.stderr


def test_an_unknown_system_is_refused() -> None:
    ended = run("throughput", "--systems=mlm-dist,trainner")
    assert ended.returncode == 2 and "trainner is not one of" in ended.stderr


@pytest.mark.parametrize("name", ["bert-base", "6x384", "2x128", "1x32"])
def test_number_of_parameters_of_a_shape(name: str) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    shape = workload.shape(name)
    with torch.device("meta"):
        model = BertForMaskedLM(BertConfig(**shape.overrides))
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.num_parameters


def test_required_flops_of_bert_base() -> None:
    # 12 layers of 12 x 768^2 weights, 6 FLOPs each; attention over 128; 15% of the positions through the head.
    required = workload.shape("bert-base").flops_per_token(128)
    assert required == 6 * 12 * 12 * 768**2 + 12 * 12 * 768 * 128 + 6 * 0.15 * (768 * 30522 + 768**2)


def test_ratios_are_per_round() -> None:
    # In the second round the machine is half as fast; the ratio stays the same.
    assert common.ratios([10.0, 5.0, 12.0], [5.0, 2.5, 4.0]) == (2.0, 2.0, 3.0)


def test_share_of_time_to_reach_a_loss() -> None:
    def point(seconds: float, loss: float) -> Any:
        return loss_curves.Point(seconds, {"first": loss})

    curve = [point(0.0, 9.0), point(10.0, 7.0), point(20.0, 6.0), point(30.0, 6.5)]
    assert time_to_loss.Round(point(80.0, 6.0), curve).share_of_time("first") == 0.25
    assert time_to_loss.Round(point(80.0, 5.9), curve).share_of_time("first") == math.inf


def test_communicated_bytes_are_those_of_the_zero_paper() -> None:
    shape = workload.shape("bert-base")
    hardware = step_time.Hardware(flops=1e12, memory=1e12, bandwidth=1.0, latency=0.0, overlap=0.0)
    sent = [step_time.predict(shape, 128, 1, 4, stage, hardware).communication for stage in range(4)]
    bf16 = 2 * shape.num_parameters * 3 / 4
    assert sent == pytest.approx([2 * 2 * bf16, 2 * bf16, 2 * bf16, 3 * bf16])
    assert step_time.predict(shape, 128, 1, 1, 0, hardware).communication == 0


def test_fitted_hardware_reproduces_the_measurements() -> None:
    shape = workload.shape("6x384")
    fitted = step_time.fit(shape, 128, 16, 800.0, 1400.0, 0.5, 1e10)
    for processes, speed in ((1, 800.0), (2, 1400.0)):
        total = step_time.predict(shape, 128, 16, processes, 0, fitted).total
        assert processes * 16 * 128 / total == pytest.approx(speed)


def test_error_of_a_process_names_its_cause(tmp_path: Path) -> None:
    with pytest.raises(processes.ProcessError, match="ValueError: invalid literal"):
        processes.call(int, "three", log=tmp_path / "log")
