"""Names of other tools are refused with the key to use; words without a flag name documents or a run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mlm_dist.config import Config, aliases, keys, parse, parse_of_run, value_of
from mlm_dist.config.messages import unknown_key
from mlm_dist.errors import ConfigError

NAMES = [(name, alias) for alias in aliases.TABLE for name in alias.names.split()]


def refusal(*words: str) -> str:
    """The message of a refused command line; it is one line."""
    with pytest.raises(ConfigError) as caught:
        parse(list(words))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_name_has_two_rows_and_none_is_a_key() -> None:
    names = [name for name, _ in NAMES]
    assert len(set(names)) == len(names)
    assert not set(names) & set(keys())
    assert all(name == name.lower().replace("-", "_") for name in names)
    sections = {key.split(".")[0] for key in keys() if "." in key}
    assert sections <= set(names), "`--model bert` names the key of a section"


@pytest.mark.parametrize("alias", aliases.TABLE, ids=lambda alias: alias.names.split()[0])
def test_each_row_names_a_key_that_takes_what_the_message_writes(alias: aliases.Alias) -> None:
    assert alias.meaning
    if not alias.key:
        assert "--topology" in alias.meaning or "remove it" in alias.meaning or "mlm-dist" in alias.meaning
        return
    assert alias.key in keys()
    written = aliases.advice(alias.names.split()[0], None, is_flag=True).rsplit(": --", 1)[1]
    assert shlex.split(written) == [alias.key, alias.sample]
    parse(shlex.split(f"--{written}"))


@pytest.mark.parametrize(("name", "alias"), NAMES, ids=[name for name, _ in NAMES])
def test_each_name_is_refused_in_every_spelling(name: str, alias: aliases.Alias) -> None:
    expected = f"use '{alias.key}', " if alias.key else alias.meaning
    for spelling in (name, name.replace("_", "-"), name.upper()):
        assert aliases.find(spelling) is alias
        message = unknown_key(spelling, "3")
        assert message.startswith(f"unknown key '{spelling}'; ") and expected in message and "\n" not in message


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["--lr", "3e-5"], "--optim.lr 3e-5"),
        (["-lr=3e-5"], "--optim.lr 3e-5"),
        (["--learning-rate"], "--optim.lr 5e-5"),
        (["--optim.learning_rate", "1"], "--optim.lr 1"),
        (["--num_train_epochs", "3"], '--optim.duration "3 epochs"'),
        (["--max_steps", "500"], '--optim.duration "500 steps"'),
        (["--per_device_train_batch_size", "8"], "(rows per device x accumulation x processes): --batch.global_size 8"),
        (["--model", "bert"], "--model.name_or_path bert"),
        (["--fp16"], "--topology gpu --mixed_precision fp16"),
        (["--train_file", "a b.txt"], '--corpus.source "a b.txt"'),
    ],
)
def test_the_message_writes_the_flag_with_the_given_value(words: list[str], written: str) -> None:
    assert written in refusal(*words)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("learning_rate: 1e-4\n", 1),
        ("seed: 1\noptim:\n  learning_rate: 1.0e-4\n", 3),
        ("seed: 1\nrows:\n  max_seq_length: 512\n", 3),
    ],
)
def test_a_name_in_a_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    message = refusal("--config", str(path))
    assert f"({path}, line {line})" in message
    written = re.search(r": (\w+: \{.*?\}) \(", message)
    assert written is not None, message
    path.write_text(written[1], "utf-8")
    assert isinstance(yaml.safe_load(written[1]), dict)
    parse(["--config", str(path)])


def test_a_part_that_every_section_may_have_is_not_taken_for_another_section() -> None:
    assert "optim.duration" not in refusal("--logging.steps", "3")


@pytest.mark.parametrize(
    "words",
    [
        ["docs", "--seed", "4"],
        ["--seed", "4", "docs"],
        ["--seed=4", "docs"],
        ["--preset", "quickstart", "docs", "--seed", "4"],
        ["--corpus.separator", "---", "docs", "--seed=4"],
    ],
)
def test_a_word_without_a_flag_is_the_source(words: list[str]) -> None:
    config = parse(words)
    assert (config.corpus.source, config.seed) == ("docs", 4)


def test_the_word_wins_over_a_file_as_its_flag_does(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("corpus:\n  source: other\n  min_chars: 3\n", "utf-8")
    config = parse(["docs", "--config", str(path)])
    assert (config.corpus.source, config.corpus.min_chars) == ("docs", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docs", "--corpus.source", "other"], "'docs' and --corpus.source both name the documents"),
        (["my", "docs"], "'my' and 'docs': name the documents once"),
        (["--corpus.patterns", "a.md", "b.md"], "put globs into quotes"),
        (["run.yaml"], "write --config run.yaml"),
        (["continue"], "write --preset continue"),
        (["--preset"], "--preset: name one of azure_docs"),
        (["--preset=contineu"], "did you mean 'continue'?"),
        (["--preset=run.yaml"], "write --config run.yaml"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(words: list[str], message: str) -> None:
    assert message in refusal(*words)


def test_a_preset_yields_to_a_file_and_a_file_to_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\nrows:\n  max_length: 256\n", "utf-8")
    config = parse(["--seed=4", f"--config={path}", "--preset=continue"])
    assert config.model.name_or_path == "google-bert/bert-base-uncased"
    assert (config.rows.max_length, config.seed) == (256, 4)


def test_a_word_is_the_run_directory_of_a_job_about_a_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 5\noutput_dir: elsewhere\n", "utf-8")
    config = parse_of_run([str(run), "--validation.sentences", "0"], prog="validate.py")
    assert (config.output_dir, config.seed, config.validation.sentences) == (str(run), 5, 0)
    (run / "model").mkdir()
    for given, hint in (
        (str(tmp_path / "runs" / "mien"), f"did you mean {run}?"),
        (str(run / "model"), f"did you mean {run}?"),
        (str(tmp_path / "nothing like it"), "name the directory of a run"),
    ):
        with pytest.raises(ConfigError, match=re.escape(hint)):
            parse_of_run([given], prog="validate.py")
    with pytest.raises(ConfigError, match="both name the run directory"):
        parse_of_run([str(run), f"--output_dir={run}"], prog="validate.py")


def test_presets_leave_nothing_of_a_run_open_but_what_depends_on_the_machine() -> None:
    config = parse(["docs", "--preset", "continue"])
    default = Config()
    changed = {key for key in keys() if value_of(config, key) != value_of(default, key)}
    assert changed >= {"model.name_or_path", "rows.max_length", "optim.lr", "validation.patience", "output_dir"}
    assert config.export.checkpoint is None, "patience exports the best checkpoint"
