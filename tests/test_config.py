"""Flags and YAML: what is taken, what is refused, and whether the refusal helps."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml

from mlm_dist.config import Config, keys, parse, to_yaml
from mlm_dist.errors import ConfigError


def value_of(config: Config, key: str) -> Any:
    """The value under a dotted key."""
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def file_with(folder: Path, text: str) -> str:
    """The path of a new YAML file."""
    path = folder / "run.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def refusal(*argv: str) -> str:
    """The message that some flags are refused with; always one line."""
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def test_without_flags_every_value_is_the_default() -> None:
    assert parse([]) == Config()


def test_keys_are_all_the_leaves() -> None:
    plain = dataclasses.asdict(Config())
    leaves = {
        f"{name}.{leaf}" if isinstance(value, dict) else name
        for name, value in plain.items()
        for leaf in (value if isinstance(value, dict) else [name])
    }
    assert set(keys()) == leaves
    assert {"seed", "corpus.source", "optim.lr", "masking.probability", "batch.global_size"} <= set(keys())


def test_flag_wins_over_file_and_file_over_default(tmp_path: Path) -> None:
    path = file_with(tmp_path, "seed: 5\noptim: {lr: 1.0e-3, eps: 1.0e-9}\n")
    config = parse(["--config", path, "--optim.lr", "3e-5"])
    assert (config.seed, config.optim.lr, config.optim.eps) == (5, 3e-5, 1e-9)
    assert dataclasses.replace(config, seed=0, optim=Config().optim) == Config()


def test_flag_wins_over_file_wherever_it_stands(tmp_path: Path) -> None:
    path = file_with(tmp_path, "seed: 5\n")
    assert parse(["--seed", "7", "--config", path]).seed == 7


def test_dotted_keys_in_a_file_are_the_same_keys(tmp_path: Path) -> None:
    assert parse(["--config", file_with(tmp_path, "optim.lr: 0.5\n")]).optim.lr == 0.5


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("optim.lrr", "optim.lr"),
        ("lr", "optim.lr"),
        ("corpus.min_char", "corpus.min_chars"),
        ("sed", "seed"),
        ("batch.globalsize", "batch.global_size"),
        ("rows.probability", "masking.probability"),
    ],
)
def test_unknown_flag_is_named_with_its_nearest(given: str, nearest: str) -> None:
    message = refusal(f"--{given}", "3")
    assert f"'{given}'" in message and f"'{nearest}'" in message


@pytest.mark.parametrize(
    ("text", "given", "nearest"),
    [
        ("optim:\n  lr: 3.0e-5\n  epocs: 2\n", "optim.epocs", "optim.epochs"),
        ("rows: {max_lenght: 64}\n", "rows.max_lenght", "rows.max_length"),
        ("sed: 3\n", "sed", "seed"),
        ("optim.lrr: 3\n", "optim.lrr", "optim.lr"),
    ],
)
def test_unknown_key_in_a_file_is_named_with_its_nearest(tmp_path: Path, text: str, given: str, nearest: str) -> None:
    message = refusal("--config", file_with(tmp_path, text))
    assert f"'{given}'" in message and f"'{nearest}'" in message


def test_unknown_key_without_a_neighbour_points_to_help() -> None:
    message = refusal("--xyzzy=1")
    assert "'xyzzy'" in message and "--help" in message


def test_abbreviated_flag_is_unknown() -> None:
    assert "'corpus.sourc'" in refusal("--corpus.sourc", "docs")


def test_word_that_is_no_flag_is_refused() -> None:
    assert "'seed'" in refusal("seed")


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("seed", "1.5", "int"),
        ("seed", "true", "int"),
        ("rows.max_length", "128.0", "int"),
        ("optim.lr", "abc", "float or null"),
        ("optim.steps", "many", "int or null"),
        ("optim.name", "sgd", "adamw"),
        ("corpus.deduplicate", "all", "none, exact"),
        ("rows.mode", "cut", "truncate, chunk"),
        ("model.masked_head", "1", "bool"),
        ("optim.betas", "[0.9]", "tuple"),
        ("corpus.patterns", "[[a]]", "list"),
    ],
)
def test_wrong_type_names_the_key_and_what_would_do(key: str, given: str, expected: str) -> None:
    message = refusal(f"--{key}={given}")
    assert message.startswith(f"{key}: ") and expected in message


def test_wrong_type_in_a_file_names_the_key_and_the_value(tmp_path: Path) -> None:
    message = refusal("--config", file_with(tmp_path, "corpus:\n  min_chars: many\n"))
    assert message.startswith("corpus.min_chars: ") and "int" in message and "many" in message


@pytest.mark.parametrize("text", ["optim: 3\n", "optim: [lr, 3]\n", "optim: fast\n"])
def test_group_that_is_no_group_is_named(tmp_path: Path, text: str) -> None:
    message = refusal("--config", file_with(tmp_path, text))
    assert "optim" in message and "<function" not in message


@pytest.mark.parametrize("text", ["corpus:\n  # source: docs\nseed: 3\n", "seed: 3\ncorpus: null\n"])
def test_group_without_keys_is_the_default_or_named(tmp_path: Path, text: str) -> None:
    try:
        config = parse(["--config", file_with(tmp_path, text)])
    except ConfigError as error:
        assert "corpus" in str(error) and "<function" not in str(error)
    else:
        assert config == Config(seed=3)


def test_printed_config_is_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--seed=4", "--optim.lr=3e-5", "--print_config"])
    assert not ended.value.code
    config = parse(["--config", file_with(tmp_path, capsys.readouterr().out)])
    assert config == parse(["--seed=4", "--optim.lr=3e-5"])


def test_help_lists_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    assert not [key for key in keys() if f"--{key} " not in said]


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("seed", "-1"),
        ("seed", str(2**63)),
        ("output_dir", " "),
        ("corpus.source", ""),
        ("corpus.patterns", "[]"),
        ("corpus.min_chars", "-1"),
        ("corpus.validation_fraction", "1.0"),
        ("corpus.validation_fraction", "-0.1"),
        ("tokenizer.train_vocab_size", "299"),
        ("tokenizer.add_domain_tokens", "0"),
        ("tokenizer.train_kind", "chars"),
        ("rows.max_length", "7"),
        ("masking.probability", "0.0"),
        ("masking.probability", "1.0"),
        ("masking.probability", ".nan"),
        ("masking.final_probability", "0.0"),
        ("masking.final_probability", "1.0"),
        ("masking.mask", "1.1"),
        ("masking.mask", "-0.1"),
        ("masking.random", "0.21"),
        ("masking.random", "-0.1"),
        ("batch.global_size", "0"),
        ("batch.micro_size", "0"),
        ("optim.lr", "0.0"),
        ("optim.lr", "-0.1"),
        ("optim.lr", ".nan"),
        ("optim.weight_decay", "-0.1"),
        ("optim.betas", "[0.9, 1.0]"),
        ("optim.betas", "[-0.1, 0.9]"),
        ("optim.eps", "0.0"),
        ("optim.max_grad_norm", "0.0"),
        ("optim.epochs", "0.0"),
        ("optim.steps", "0"),
        ("optim.warmup", "-0.1"),
        ("validation.every", "0"),
        ("validation.patience", "0"),
        ("validation.sentences", "-1"),
        ("logging.every", "0"),
    ],
)
def test_impossible_value_is_refused_by_the_name_of_its_key(key: str, given: str) -> None:
    assert refusal(f"--{key}={given}").startswith(f"{key}: ")


@pytest.mark.parametrize("flag", ["validation.patience=1", "validation.second_source=docs", "export.checkpoint=best"])
def test_what_needs_held_out_documents_is_refused_without(flag: str) -> None:
    said = refusal(f"--{flag}", "--corpus.validation_fraction=0")
    assert said.startswith(flag.split("=", maxsplit=1)[0])
    assert "set corpus.validation_fraction over 0" in said
    assert refusal("--validation.patience=1", "--validation.every=null").startswith("validation.patience: ")


@pytest.mark.parametrize("key", ["optim.lr", "optim.epochs", "optim.warmup", "optim.weight_decay", "optim.eps"])
def test_infinity_is_refused_by_the_name_of_its_key(key: str) -> None:
    assert refusal(f"--{key}=.inf").startswith(f"{key}: ")


@pytest.mark.parametrize(
    "argv",
    [
        ["--masking.mask=0.9", "--masking.random=0.1"],
        ["--masking.mask=0.7", "--masking.random=0.3"],
        ["--masking.mask=0.0", "--masking.random=0.0"],
        ["--corpus.validation_fraction=0.0"],
        ["--rows.max_length=8"],
        ["--optim.lr=null"],
        ["--optim.max_grad_norm=null"],
        ["--validation.every=null"],
        [f"--seed={2**63 - 1}"],
        ["--corpus.min_chars=0"],
        ["--tokenizer.train_vocab_size=300"],
    ],
)
def test_values_at_the_edge_are_taken(argv: list[str]) -> None:
    config = parse(argv)
    for flag in argv:
        key, given = flag.removeprefix("--").split("=")
        assert value_of(config, key) == yaml.safe_load(given)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tokenizer.path=here", "tokenizer.train_vocab_size=500"),
        ("optim.hours=1", "optim.steps=5"),
        ("optim.hours=1", "optim.epochs=3"),
        ("optim.hours=1", "masking.final_probability=0.1"),
        ("tokenizer.add_domain_tokens=5", "model.freeze_embeddings=true"),
    ],
)
def test_keys_that_exclude_each_other(one: str, other: str) -> None:
    message = refusal(f"--{one}", f"--{other}")
    assert all(given.split("=")[0] in message for given in (one, other))


def test_config_is_frozen() -> None:
    config = parse([])
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]
    for item in dataclasses.fields(config):
        group = getattr(config, item.name)
        if dataclasses.is_dataclass(group):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(group, dataclasses.fields(group)[0].name, None)


def test_parsed_configs_share_no_list_with_the_defaults() -> None:
    parse([]).corpus.patterns.append("*.py")
    assert "*.py" not in Config().corpus.patterns and "*.py" not in parse([]).corpus.patterns


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--optim.lr=3e-5", "--optim.betas=[0.8, 0.95]", "--optim.duration=10 steps", "--seed=12"],
        ["--corpus.source=Ähre: #1/docs", "--corpus.patterns=['*.md', \"it's\"]", "--output_dir=no"],
        ["--model.overrides={hidden_size: 64, hidden_act: gelu, nested: {a: [1, 2]}}", "--tracking.trackers=[]"],
        ["--optim.eps=1e-10", "--masking.probability=0.3", "--validation.every=null", "--output_dir='007'"],
    ],
)
def test_yaml_round_trip(tmp_path: Path, argv: list[str]) -> None:
    config = parse(argv)
    text = to_yaml(config)
    assert parse(["--config", file_with(tmp_path, text)]) == config
    assert set(yaml.safe_load(text)) == {item.name for item in dataclasses.fields(Config)}


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--corpus.patterns", "*.md"], ["*.md"]),
        (["--corpus.patterns=*.md"], ["*.md"]),
        (["--corpus.patterns", "docs/**/*.md,*.rst"], ["docs/**/*.md", "*.rst"]),
        (["--corpus.patterns", "['*.md', '!old/*']"], ["*.md", "!old/*"]),
        (["--corpus.patterns", "null"], ["null"]),
        (["--corpus.patterns", "a\\ b.md"], ["a\\ b.md"]),
        (["--corpus.patterns", "it's.md"], ["it's.md"]),
    ],
)
def test_bare_list_flag(argv: list[str], expected: list[str]) -> None:
    assert parse(argv).corpus.patterns == expected


def test_bare_list_flag_of_nothing_is_an_empty_list() -> None:
    assert parse(["--tracking.trackers="]).tracking.trackers == []
    assert parse(["--tracking.trackers", "tensorboard,wandb"]).tracking.trackers == ["tensorboard", "wandb"]


@pytest.mark.parametrize("key", ["", "output_dir: ", "seed: ", "model: {overrides: {a: "])
def test_yaml_runs_nothing(tmp_path: Path, key: str) -> None:
    trace = tmp_path / "ran"
    tail = "}}" if "{" in key else ""
    text = f"{key}!!python/object/apply:os.mkdir ['{trace}']{tail}\n"
    message = refusal("--config", file_with(tmp_path, text))
    assert not trace.exists()
    assert "python/object" in message


def test_missing_file_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.yaml")
    message = refusal("--config", path)
    assert "--config" in message and path in message


def test_folder_as_file_is_named(tmp_path: Path) -> None:
    message = refusal("--config", str(tmp_path))
    assert "--config" in message and str(tmp_path) in message


def test_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: \xff\xfe\n")
    assert "--config" in refusal("--config", str(path))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a remark\n", "[]\n", "just words\n", "a: [\n"])
def test_file_without_keys_is_refused_by_its_flag(tmp_path: Path, text: str) -> None:
    assert refusal("--config", file_with(tmp_path, text)).startswith("--config: ")


def test_wrong_input_ends_a_job_soon_with_code_2_and_one_line() -> None:
    started = time.monotonic()
    ended = launching.python("prepare.py", "--corpus.min_char", "3")
    assert time.monotonic() - started < 5
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["error: unknown key 'corpus.min_char'; did you mean 'corpus.min_chars'?"]
