"""A second objective, registered from a file of its own, trains through the same loop, step, checkpoint and export."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import launching
import pytest

from mlm_dist.objectives import OBJECTIVES

# Every run of this file registers the objective as a package would: by an entry point.
DECLARATION = "[mlm_dist.objectives]\ntwo_terms = two_terms:TwoTerms\n"
STEPS = 12
FLAGS = ("--objective=two_terms", *launching.SHORT)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The environment in which a package with the objective is installed."""
    place = tmp_path_factory.mktemp("package")
    (place / "two_terms.py").write_bytes(Path(__file__).with_name("two_terms.py").read_bytes())
    about = place / "two_terms-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: two-terms\nVersion: 1.0\n", "utf-8")
    (about / "entry_points.txt").write_text(DECLARATION, "utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(place), str(launching.ROOT)])}


@pytest.fixture(scope="module")
def trained(package: dict[str, Any], prose: Path, tmp_path_factory: pytest.TempPathFactory, one_core: None) -> Path:
    """A run of one process."""
    run = tmp_path_factory.mktemp("trained") / "run"
    ended = launching.python("train.py", *FLAGS, *corpus(prose), f"--output_dir={run}", **package)
    assert ended.returncode == 0, ended.output
    return run


def corpus(prose: Path) -> tuple[str, str]:
    return f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}"


def losses(run: Path, after: int = 0) -> list[float]:
    lines = [line for line in launching.metrics(run, "train") if line["step"] > after]
    return [line[name] for line in lines for name in ("loss", "loss_tokens", "loss_rows")]


def test_it_trains_on_both_terms_and_validates(trained: Path) -> None:
    lines = launching.metrics(trained, "train")
    assert lines[-1]["step"] == STEPS
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_tokens"] + line["loss_rows"])
    assert lines[-1]["loss_tokens"] < lines[0]["loss_tokens"] and lines[-1]["loss_rows"] < lines[0]["loss_rows"]
    first, *_, last = launching.metrics(trained, "validation")
    assert last["loss"] < first["loss"]
    # Each sum is divided by its own count: without training, the row head gives all classes the same probability.
    assert lines[0]["loss_rows"] == pytest.approx(math.log(4), abs=0.1)
    assert launching.metrics(trained, "start")[0]["objective"] == "two_terms"


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(
    trained: Path, package: dict[str, Any], prose: Path, tmp_path: Path
) -> None:
    ended = launching.accelerate("cpu_2", "train.py", *FLAGS, *corpus(prose), f"--output_dir={tmp_path}", **package)
    assert ended.returncode == 0, ended.output
    assert losses(tmp_path) == pytest.approx(losses(trained), rel=1e-5)
    found, expected = ([line["loss"] for line in launching.metrics(run, "validation")] for run in (tmp_path, trained))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_resumed_run_has_the_same_losses(trained: Path, package: dict[str, Any], prose: Path, tmp_path: Path) -> None:
    resume = f"--checkpoint.resume={trained / 'checkpoints' / 'step-00000006'}"
    ended = launching.python("train.py", *FLAGS, *corpus(prose), resume, f"--output_dir={tmp_path}", **package)
    assert ended.returncode == 0, ended.output
    assert losses(tmp_path) == losses(trained, after=6)


def test_checkpoints_hold_both_heads_and_the_exported_model_only_its_own(trained: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoModelForMaskedLM

    with safe_open(str(trained / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"), "pt") as checkpoint:
        assert checkpoint.get_tensor("head.weight").abs().sum() > 0
        embeddings = checkpoint.get_tensor("model.model.embeddings.tok_embeddings.weight")
    model, report = AutoModelForMaskedLM.from_pretrained(trained / "model", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert bool((model.get_input_embeddings().weight == embeddings).all())


@pytest.mark.slow
def test_the_export_and_validate_jobs_work(trained: Path, package: dict[str, Any]) -> None:
    for job in ("export.py", "validate.py"):
        ended = launching.python(job, f"--output_dir={trained}", "--validation.model=checkpoint", **package)
        assert ended.returncode == 0, ended.output
    figures = json.loads((trained / "validation.json").read_text("utf-8"))
    assert figures["loss"] == pytest.approx(launching.metrics(trained, "validation")[-1]["loss"], rel=1e-5)


def test_an_unknown_objective_is_refused_with_the_names(package: dict[str, Any], tmp_path: Path) -> None:
    ended = launching.python("train.py", "--objective=three_terms", f"--output_dir={tmp_path}", **package)
    assert ended.returncode == 2
    assert (
        ended.stderr.strip()
        == "error: objective: three_terms is not known; choose from masked_lm, causal_lm, contrastive, "
        "contrastive_masked_lm, two_terms"
    )


def test_a_script_registers_an_objective_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OBJECTIVES, "_entries", dict(OBJECTIVES._entries))
    OBJECTIVES.add("mine", "two_terms:TwoTerms")
    assert "mine" in OBJECTIVES and OBJECTIVES.names()[:2] == ["masked_lm", "causal_lm"]
    assert OBJECTIVES.names()[-1] == "mine"
    assert OBJECTIVES["mine"] is sys.modules["two_terms"].TwoTerms
