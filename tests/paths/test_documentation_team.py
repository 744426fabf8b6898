"""A documentation team trains on a folder, reads the report, and trains again after the folder has grown."""

from __future__ import annotations

import json

import launching
import pytest
from wheel_user import User

SHORT = "--optim.duration '12 steps' --validation.every 6 --tokenizer.train_vocab_size 1000 --rows.max_length 64"


@pytest.mark.slow
def test_documentation_team_with_a_folder(user: User) -> None:
    user.has_documents("handbook")
    user.saves("handbook/short.md", "Too short.")

    assert "steps" in user.types(f"mlm-dist plan handbook {SHORT}").stdout
    assert not (user.folder / "runs").exists(), "a dry run writes nothing"

    user.types(f"mlm-dist train handbook --output_dir runs/handbook {SHORT}")
    run = user.folder / "runs" / "handbook"
    assert (run / "report.html").stat().st_size > 10_000
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in (run / "model").iterdir()
    }
    (end,) = launching.metrics(run, "end")
    assert end["step"] == 12

    user.types("mlm-dist validate runs/handbook --validation.sentences 10")
    assert json.loads((run / "validation.json").read_text("utf-8"))
    user.types("mlm-dist export runs/handbook --export.dtype bfloat16")
    user.types("mlm-dist report runs/handbook")
    answers = user.types(
        "python -c 'from transformers import pipeline; "
        'print(len(pipeline("fill-mask", "runs/handbook/model")("The [MASK] of the key.")))\''
    )
    assert answers.stdout.split()[-1] == "5"

    # The folder grows: the finished run stays as it is, and a new one continues from its model.
    user.has_documents("handbook", 60)
    again = f"mlm-dist train handbook --output_dir runs/second {SHORT}"
    again = again.replace("--tokenizer.train_vocab_size 1000", "--model.name_or_path runs/handbook")
    user.types(again)
    (start,) = launching.metrics(user.folder / "runs" / "second", "start")
    (first,) = launching.metrics(run, "start")
    assert start["rows"] > first["rows"]


@pytest.mark.slow
def test_wrong_input_is_one_line_that_names_the_fix(user: User) -> None:
    for line, said in {
        "mlm-dist train ./handbok": "handbok",
        "mlm-dist train --corpus.sorce handbook": "corpus.source",
        "mlm-dist trian": "train",
    }.items():
        ended = user.types(line, code=2)
        assert said in ended.stderr.splitlines()[-1], ended.output
        assert "Traceback" not in ended.output
