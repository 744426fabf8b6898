"""The examples of docs/after_training.md, on a tiny exported model and a few records."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import launching
import pytest
from launching import ROOT

OF_OTHER_PAGES = {"near_duplicate_clusters"}
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem not in OF_OTHER_PAGES)


def write_records(folder: Path) -> None:
    """The three files that the commands of the page name."""
    subjects = ("vault", "ledger")
    records: dict[str, list[dict[str, Any]]] = {
        "labelled.jsonl": [
            {"text": f"The {subjects[i % 2]} protects the keys.", "label": "ab"[i % 2]} for i in range(20)
        ],
        "tagged.jsonl": [{"words": ["The", subjects[i % 2]], "tags": ["O", f"B-{i % 2}"]} for i in range(20)],
        "pairs.jsonl": [{"anchor": f"Key {i}?", "positive": f"The {subjects[i % 2]} has key {i}."} for i in range(20)],
    }
    for name, lines in records.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_named_by_the_page(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 40
    assert f"python examples/{path.name} " in (ROOT / "docs" / "after_training.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "records", "written"),
    [
        ("classifier", "labelled", "config.json"),
        ("token_classifier", "tagged", "config.json"),
        ("sentence_embeddings", "pairs", "modules.json"),
    ],
)
def test_example_fine_tunes_an_exported_model(
    script: str, records: str, written: str, run: Path, tmp_path: Path
) -> None:
    if script == "sentence_embeddings":
        pytest.importorskip("sentence_transformers")
    write_records(tmp_path)
    command = [sys.executable, str(ROOT / "examples" / f"{script}.py"), str(run / "model"), f"{records}.jsonl", "out"]
    ended = launching.run(command, cwd=tmp_path, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert ended.returncode == 0, ended.output
    settings = json.loads((tmp_path / "out" / written).read_text("utf-8"))
    if script == "classifier":
        assert settings["id2label"] == {"0": "a", "1": "b"}
        assert "eval_accuracy" in ended.stdout
    if script == "token_classifier":
        assert sorted(settings["label2id"]) == ["B-0", "B-1", "O"]
