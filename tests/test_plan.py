"""The plan job: the spec and one table, without fetching, preparing or writing anything."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
import specs
import yaml
from rich.console import Console
from rich.table import Table

from mlm_dist import plan, plan_table, runtime
from mlm_dist.checkpoint.save import size_of_checkpoint
from mlm_dist.config import parse
from mlm_dist.engine.communication import communication
from mlm_dist.engine.device import Device
from mlm_dist.engine.launch import Launch
from mlm_dist.training import step_time, time_estimate


def test_plan_prints_the_spec_and_a_table_and_writes_nothing(tmp_path: Path, prepared_cache: Path) -> None:
    common = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", *launching.TINY)
    ended = launching.python("plan.py", *common)
    assert ended.returncode == 0, ended.output
    spec, _, table = ended.stdout.partition("Plan of ")
    printed = " ".join(table.split())
    prepared = re.search(r"prepared as (\w+)", printed)
    assert prepared is not None, ended.output
    manifest = json.loads((prepared_cache / prepared[1] / "manifest.json").read_text("utf-8"))
    assert f"{manifest['rows']['train']:,} rows" in printed
    for part in (
        "1 process on cpu, no sharding, precision fp32",
        "16 rows per step = 16 x 1 x 1",
        "s per step",
        "fits",
    ):
        assert part in printed, ended.stdout
    assert len(table.splitlines()) < 25
    values = yaml.safe_load(spec)
    assert values["phases"][0]["batch"]["micro_size"] == 16
    assert values["corpus"]["rows"]["mode"] == "pack"
    assert values["phases"][0]["length"]["steps"] == -(-8 * manifest["rows"]["train"] // 16)
    assert not (tmp_path / "run").exists()
    assert ended.stderr == ""


@pytest.mark.slow
def test_plan_under_a_launcher_prints_once_and_needs_no_process_group(prepared_cache: Path) -> None:
    """The second process ends before the first has read the config: a process group would wait for it."""
    ended = launching.accelerate(
        "cpu_2",
        "plan.py",
        *(f"--corpus.cache_dir={prepared_cache}", "--corpus.source=https://127.0.0.1:9/none.git", *launching.TINY),
        timeout=120,
    )
    assert ended.returncode == 0, ended.output
    assert ended.stdout.count("Plan of") == 1
    assert "2 processes on cpu, DDP" in ended.stdout
    assert "16 rows per step = 8 x 1 x 2" in ended.stdout
    assert "unknown until the corpus is prepared" in ended.stdout


def test_time_of_several_processes_is_an_estimate(tmp_path: Path, prepared_cache: Path) -> None:
    """One process is measured, with no process group; what two exchange is computed."""
    flags = (f"--corpus.cache_dir={prepared_cache}", f"--output_dir={tmp_path / 'run'}", *launching.TINY)
    two: dict[str, Any] = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "ACCELERATE_USE_CPU": "true",
    }
    done = launching.here("plan", *flags, **two, MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    printed = " ".join(done.log.replace("│", "").split())
    assert "2 processes on cpu, DDP" in printed and "memory, estimated" in printed
    found = re.search(
        r"about [\d.]+ \w+: ([\d.e-]+) s per step, an estimate: ([\d.e-]+) s measured on one process, and at most "
        r"([\d.e-]+) s to exchange ([\d.]+) MiB at an assumed 0.8 GB/s",
        printed,
    )
    assert found is not None, printed
    total, measured, exchanged, size = map(float, found.groups())
    assert total == pytest.approx(measured + exchanged, rel=0.02)
    assert exchanged == pytest.approx(size * 2**20 / 0.8e9, rel=0.02)


def launch_of(sharding: str, world_size: int, name: str = "NVIDIA H100 80GB HBM3") -> Launch:
    """A launch in bf16 on machines with 8 of these cards."""
    device = Device("cuda", name, 8, 80 << 30, has_bf16=True)
    stage = int(sharding[4:]) if sharding.startswith("zero") else 0
    kind = "zero" if stage else sharding
    return Launch(world_size, min(8, world_size), device, precision="bf16", sharding=kind, stage=stage)


def test_plan_on_a_gpu_counts_the_pinned_memory_of_checkpoints() -> None:
    spec = specs.spec_of(parse([*launching.TINY]))

    def rows(launch: Launch) -> str:
        table = Table()
        plan_table._add_memory(table, dataclasses.replace(spec, launch=launch))
        return " ".join(map(str, table.columns[1].cells))

    size = size_of_checkpoint(spec.shape.parameters) / 2**20
    assert f"at most {size:.3g} MiB of pinned host memory on rank 0" in rows(launch_of("ddp", 2))
    assert "pinned" not in rows(spec.launch)


# In bytes of 10^9 parameters on 8 GPUs, with 2 micro-batches per step, before the factor 7/8.
SENT = {"ddp": 8e9, "zero1": 2e9 + 2e9, "zero2": 2 * 2e9 + 2e9, "zero3": 2 * 3 * 2e9, "fsdp2": 2 * (2 * 2e9 + 4e9)}


@pytest.mark.parametrize("sharding", list(SENT))
def test_bytes_that_a_process_sends(sharding: str) -> None:
    sent = communication(launch_of(sharding, 8), 10**9, 2)
    assert sent.num_bytes == pytest.approx(7 / 8 * SENT[sharding])
    assert communication(launch_of(sharding, 1), 10**9, 2).seconds == 0


def test_bandwidth_is_that_of_the_slowest_link() -> None:
    def bandwidth(world_size: int, name: str) -> float:
        return communication(launch_of("ddp", world_size, name), 10**9, 1).bandwidth

    assert bandwidth(8, "NVIDIA H100 80GB HBM3") == pytest.approx(0.6 * 450e9)
    assert bandwidth(8, "NVIDIA L4") == bandwidth(8, "a card of tomorrow") == pytest.approx(0.6 * 32e9)
    assert bandwidth(16, "NVIDIA H100 80GB HBM3") == 12.5e9
    assert bandwidth(16, "Tesla T4") == 0.6 * 16e9


def test_plan_estimates_the_rows_of_local_files(tmp_path: Path, folder: Path) -> None:
    ended = launching.python(
        "plan.py", f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path / 'cache'}", *launching.TINY
    )
    assert ended.returncode == 0, ended.output
    assert "estimated from" in " ".join(ended.stdout.split())


def table_of(spec: Any, corpus: Any = None, num_bytes: int = 10**6, width: int = 80) -> str:
    """The table, as a terminal of this width shows it."""
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(plan_table.plan_table(spec, corpus, {"": num_bytes}))
    return buffer.getvalue()


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measured step of one second."""
    monkeypatch.setattr(step_time, "seconds_per_step", lambda spec, phase: 1.0)


def test_plan_shows_what_is_decided_and_where_the_time_goes_on_80_columns(second: None) -> None:
    spec = specs.spec_of(parse(["--optim.duration=100 steps", "--validation.every=50", *launching.TINY]))
    printed = table_of(spec)
    assert max(map(len, printed.splitlines())) <= 80
    text = " ".join(printed.replace("│", "").split())
    assert "mode pack (by a trial of the architecture): several chunks of documents in each row of 64 tokens" in text
    assert (
        "peak 0.003 (the default for this start) after a warm-up of 0.06 of all steps, then falls to 0 linearly" in text
    )
    # 10^6 bytes are 3,534 rows of 64 tokens for training and 186 for validation: three times 186 / 16 forward passes.
    assert "100 for 1,600 rows (100 steps)" in text
    assert "about 2 min: 1 s per step" in text
    assert "training 90%, validation 10% (3 times 186 rows, estimated)" in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ("--optim.lr=1e-4", "--optim.schedule=cosine"),
            "peak 0.0001 after a warm-up of 0.06 of all steps, then falls",
        ),
        (("--optim.warmup=300", "--optim.schedule=wsd"), "after 300 warm-up steps, then stays, and falls to 0 over"),
        (("--optim.warmup=0", "--optim.schedule=constant"), "without warm-up, then stays"),
        (("--rows.mode=chunk",), "mode chunk: one chunk of a document in each row"),
        (("--optim.max_grad_norm=null", "--optim.weight_decay=0"), "adamw, weight decay 0, no clipping"),
    ],
)
def test_plan_shows_the_schedule_and_the_rows(second: None, flags: tuple[str, ...], expected: str) -> None:
    spec = specs.spec_of(parse([*flags, *launching.TINY]))
    assert expected in " ".join(table_of(spec, width=200).replace("│", "").split())


def test_plan_shows_the_shares_and_the_epochs_of_each_source(second: None) -> None:
    sources = (f"--corpus.sources.{name}.source=python-docs" for name in ("own", "more", "held"))
    flags = ("--corpus.mix={own: 0.7, more: 0.3}", "--corpus.sources.held.validation_fraction=1")
    spec = specs.spec_of(parse([*sources, *flags, "--optim.duration=4 epochs", *launching.TINY]))
    buffer = io.StringIO()
    table = plan_table.plan_table(spec, None, {"own": 10**6, "more": 10**6, "held": 10**5})
    Console(file=buffer, width=200).print(table)
    text = " ".join(buffer.getvalue().replace("│", "").split())
    # 10^6 bytes are 3,534 rows of 64 tokens for training and 186 for validation.
    assert "roughly 5,049 rows, one pass over own" in text
    assert "20,194 rows (4 epochs)" in text
    assert "own: 70.0%, 3,534 rows, 4 epochs, 186 for validation" in text
    assert "more: 30.0%, 3,534 rows, 1.71 epochs, 186 for validation" in text
    assert "held: validation only, 372 rows" in text


def test_plan_shows_each_phase_and_what_changes_in_it(second: None) -> None:
    phases = [
        {"name": "stable", "duration": "100 steps", "optim": {"schedule": "constant"}},
        {"name": "long", "duration": "20 steps", "rows": {"max_length": 128}, "masking": {"probability": 0.2}},
        {"name": "decay", "duration": "10 steps", "rows": {"max_length": 128}, "masking": {"probability": 0.2}},
    ]
    spec = specs.spec_of(parse([f"--phases={json.dumps(phases)}", "--validation.every=null", *launching.TINY]))
    text = " ".join(table_of(spec, width=200).replace("│", "").split())
    assert "phase stable 100 steps for 1,600 rows (100 steps), at most 102,400 tokens" in text
    assert "phase long 20 steps for 320 rows (20 steps), at most 40,960 tokens mode pack: several chunks" in text
    assert "objective masked_lm at 0.2 of the tokens" in text
    assert "phase decay 10 steps for 160 rows (10 steps), at most 20,480 tokens learning rate peak" in text
    assert "stable 2 min; long 20 s; decay 10 s" in text


def test_plan_of_a_phase_in_hours_counts_its_hours(second: None) -> None:
    phases = [{"name": "stable", "duration": "2 hours"}, {"name": "decay", "duration": "1800 steps"}]
    spec = specs.spec_of(parse([f"--phases={json.dumps(phases)}", "--validation.every=null", *launching.TINY]))
    spec = dataclasses.replace(spec, launch=launch_of("none", 1))
    text = " ".join(table_of(spec, width=200).replace("│", "").split())
    assert "phase stable as many as fit into 2 hours mode" in text, "its tokens are not known"
    assert "about 2.5 h: stable 2 hours; decay 30 min" in text
    assert "with --topology ddp --num_processes 8: about 2.1 h, an estimate" in text, "2 hours stay 2 hours"
    found = time_estimate.estimate(spec, [None, 1800], 0)
    assert [phase.steps for phase in found.phases] == [7200, 1800]


def test_plan_of_a_source_without_rows(second: None) -> None:
    sources = (f"--corpus.sources.{name}.source=python-docs" for name in ("own", "few"))
    flags = ("--corpus.mix={own: 0.7, few: 0.3}", "--optim.duration=10 steps", *launching.TINY)
    table = plan_table.plan_table(specs.spec_of(parse([*sources, *flags])), None, {"own": 10**6, "few": 10})
    assert "few: 30.0%, 0 rows, 0 for validation" in table.columns[1].cells


def test_plan_says_what_is_usual(second: None) -> None:
    spec = specs.spec_of(parse(["--optim.duration=100 steps", *launching.TINY]))
    text = " ".join(table_of(spec, width=200).replace("│", "").split())
    assert "tokens per parameter; from random weights 20 or more are usual" in text
    continued = dataclasses.replace(spec, model=dataclasses.replace(spec.model, from_scratch=False))
    text = " ".join(table_of(continued, width=200).replace("│", "").split())
    assert "102,400 tokens; published runs that continue an encoder take 10 to 60 billion" in text
    assert "a model that continues on one source forgets others: 5% to 25% of general text is usual" in text


def test_plan_of_one_gpu_estimates_the_time_on_all_of_them(second: None) -> None:
    spec = specs.spec_of(parse(["--optim.duration=8000 steps", "--validation.every=null", *launching.TINY]))
    spec = dataclasses.replace(spec, launch=launch_of("none", 1))
    text = " ".join(table_of(spec, width=200).replace("│", "").split())
    assert "with --topology ddp --num_processes 8: about 17 min, an estimate" in text


def test_shares_of_the_time_add_up(second: None) -> None:
    spec = specs.spec_of(parse(["--validation.every=10", *launching.TINY]))
    spec = dataclasses.replace(spec, launch=launch_of("ddp", 8))
    found = time_estimate.estimate(spec, [101], 32)
    assert found.validations == 12
    assert found.validation == pytest.approx(12 * 32 / 16 / 3)
    assert found.total == pytest.approx(101 * (1 + found.phases[0].exchange) + found.validation)
    assert sum(found.shares().values()) == pytest.approx(1)
    assert list(found.shares()) == ["training", "exchange between processes", "validation"]


def test_plan_writes_the_next_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for program, words, expected in (
        ("mlm-dist plan", "my_docs --optim.duration '2 hours'", "mlm-dist train my_docs --optim.duration '2 hours'"),
        ("mlm_dist/plan.py", None, "python mlm_dist/train.py my_docs"),
        ("ipykernel", None, ""),
    ):
        monkeypatch.setattr(sys, "argv", [program, "my_docs"])
        if words is None:
            monkeypatch.delenv(runtime.COMMAND, raising=False)
        else:
            monkeypatch.setenv(runtime.COMMAND, words)
        assert plan.next_command() == expected
