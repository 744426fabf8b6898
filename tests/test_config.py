"""Flags and YAML: values that are accepted, values that are refused, and the messages."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml

from mlm_dist.config import BatchConfig, Config, CorpusConfig, Duration, RowsConfig, keys, parse, reference, to_yaml
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
        ("optim:\n  lr: 3.0e-5\n  duratoin: 2 epochs\n", "optim.duratoin", "optim.duration"),
        ("rows: {max_lenght: 64}\n", "rows.max_lenght", "rows.max_length"),
        ("sed: 3\n", "sed", "seed"),
        ("optim.lrr: 3\n", "optim.lrr", "optim.lr"),
    ],
)
def test_unknown_key_in_a_file_is_named_with_its_nearest(tmp_path: Path, text: str, given: str, nearest: str) -> None:
    message = refusal("--config", file_with(tmp_path, text))
    assert f"'{given}'" in message and f"'{nearest}'" in message


def test_unknown_key_without_a_neighbour_points_to_the_reference() -> None:
    message = refusal("--xyzzy=1")
    assert "'xyzzy'" in message and "mlm-dist keys" in message


def test_abbreviated_flag_is_unknown() -> None:
    assert "'corpus.sourc'" in refusal("--corpus.sourc", "docs")


def test_word_that_is_not_a_flag_is_refused() -> None:
    assert "'seed' is a key; write --seed VALUE" in refusal("seed")
    assert "write --optim.lr 3e-5" in refusal("optim.lr=3e-5")


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("seed", "1.5", "int"),
        ("seed", "true", "int"),
        ("rows.max_length", "128.0", "int"),
        ("optim.lr", "abc", "float or null"),
        ("batch.micro_size", "many", "int or null"),
        ("optim.schedule", "step", "linear, cosine"),
        ("optim.duration", "3", "must be like '8 epochs'"),
        ("corpus.deduplicate", "all", "none, exact"),
        ("rows.mode", "cut", "truncate, chunk"),
        ("model.masked_head", "1", "bool"),
        ("optim.betas", "[0.9]", "tuple"),
        ("corpus.patterns", "[[a]]", "list"),
        ("corpus.prefer", "[]", "first, longest"),
        ("corpus.prefer", "[[a]]", "first, longest"),
    ],
)
def test_wrong_type_names_the_key_and_the_expected_type(key: str, given: str, expected: str) -> None:
    message = refusal(f"--{key}={given}")
    assert message.startswith(f"{key}: ") and expected in message


@pytest.mark.parametrize(
    ("given", "expected"),
    [("longest", "longest"), ("first", "first"), ("current/", ["current/"]), ("a/,b*", ["a/", "b*"]), ('["x"]', ["x"])],
)
def test_prefer_is_a_word_or_patterns(tmp_path: Path, given: str, expected: str | list[str]) -> None:
    for flags in (["--corpus.prefer", given], [f"--corpus.prefer={given}"]):
        assert parse(flags).corpus.prefer == expected
    assert parse(["--config", file_with(tmp_path, to_yaml(parse(flags)))]).corpus.prefer == expected


def test_wrong_type_in_a_file_names_the_key_and_the_value(tmp_path: Path) -> None:
    message = refusal("--config", file_with(tmp_path, "corpus:\n  min_chars: many\n"))
    assert message.startswith("corpus.min_chars: ") and "int" in message and "many" in message


@pytest.mark.parametrize("text", ["optim: 3\n", "optim: [lr, 3]\n", "optim: fast\n"])
def test_section_without_keys_below_it_is_named(tmp_path: Path, text: str) -> None:
    message = refusal("--config", file_with(tmp_path, text))
    assert "optim" in message and "<function" not in message


@pytest.mark.parametrize("text", ["corpus:\n  # source: docs\nseed: 3\n", "seed: 3\ncorpus: null\n"])
def test_empty_section_is_the_default_or_named(tmp_path: Path, text: str) -> None:
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


def test_the_reference_has_every_key() -> None:
    found = [entry for section in reference.sections() for entry in reference.entries(section)]
    assert [entry.key for entry in found] == list(keys())
    assert all(entry.text.endswith(".") and entry.type and entry.default for entry in found)


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
        ("optim.duration", "0 epochs"),
        ("optim.duration", "0 steps"),
        ("optim.duration", "0.5 steps"),
        ("optim.duration", "-1 hours"),
        ("optim.duration", "3 days"),
        ("optim.duration", "epochs"),
        ("optim.duration", "'8'"),
        ("optim.warmup", "-0.1"),
        ("validation.every", "0"),
        ("validation.patience", "0"),
        ("validation.sentences", "-1"),
        ("logging.every", "0"),
    ],
)
def test_impossible_value_is_refused_by_the_name_of_its_key(key: str, given: str) -> None:
    assert refusal(f"--{key}={given}").startswith(f"{key}: ")


@pytest.mark.parametrize("flag", ["validation.patience=1", "export.checkpoint=best"])
def test_key_that_needs_a_validation_set_is_refused_without_one(flag: str) -> None:
    message = refusal(f"--{flag}", "--corpus.validation_fraction=0")
    assert message.startswith(flag.split("=", maxsplit=1)[0])
    assert "needs a validation set; set corpus.validation_fraction over 0" in message


def test_patience_requires_validations() -> None:
    message = refusal("--validation.patience=1", "--validation.every=null")
    assert message == "validation.patience requires validation.every; set it"


@pytest.mark.parametrize("key", ["optim.lr", "optim.warmup", "optim.weight_decay", "optim.eps"])
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
def test_values_at_the_limits_are_accepted(argv: list[str]) -> None:
    config = parse(argv)
    for flag in argv:
        key, given = flag.removeprefix("--").split("=")
        assert value_of(config, key) == yaml.safe_load(given)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("tokenizer.path=here", "tokenizer.train_vocab_size=500"),
        ("optim.duration=1 hours", "masking.final_probability=0.1"),
        ("tokenizer.add_domain_tokens=5", "model.freeze_embeddings=true"),
    ],
)
def test_keys_that_exclude_each_other(one: str, other: str) -> None:
    message = refusal(f"--{one}", f"--{other}")
    assert all(given.split("=")[0] in message for given in (one, other))


@pytest.mark.parametrize("name", ["runs/mine", "runs/mine/checkpoints", "runs/mine/checkpoints/", "latest"])
def test_from_needs_a_checkpoint(name: str) -> None:
    assert refusal("--from", name).startswith(f"--from: {name} is no checkpoint; name one, such as runs/mine/check")


@pytest.mark.parametrize(
    ("resume", "restarted"),
    [
        ("auto", "auto"),
        ("never", "auto"),
        ("runs/mine/checkpoints/step-00000005", "auto"),
        ("runs/other/checkpoints/step-00000005", "runs/other/checkpoints/step-00000005"),
    ],
)
def test_restarted_job_continues_with_what_it_saved(resume: str, restarted: str) -> None:
    """A checkpoint of another run still begins it: it may have saved nothing."""
    checkpoint = parse([f"--checkpoint.resume={resume}"]).checkpoint
    assert checkpoint.resume_of("runs/mine", is_restarted=True) == restarted
    assert checkpoint.resume_of("runs/mine", is_restarted=False) == resume


@pytest.mark.parametrize(
    ("key", "value", "duration"),
    [("epochs", "3", "3 epochs"), ("steps", "200", "200 steps"), ("hours", "1.5", "1.5 hours")],
)
def test_replaced_key_is_refused_with_the_new_spelling(key: str, value: str, duration: str, tmp_path: Path) -> None:
    """As a flag in both forms, and in a file in both forms."""
    parse([f"--optim.duration={duration}"])
    assert refusal(f"--optim.{key}={value}") == f"optim.{key} was replaced; write optim.duration: '{duration}'"
    for argv in (
        ["--optim.duration=1 epochs", f"--optim.{key}", value],
        ["--config", file_with(tmp_path, f"optim: {{{key}: {value}, lr: 0.1}}\n")],
        ["--config", file_with(tmp_path, f"optim.{key}: {value}\n")],
    ):
        assert f"optim.{key} was replaced; write optim.duration: " in refusal(*argv)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("8 epochs", 8, "epochs"),
        ("0.5 epochs", 0.5, "epochs"),
        ("1 epoch", 1, "epochs"),
        (".5 hours", 0.5, "hours"),
        ("20_000 steps", 20_000, "steps"),
        ("20k steps", 20_000, "steps"),
        ("1.5k steps", 1_500, "steps"),
        ("10B tokens", 10_000_000_000, "tokens"),
        (" 2 M  tokens ", 2_000_000, "tokens"),
        ("1T tokens", 10**12, "tokens"),
    ],
)
def test_duration_is_a_number_and_a_unit(text: str, value: float, unit: str) -> None:
    assert Duration.parse(text) == Duration(value, unit)  # type: ignore[arg-type]
    assert Duration.parse(str(Duration.parse(text)).replace(",", "_")) == Duration.parse(text)
    assert parse([f"--optim.duration={text}"]).optim.duration == text


# --- Config in Python ---


def test_sections_can_be_dicts_or_dataclasses() -> None:
    config = Config(
        output_dir="runs/mine",
        corpus={"source": "docs", "patterns": ["*.md"]},  # type: ignore[arg-type]
        optim={"lr": 1e-4, "betas": (0.8, 0.9)},  # type: ignore[arg-type]
        rows=RowsConfig(max_length=64),
    )
    flags = ["--output_dir=runs/mine", "--corpus.source=docs", "--corpus.patterns=*.md", "--rows.max_length=64"]
    assert config == parse([*flags, "--optim.lr=1e-4", "--optim.betas=[0.8, 0.9]"])
    assert isinstance(config.corpus, CorpusConfig) and config.optim.betas == (0.8, 0.9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"corpus": {"sourc": "docs"}}, "unknown key 'corpus.sourc'; did you mean 'corpus.source'?"),
        ({"optim": {"epochs": 3}}, "optim.epochs was replaced; write optim.duration: "),
        ({"optim": {"lr": "fast"}}, "optim.lr: expected float or null, got fast"),
        ({"seed": "one"}, "seed: expected int, got one"),
        ({"seed": True}, "seed: expected int, got True"),
        ({"rows": {"max_length": 7}}, "rows.max_length: must be at least 8, got 7"),
        ({"rows": {"mode": "cut"}}, "rows.mode: expected one of truncate, chunk, pack or null, got cut"),
        ({"corpus": "docs"}, "corpus: expected a dict of its keys, got docs"),
        ({"optim": {"lr": float("nan")}}, "optim.lr: must be a finite number, got nan"),
        (
            {"tokenizer": {"add_domain_tokens": 5}, "model": {"freeze_embeddings": True}},
            "tokenizer.add_domain_tokens and model.freeze_embeddings exclude each other",
        ),
    ],
)
def test_config_refuses_wrong_values_by_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**values)
    assert str(caught.value).startswith(message), str(caught.value)
    assert "\n" not in str(caught.value)


def test_changed_copy_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"^batch\.initial_length: must be one of 128, 64, 32, 16, 8"):
        dataclasses.replace(Config(), batch=BatchConfig(initial_length=48, ramp_tokens=9))
    with pytest.raises(ConfigError, match=r"^rows\.max_length: must be at least 8"):
        RowsConfig(max_length=0)


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


def test_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"seed: \xff\xfe\n")
    assert "--config" in refusal("--config", str(path))


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing but a remark\n", "[]\n", "just words\n", "a: [\n"])
def test_file_without_keys_is_refused_by_its_flag(tmp_path: Path, text: str) -> None:
    assert refusal("--config", file_with(tmp_path, text)).startswith("--config: ")


def test_wrong_input_ends_a_job_within_5_seconds_with_code_2_and_one_line() -> None:
    """Seconds of computing, so that other tests that run at the same time do not count."""
    before = os.times()
    ended = launching.python("prepare.py", "--corpus.min_char", "3")
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 5
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["error: unknown key 'corpus.min_char'; did you mean 'corpus.min_chars'?"]


@pytest.mark.parametrize("separator", ["---", "--", "#", "null text", "\\n\\n", "a: b", "[x", "'---'"])
@pytest.mark.parametrize("is_joined", [False, True])
def test_separator_is_taken_as_it_is_written(separator: str, is_joined: bool) -> None:
    flags = [f"--corpus.separator={separator}"] if is_joined else ["--corpus.separator", separator]
    assert parse(flags).corpus.separator == separator


def test_separator_can_be_null() -> None:
    assert parse(["--corpus.separator", "null"]).corpus.separator is None
