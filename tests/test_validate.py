"""The validate job gives the figures that training gave, whatever is evaluated and on however many processes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import launching
import pytest

from mlm_dist import validate
from mlm_dist.config import parse, parse_of_run
from mlm_dist.errors import CheckpointError, ConfigError, ModelError

COMPARED = ("loss", "perplexity", "accuracy", "masked_tokens", "accuracy_common", "masked_tokens_rare")


def of(prose: Path) -> tuple[str, ...]:
    """The corpus of that run, but for its split."""
    return f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.TINY


def figures(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "validation.json").read_text("utf-8"))
    return found


def test_exported_model_has_the_figures_of_the_last_validation(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlm_dist")
    validate.run(parse_of_run([f"--output_dir={copy}"], prog="validate.py"))
    last, found = launching.metrics(copy, "validation")[-1], figures(copy)
    assert [found[name] for name in COMPARED] == pytest.approx([last[name] for name in COMPARED], rel=1e-6)
    assert found["kind"] == "validation"
    assert found["unigram_loss"] == pytest.approx(launching.metrics(copy, "end")[0]["unigram_loss"])
    assert found["sentences"] == 64
    assert found["sentence_tokens"] > 64 * 5
    assert found["pseudo_perplexity"] == pytest.approx(math.exp(-found["pseudo_log_likelihood"]))
    said = caplog.text
    assert f"loss {last['loss']:.4f}" in said
    assert f"common {last['accuracy_common']:.1%}" in said
    assert f"{found['pseudo_log_likelihood']:.4f} nats per token" in said
    assert not (copy / "tasks.json").exists()


@pytest.mark.slow
def test_checkpoint_on_two_processes_has_the_same_figures(copy: Path) -> None:
    point = copy / "checkpoints" / "step-00000006"
    ended = launching.accelerate(
        "cpu_2", "validate.py", f"--output_dir={copy}", f"--validation.model={point}", launch=("--num_processes=2",)
    )
    assert ended.returncode == 0, ended.output
    line, found = launching.metrics(copy, "validation")[1], figures(copy)
    assert found["step"] == line["step"] == 6
    assert found["loss"] == pytest.approx(line["loss"], abs=1e-6)
    assert found["accuracy"] == line["accuracy"]
    assert found["masked_tokens"] == line["masked_tokens"]
    assert found["world_size"] == 2
    validate.run(parse_of_run([f"--output_dir={copy}", f"--validation.model={point}"], prog="validate.py"))
    names = ("pseudo_log_likelihood", "sentence_tokens", *COMPARED)
    assert [found[name] for name in names] == pytest.approx([figures(copy)[name] for name in names], rel=1e-5)
    assert ended.stdout.count("written to") == 1


def test_starting_model_needs_no_run(run: Path, prose: Path, tmp_path: Path) -> None:
    flags = (*of(prose), f"--output_dir={tmp_path}", "--corpus.validation_fraction=0.2", "--validation.model=start")
    validate.run(parse(flags))
    first, found = launching.metrics(run, "validation")[0], figures(tmp_path)
    assert [found[name] for name in COMPARED] == pytest.approx([first[name] for name in COMPARED], rel=1e-6)


def test_flags_override_the_config_of_the_run(run: Path, tmp_path: Path) -> None:
    config = parse_of_run(["--output_dir", str(run), "--batch.micro_size", "4"], prog="validate.py")
    assert config.corpus.validation_fraction == 0.2
    assert config.batch.micro_size == 4
    moved = tmp_path / "moved"
    moved.symlink_to(run)
    assert parse_of_run(["--output_dir", str(moved)], prog="validate.py").output_dir == str(moved)
    assert parse_of_run(["--output_dir", str(tmp_path)], prog="validate.py") == parse([f"--output_dir={tmp_path}"])


def test_missing_model_or_checkpoint_is_named(run: Path, tmp_path: Path) -> None:
    def evaluate(directory: Path, model: str) -> None:
        validate.run(parse([f"--output_dir={directory}", f"--validation.model={model}"]))

    with pytest.raises(ModelError, match=r"validation\.model: there is no exported model in"):
        evaluate(tmp_path, "model")
    with pytest.raises(CheckpointError, match="no good checkpoint in"):
        evaluate(tmp_path, "checkpoint")
    with pytest.raises(ModelError, match=r"validation\.model: bert-base-uncased is neither"):
        evaluate(run, "bert-base-uncased")
    (tmp_path / "step-00000001").mkdir()
    with pytest.raises(CheckpointError, match=r"manifest\.json is missing"):
        evaluate(run, str(tmp_path / "step-00000001"))


def test_empty_validation_set_is_named(prose: Path, tmp_path: Path) -> None:
    flags = (*of(prose), f"--output_dir={tmp_path}", "--corpus.validation_fraction=0", "--validation.model=start")
    with pytest.raises(ConfigError, match=r"corpus\.validation_fraction: .* has no validation set"):
        validate.run(parse(flags))
