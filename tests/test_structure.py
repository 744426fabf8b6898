"""The limits that keep the code readable: sizes, names, who sees the config, and what metrics.jsonl holds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from launching import ROOT

from mlm_dist.training.metrics import read

PACKAGE = ROOT / "mlm_dist"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)

MOST_CONFIGS = 15  # places that see the whole config
MOST_LINES, MOST_PARAMETERS = 250, 8
LINES_OF_TRAIN, LINES_OF_ITS_FUNCTIONS = 150, 80
MOST_WORDS = 3  # of a name in metrics.jsonl
# Names in -ing that are nouns of the field. All other names in -ing say what is done, not what is there.
NOUNS = {
    "activation_checkpointing",
    "hashing",
    "learning",
    "loading",
    "masking",
    "packing",
    "pooling",
    "text_encoding",
    "tiling",
    "training",
}
PAIRS = {("train", "training")}  # the job, and what it is made of


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def num_lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def num_parameters(function: ast.FunctionDef) -> int:
    """Parameters of a signature, `self`, `*args` and `**kwargs` included."""
    given = function.args
    several = [one for one in (given.vararg, given.kwarg) if one is not None]
    return len([*given.posonlyargs, *given.args, *given.kwonlyargs, *several])


def test_few_functions_take_the_whole_config() -> None:
    found = [
        f"{path}: {line.strip()}"
        for path in FILES
        for line in path.read_text("utf-8").splitlines()
        if re.search(r"\bconfig: Config\b", line)
    ]
    assert 0 < len(found) <= MOST_CONFIGS, "\n".join(found)


def test_the_train_job_reads_top_to_bottom() -> None:
    path = PACKAGE / "train.py"
    assert num_lines(path) < LINES_OF_TRAIN
    lengths = {one.name: (one.end_lineno or 0) - one.lineno + 1 for one in functions(path)}
    assert {"run", "fit"} <= set(lengths)
    assert {name: length for name, length in lengths.items() if length >= LINES_OF_ITS_FUNCTIONS} == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short_and_functions_take_few_parameters(path: Path) -> None:
    assert num_lines(path) <= MOST_LINES
    counts = {one.name: num_parameters(one) for one in functions(path)}
    assert {name: count for name, count in counts.items() if count > MOST_PARAMETERS} == {}


def test_names_are_nouns_and_no_two_differ_by_their_ending() -> None:
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    in_ing = {name for name in names if name.endswith("ing")}
    assert in_ing <= NOUNS, "name the thing, not what is done with it"
    pairs = {(name, f"{stem}ing") for name in names for stem in (name, name.removesuffix("e")) if f"{stem}ing" in names}
    assert pairs == PAIRS


def is_number_or_name(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(is_number_or_name, value))
    if isinstance(value, str):
        return len(value.split()) <= MOST_WORDS and not value.endswith(".")
    return value is None or isinstance(value, bool | int | float)


def test_metrics_hold_numbers_and_short_names(run: Path) -> None:
    lines = read(run / "metrics.jsonl")
    assert {line["kind"] for line in lines} == {"start", "train", "validation", "end"}
    for line in lines:
        assert {name: value for name, value in line.items() if not is_number_or_name(value)} == {}
