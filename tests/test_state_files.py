"""State files and records that verify but are nonsense: refused by file and field, and the run resumes from before."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from safetensors.torch import load_file, save_file

from mlm_dist.checkpoint import find, format
from mlm_dist.errors import CheckpointError, ConfigError, UserError

State = dict[str, Any]


def sign(folder: Path) -> None:
    """Make a manifest that verifies, whatever the files hold."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("sha256")
    for name in manifest["files"]:
        data = (folder / name).read_bytes()
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest | {"sha256": format.digest(manifest)}))


def put(name: str, value: Any) -> Callable[[State], None]:
    """A change of a field, of a nested one with a dot."""

    def change(state: State) -> None:
        *parents, leaf = name.split(".")
        for parent in parents:
            state = state[parent]
        state[leaf] = value

    return change


def without(name: str) -> Callable[[State], None]:
    """The removal of a field."""
    return lambda state: state.pop(name)


NONSENSE: dict[str, tuple[Callable[[State], Any], str]] = {
    "unknown field": (put("mystery", 1), "mystery"),
    "unknown nested field": (put("best.mystery", 1), "best.mystery"),
    "no identity": (without("identity"), "identity"),
    "empty identity": (put("identity", {}), "identity"),
    "identity of another type": (put("identity", [1]), "identity"),
    "no step": (without("step"), "step"),
    "no tokens": (without("tokens"), "tokens"),
    "no best": (without("best"), "best"),
    "step as text": (put("step", "12"), "step"),
    "step as a fraction": (put("step", 12.0), "step"),
    "negative step": (put("step", -12), "step"),
    "another step": (put("step", 11), "step is 11"),
    "step true": (put("step", True), "step"),
    "huge samples": (put("samples", 10**30), "samples"),
    "negative tokens": (put("tokens", -1), "tokens"),
    "tokens as a list": (put("tokens", [1]), "tokens"),
    "more skipped than steps": (put("skipped_steps", 13), "skipped_steps is over step"),
    "longer streak than skipped": (put("skipped_in_a_row", 1), "skipped_in_a_row is over skipped_steps"),
    "seconds of nan": (put("seconds", float("nan")), "NaN"),
    "infinite seconds": (put("seconds", float("inf")), "Infinity"),
    "negative seconds": (put("seconds", -1.0), "seconds"),
    "best as a list": (put("best", []), "best"),
    "best loss as text": (put("best.loss", "low"), "best.loss"),
    "negative variance": (put("loss_average.variance", -1.0), "loss_average.variance"),
    "mean as a dict": (put("loss_average.mean", {}), "loss_average.mean"),
    "divergence as text": (put("divergence", "no"), "divergence"),
    "divergence without a step": (put("divergence", {"has_begun": False, "limit": None}), "divergence.good_step"),
    "loss scale of one": (put("loss_scale", [1.0]), "loss_scale"),
    "estimate as text": (put("estimate", "long"), "estimate"),
    "micro-batch of 0": (put("micro_batch", 0), "micro_batch"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_state_of_nonsense_is_refused_and_the_run_resumes_from_before(name: str, copy: Path) -> None:
    change, part = NONSENSE[name]
    newest = copy / "checkpoints" / "step-00000012"
    state = json.loads((newest / "state.json").read_text())
    change(state)
    (newest / "state.json").write_text(json.dumps(state))
    sign(newest)
    with pytest.raises(CheckpointError) as caught:
        format.verify(newest)
    message = str(caught.value)
    assert message.startswith(str(newest / "state.json")) and part in message
    path, problems = find.newest(copy / "checkpoints")
    assert path is not None and path.name == "step-00000006" and problems == [message]


@pytest.mark.parametrize("text", ["[]", "null", "3", "", "{", "[" * 100_000, '{"a":' * 100_000, "\xff"])
def test_state_that_is_no_object_is_refused(text: str, copy: Path) -> None:
    newest = copy / "checkpoints" / "step-00000012"
    (newest / "state.json").write_bytes(text.encode("latin-1"))
    sign(newest)
    with pytest.raises(CheckpointError, match=f"^{newest / 'state.json'}"):
        format.verify(newest)


@pytest.mark.parametrize("text", ["[]", "null", "3", "", "[" * 100_000, '{"sha256": "", "files": {"a": 3}}'])
def test_manifest_that_is_none_is_refused(text: str, copy: Path) -> None:
    newest = copy / "checkpoints" / "step-00000012"
    (newest / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"^{newest / 'manifest.json'} is missing or not a manifest"):
        format.verify(newest)


TENSORS: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "moment of no weight": ("optimizer", lambda now: now | {"exp_avg/ghost": torch.zeros(1)}, "exp_avg/ghost"),
    "moment without a name": ("optimizer", lambda now: now | {"ghost": torch.zeros(1)}, "ghost"),
    "moment of another shape": ("optimizer", lambda now: {name: torch.zeros(3) for name in now}, "another shape"),
    "half precision": ("model", lambda now: {name: value.half() for name, value in now.items()}, "F16, not F32"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_do_not_belong_together_are_refused(name: str, copy: Path) -> None:
    file, change, part = TENSORS[name]
    newest = copy / "checkpoints" / "step-00000012"
    path = newest / f"{file}.safetensors"
    save_file(change(load_file(path)), path)
    sign(newest)
    with pytest.raises(CheckpointError, match=part) as caught:
        format.verify(newest)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}"])
def test_file_without_tensors_is_refused(content: bytes, copy: Path) -> None:
    newest = copy / "checkpoints" / "step-00000012"
    (newest / "model.safetensors").write_bytes(content)
    sign(newest)
    with pytest.raises(CheckpointError, match="is not a safetensors file"):
        format.verify(newest)


def test_checkpoint_of_other_files_is_refused(copy: Path) -> None:
    newest = copy / "checkpoints" / "step-00000012"
    manifest = json.loads((newest / "manifest.json").read_text())
    manifest["files"] = {"weights.bin": manifest["files"]["model.safetensors"]}
    for path in newest.glob("*.*"):
        if path.name != "manifest.json":
            path.unlink()
    (newest / "weights.bin").write_bytes(b"x")
    (newest / "manifest.json").write_text(json.dumps(manifest | {"sha256": ""}))
    sign(newest)
    with pytest.raises(CheckpointError, match=r"manifest\.json: files must be model\.safetensors, "):
        format.verify(newest)


def test_renamed_checkpoint_is_refused(copy: Path) -> None:
    (copy / "checkpoints" / "step-00000012").rename(copy / "checkpoints" / "step-00000099")
    path, problems = find.newest(copy / "checkpoints")
    assert path is not None and path.name == "step-00000006"
    assert "step is 12, but its folder is named after step 99" in problems[0]


def test_identity_without_a_corpus_is_refused_by_export(copy: Path) -> None:
    for folder in (copy / "checkpoints").iterdir():
        state = json.loads((folder / "state.json").read_text())
        state["identity"]["corpus"] = "../../elsewhere"
        (folder / "state.json").write_text(json.dumps(state))
        sign(folder)
    with pytest.raises(CheckpointError, match=r"state\.json: identity has no digest of a corpus"):
        launching.here("export", f"--output_dir={copy}", "--export.verify=false", of_a_run=True)


# --- records of a run ---

LINES = {
    "a list": ("[1]", "is not an object"),
    "no kind": ('{"step": 3}', "no field kind"),
    "kind as a number": ('{"kind": 3}', "no field kind"),
    "no step": ('{"kind": "train", "loss": 1.0}', "field step"),
    "step as text": ('{"kind": "train", "step": "3", "loss": 1.0}', "field step"),
    "negative step": ('{"kind": "validation", "step": -3, "loss": 1.0}', "field step"),
    "huge step": ('{"kind": "train", "step": 1' + "0" * 40 + "}", "field step"),
    "loss as text": ('{"kind": "train", "step": 3, "loss": "low"}', "field loss"),
}


@pytest.mark.parametrize("name", LINES)
def test_metrics_of_nonsense_name_the_line_and_the_field(name: str, copy: Path) -> None:
    line, part = LINES[name]
    path = copy / "metrics.jsonl"
    before = path.read_text()
    path.write_text(f"{before}{line}\n")
    with pytest.raises(ConfigError) as caught:
        launching.here("report", f"--output_dir={copy}", of_a_run=True)
    message = str(caught.value)
    number = before.count("\n") + 1
    assert message.startswith(f"output_dir: line {number} of {path}") and part in message and message.isprintable()


@pytest.mark.parametrize("file", ["report.json", "validation.json", "tasks.json", "metrics.jsonl"])
@pytest.mark.parametrize(
    "text", ["[]", "3", '{"kind": "start"}', '{"corpus": 3, "examples": [], "before": []}', "[" * 99_999]
)
def test_report_of_nonsense_is_written_or_refused_in_one_line(file: str, text: str, copy: Path) -> None:
    (copy / file).write_text(text)
    shutil.rmtree(copy / "model")
    try:
        launching.here("report", f"--output_dir={copy}", of_a_run=True)
    except UserError as error:
        assert str(error).startswith("output_dir: ") and str(error).isprintable()


@pytest.mark.parametrize(
    "text", ["- a\n", "seed: 1\nseed: 2\n", "seed: 017\n", "a: &a [*a]\n", "", "\x00", "mystery: 3\n"]
)
@pytest.mark.parametrize("job", ["export", "report", "validate"])
def test_config_of_a_run_is_checked_as_any_file(job: str, text: str, copy: Path) -> None:
    (copy / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        launching.here(job, f"--output_dir={copy}", of_a_run=True)
    assert str(caught.value).isprintable()
