"""The compare job: its table, its page, and what it says of losses that cannot be compared."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml
from test_report import Page, assert_safe, words_of

from mlm_dist import cli
from mlm_dist.commands import compare, completion
from mlm_dist.errors import ConfigError
from mlm_dist.pages.compared_runs import ComparedRun, differing, obstacles
from mlm_dist.pages.comparison_page import RunComparison


@pytest.fixture
def runs(run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of a finished run."""
    return Path(shutil.copytree(run, tmp_path / "a")), Path(shutil.copytree(run, tmp_path / "b"))


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON or YAML file; a name with `__` leads into it."""
    is_yaml = path.suffix == ".yaml"
    content = yaml.safe_load(path.read_text("utf-8")) if is_yaml else json.loads(path.read_text("utf-8"))
    for name, value in values.items():
        place = content
        *parents, last = name.split("__")
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    path.write_text(yaml.safe_dump(content) if is_yaml else json.dumps(content), "utf-8")


def change_start(run: Path, **values: Any) -> None:
    """Change values of the start line of metrics.jsonl."""
    first, *others = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    (run / "metrics.jsonl").write_text("\n".join([json.dumps(json.loads(first) | values), *others, ""]), "utf-8")


def read(*paths: Path) -> list[ComparedRun]:
    return [ComparedRun.read(path, path.name) for path in paths]


def test_page_shows_results_settings_and_curves(runs: tuple[Path, Path], tmp_path: Path) -> None:
    change(runs[1] / "resolved.yaml", phases__0__rate__peak=0.5)
    with launching.logged() as log:
        page = compare.run(runs, tmp_path / "page.html", price_per_hour=3.6)
    html = page.read_text("utf-8")
    assert_safe(html)
    losses = [line["loss"] for line in launching.metrics(runs[0], "validation")]
    text = words_of(html)
    assert f"a 12 {losses[-1]:.3f}".rstrip("0") in text
    assert re.search(r"optim\.lr \S+ 0\.5 ", text), "the decided value, not null"
    assert "output_dir" not in text
    titles = re.findall("<h3>(.*?)</h3>", html)
    assert titles == [
        f"{kind} loss by {of}" for of in ("step", "tokens", "time") for kind in ("Validation", "Training")
    ]
    charts = [one for tag, one in Page(html).tags if tag == "svg"]
    assert all("a: " in str(one["aria-label"]) and "b: " in str(one["aria-label"]) for one in charts)
    assert "optim.lr" in log.getvalue() and "page: " in log.getvalue()
    assert "not comparable" not in text


def test_cost_follows_from_the_price_and_the_speed(runs: tuple[Path, Path]) -> None:
    one, other = read(*runs)
    _, tokens, seconds = one.progress[-1]
    assert tokens == launching.metrics(runs[0], "train")[-1]["tokens"]
    row = RunComparison([one, other], 3.6).results.rows[0]
    assert float(row[-2]) == pytest.approx(seconds / 1000, rel=1e-3)
    assert float(row[-1]) == pytest.approx(seconds / 1000 / tokens * 1e6, rel=1e-3)
    assert "cost" not in RunComparison([one, other]).results.heads


def test_only_settings_that_differ_are_listed(runs: tuple[Path, Path]) -> None:
    assert differing(read(*runs)) == {}
    assert RunComparison(read(*runs)).settings is None
    change(runs[0] / "config.yaml", seed=5, output_dir="elsewhere")
    change(runs[0] / "resolved.yaml", seed=5)
    change_start(runs[0], world_size=4)
    assert differing(read(*runs)) == {"seed": ["5", "0"], "world_size": ["4", "1"]}


@pytest.mark.parametrize(
    ("file", "values", "expected"),
    [
        ("report.json", {"corpus__config__tokenizer": {"path": "other"}}, ["tokenizer"]),
        ("report.json", {"corpus__config__rows": {"mode": "pack", "max_length": 32}}, ["length or mode of rows"]),
        ("report.json", {"corpus__config__corpus__validation_fraction": 0.5}, ["validation set", "tokenizer"]),
        ("config.yaml", {"objective": "two_terms"}, ["objective"]),
        ("config.yaml", {"objective": "causal_lm"}, []),
        ("resolved.yaml", {"phases__0__masking__probability": 0.4, "phases__0__masking__unit": "word"}, []),
    ],
)
def test_losses_that_cannot_be_compared_are_named_with_the_reason(
    file: str, values: dict[str, Any], expected: list[str], runs: tuple[Path, Path]
) -> None:
    if file == "report.json":
        change_start(runs[1], corpus="another digest")
    change(runs[1] / file, **values)
    one, other = read(*runs)
    assert obstacles(other, one) == expected
    notes = RunComparison([one, other]).notes
    assert bool(notes) == bool(expected)
    if expected:
        assert notes[0] == (f"The validation losses of b and a are not comparable: different {', '.join(expected)}.")


def test_a_part_of_the_validation_set_is_not_compared_with_another(runs: tuple[Path, Path]) -> None:
    change_start(runs[1], validation_rows=2)
    assert obstacles(*reversed(read(*runs))) == ["rows of the validation set"]


def test_losses_over_other_sources_are_not_compared(runs: tuple[Path, Path]) -> None:
    change_start(runs[1], validation_only=["general"])
    assert obstacles(*reversed(read(*runs))) == ["sources in the validation loss"]


def test_losses_of_each_source_are_compared(runs: tuple[Path, Path]) -> None:
    path = runs[1] / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    of_sources = {"source_docs_loss": 1.25, "source_general_loss": None}
    lines = [line | of_sources if line["kind"] == "validation" else line for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    results = RunComparison(read(*runs)).results
    first = results.heads.index("docs")
    assert [row[first : first + 2] for row in results.rows] == [["—", "—"], ["1.25", "not finite"]]
    assert results.heads[first + 1] == "general"


def test_runs_with_other_tokenizers_are_compared_by_character(runs: tuple[Path, Path]) -> None:
    change_start(runs[1], corpus="another digest")
    change(runs[1] / "report.json", corpus__config__tokenizer={"path": "other"}, chars_per_token=4.0)
    change(runs[0] / "report.json", chars_per_token=2.0)
    comparison = RunComparison(read(*runs))
    at = comparison.results.heads.index("per character")
    loss = launching.metrics(runs[0], "validation")[-1]["loss"]
    assert [float(row[at]) for row in comparison.results.rows] == pytest.approx([loss / 2, loss / 4], abs=2e-3)
    assert any("compare the loss per character" in note for note in comparison.notes)
    change(runs[1] / "config.yaml", objective="two_terms")
    assert "per character" not in RunComparison(read(*runs)).results.heads


def test_wrong_input_is_an_error_of_one_line(runs: tuple[Path, Path], tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(ConfigError) as caught:
            compare.main(words)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "page.html").exists()
        return str(caught.value)

    one, other, page = str(runs[0]), str(runs[1]), f"--output={tmp_path / 'page.html'}"
    assert "nowhere does not exist" in refused(one, "nowhere", page)
    assert "compare needs two runs, got 1" in refused(one, one, page)
    assert "the following arguments are required: RUN" in refused(page)
    assert "--price_per_hour: must be over 0" in refused(one, other, page, "--price_per_hour=-1")
    assert "invalid float value" in refused(one, other, page, "--price_per_hour=cheap")
    assert "unrecognized arguments: --colour" in refused(one, other, page, "--colour")
    assert "--output: " in refused(one, other, "--output", str(tmp_path))
    (runs[1] / "report.json").write_text("{", "utf-8")
    assert "report.json is damaged" in refused(one, other, page)


def test_other_files_among_the_runs_are_skipped_and_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with launching.logged() as log:
        compare.run([*runs, tmp_path / "notes.txt"], tmp_path / "page.html")
    assert "notes.txt is not compared: it has no metrics.jsonl" in log.getvalue()


def test_runs_of_one_name_are_told_apart(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    shutil.move(runs[1], tmp_path / "old" / "a")
    page = compare.run([runs[0], tmp_path / "old" / "a"], tmp_path / "page.html")
    assert f"{tmp_path.name}/a, old/a" in words_of(page.read_text("utf-8"))


def test_text_of_runs_is_escaped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    change(runs[0] / "config.yaml", objective=evil)
    change(runs[0] / "resolved.yaml", phases__0__objective=evil)
    html = compare.run(runs, tmp_path / "page.html").read_text("utf-8")
    assert evil in Page(html).text
    assert_safe(html)


def test_job_is_one_of_the_program(runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.html"
    monkeypatch.setattr("sys.argv", ["mlm-dist", "compare", *map(str, runs), f"--output={page}"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert page.exists()
    options = completion.parser(cli.COMMANDS).parse_args(["compare", "a", "b", "--price_per_hour", "1"])
    assert options.RUN == ["a", "b"]
