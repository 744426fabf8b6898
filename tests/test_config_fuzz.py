"""Wrong values of every key, as a section, as a flag and in a file: one line that names the key, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import typing
from pathlib import Path
from typing import Any

import launching
import pytest
import yaml

from mlm_dist.config import Config, keys, parse, to_dict, value_of
from mlm_dist.config.checks import Section
from mlm_dist.config.value_types import fits
from mlm_dist.engine.launch import Launch
from mlm_dist.errors import ConfigError, UserError
from mlm_dist.resolve import resolve

SEED = int(os.environ.get("MLM_DIST_SEED", "20"))
NUM_CASES = int(os.environ.get("MLM_DIST_CASES", "400"))
KEYS = keys()
DEFAULTS = Config()
# Keys with a dict of any fields, which the library of the model checks.
FREE = {"model.overrides", "corpus.sources"}
WRONG: list[Any] = [
    *(-1, 0, 10**30, 2**70, -(10**18), 1.5, -0.5, 1e308, float("inf"), float("-inf"), float("nan"), True, None),
    *(
        "",
        " ",
        "\n",
        "a\nb",
        "a\0b",
        "\x1b[31m",
        "\u2028",
        "no such choice",
        "ünïcödé ☃",
        "no",
        "017",
        "1:30",
        "0x",
        "{",
    ),
    *("a" * 5000, "9" * 5000, "null", "~", "- a", "*x", "&a [*a]", "!!python/object:os.system x"),
    *([], [None], [""], ["a\nb"], [1, 2], [[]], {}, {"a": 1}, {"": {}}, {"a": {"b": [None]}}, [float("nan")] * 2),
]


def section_of(key: str) -> type[Section]:
    """The dataclass of a key."""
    name = key.rpartition(".")[0]
    found: type[Section] = type(value_of(DEFAULTS, name)) if name else Config
    return found


def require_one_line(message: str, key: str) -> None:
    """A refusal names its key, or two keys of which it is one, on one line of a length that can be read."""
    assert message.isprintable(), repr(message)
    assert key in message, message
    assert len(message) < 600, message


def refused(key: str, value: Any) -> bool:
    """Whether a section refuses a value; a refusal is checked."""
    kind, leaf = section_of(key), key.rsplit(".", 1)[-1]
    try:
        if kind is Config:
            dataclasses.replace(DEFAULTS, **{leaf: value})
        else:
            kind(**{leaf: value})
    except ConfigError as error:
        require_one_line(str(error), key)
        return True
    return False


@pytest.mark.parametrize("key", KEYS)
def test_section_refuses_wrong_values(key: str) -> None:
    outcomes = {repr(value): refused(key, value) for value in WRONG}
    for value in WRONG:
        if not fits(value, KEYS[key]):
            assert outcomes[repr(value)], f"{key} takes {value!r}, which is no {KEYS[key]}"
    numbers = [part for part in (KEYS[key], *typing.get_args(KEYS[key])) if part in (int, float)]
    if numbers and key not in FREE:
        assert outcomes[repr(float("nan"))] and outcomes[repr(float("inf"))] and outcomes[repr(-(10**18))]
    if int in numbers:
        assert outcomes[repr(10**30)], f"{key} takes 10^30"
    if fits("x", KEYS[key]) and key != "corpus.separator":
        for text in ("", " ", "\n", "a\nb", "a\0b", "\x1b[31m", "\u2028"):
            assert outcomes[repr(text)], f"{key} takes {text!r}"


def case(draw: random.Random, folder: Path) -> tuple[str, Any, list[str]]:
    """A key, a value, and the flags that give it: as a flag, or in a file as YAML or as JSON."""
    key, value = draw.choice(list(KEYS)), draw.choice(WRONG)
    form = draw.choice(["flag", "flag=", "file", "json", "nested"])
    text = value if isinstance(value, str) else json.dumps(value)
    if form == "flag":
        return key, value, [f"--{key}", text]
    if form == "flag=":
        return key, value, [f"--{key}={text}"]
    tree: Any = value
    for part in reversed(key.split(".") if form == "nested" else [key]):
        tree = {part: tree}
    content = json.dumps(tree) if form == "json" else yaml.safe_dump(tree, allow_unicode=True)
    path = folder / "fuzz.yaml"
    path.write_text(content, "utf-8")
    return key, value, ["--config", str(path)]


def try_cases(draw: random.Random, folder: Path, count: int) -> int:
    """Parse random cases; returns how many are refused."""
    num_refused = 0
    for i in range(count):
        key, value, flags = case(draw, folder)
        what = f"case {i} of seed {SEED}: {flags}"
        try:
            config = parse(flags)
        except ConfigError as error:
            num_refused += 1
            assert str(error).isprintable(), what
            named = key in str(error) or key.split(".", maxsplit=1)[0] in str(error) or "--config" in str(error)
            assert named or "is not a flag" in str(error) or "unknown key" in str(error), f"{what}: {error}"
        except BaseException as error:
            raise AssertionError(f"{what}: {error!r}") from error
        else:
            # What is accepted is what was typed.
            found = value_of(config, key)
            assert fits(found, KEYS[key]), what
            if isinstance(value, bool | int | float):
                assert found in (value, str(value), json.dumps(value), [json.dumps(value)]), f"{what}: {found!r}"
            assert parse(["--config", saved(folder, config)]) == config, what
    return num_refused


def saved(folder: Path, config: Config) -> str:
    """The path of a file with a config."""
    path = folder / "saved.yaml"
    path.write_text(yaml.safe_dump(to_dict(config), allow_unicode=True), "utf-8")
    return str(path)


def test_wrong_flags_and_files_are_refused(tmp_path: Path) -> None:
    assert try_cases(random.Random(SEED), tmp_path, 30) > 10


@pytest.mark.slow
def test_many_wrong_flags_and_files_are_refused(tmp_path: Path) -> None:
    assert try_cases(random.Random(SEED + 1), tmp_path, NUM_CASES) > NUM_CASES // 3


TEXTS = {
    "two values": ("seed: 1\nseed: 2\n", "seed", "first in line 1; remove one", "line 2"),
    "two forms": ("optim.lr: 1\noptim:\n  lr: 2\n", "optim.lr", "first in line 1", "line 3"),
    "octal": ("seed: 017\n", "seed", "octal; write 17, or '017'", "line 1"),
    "base 60": ("\nrows: {max_length: 1:30}\n", "rows.max_length", "base 60", "line 2"),
    "word": ("corpus: {split: no}\n", "corpus.split", "YAML reads no as false", "line 1"),
    "word in a list": ("corpus: {text: [title, on]}\n", "corpus.text", "YAML reads on as true", "line 1"),
    "word in a source": ("corpus: {sources: {a: {source: x, group: off}}}", "corpus.sources.a.group", "as false", ""),
    "number for text": ("corpus: {revision: 1.10}\n", "corpus.revision", "expected str", "line 1"),
    "itself": ("model: {overrides: &a {x: *a}}\n", "model.overrides.x", "refers to itself", "line 1"),
    "no anchor": ("seed: *x\n", "--config", "undefined alias", "line 1"),
    "tag": ("seed: !!int '5'\n", "--config", "tags such as", "line 1"),
    "object": ("seed: !!python/object/apply:os.system [ls]\n", "--config", "tags such as", "line 1"),
    "binary": ("seed: !!binary aGk=\n", "--config", "tags such as", "line 1"),
    "two documents": ("---\nseed: 1\n---\nseed: 2\n", "--config", "not YAML", "line 3"),
    "another file": ("config: /etc/passwd\n", "--config", "cannot name another", "line 1"),
    "empty": ("", "--config", "is empty", ""),
    "comment": ("# seed: 1\n", "--config", "is empty", ""),
    "list": ("- seed\n", "--config", "must hold keys and values", ""),
    "tab": ("\tseed: 3\n", "--config", "is not YAML", "line 1"),
    "number as key": ("1: 2\n", "--config", "a key must be a name", "line 1"),
    "list as key": ("[a]: 2\n", "--config", "a key must be a name", "line 1"),
    "merge of a number": ("<<: 3\n", "--config", "<< takes a mapping", "line 1"),
    "digits": (f"seed: {'9' * 5000}\n", "seed", "5,000 digits", "line 1"),
    "line break": ('output_dir: "a\\nb"\n', "output_dir", "line breaks", "line 1"),
    "NUL": ('output_dir: "a\\0b"\n', "output_dir", "control characters", "line 1"),
    "NUL byte": ("seed: 1\0\n", "--config", "is not YAML", ""),
    "no name": ("model: {name_or_path: ''}\n", "model.name_or_path", "must not be empty", "line 1"),
    "deep list": ("[" * 100_000, "--config", "nested over 16 deep", "line 1"),
    "deep mapping": ("{a: " * 50_000, "--config", "nested over 16 deep", "line 1"),
    "deep block": ("- " * 50_000, "--config", "nested over 16 deep", "line 1"),
}


def bomb() -> str:
    """YAML that stands for nine to the power of nine values."""
    names = "abcdefghi"
    lines = [f"a: &a [{', '.join('x' * 9)}]"]
    lines += [f"{now}: &{now} [{', '.join([f'*{last}'] * 9)}]" for last, now in itertools.pairwise(names)]
    return "model:\n  overrides:\n" + "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize("name", [*TEXTS, "bomb"])
def test_file_that_is_not_what_it_seems_is_refused(name: str, tmp_path: Path) -> None:
    text, *parts = (bomb(), "model.overrides", "aliases included", "line") if name == "bomb" else TEXTS[name]
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError) as caught:
        parse(["--config", str(path)])
    message = str(caught.value)
    assert message.startswith(parts[0]), message
    require_one_line(message, str(path) if parts[2] else parts[0])
    assert all(part in message for part in parts), message


def test_thing_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"output_dir: r\xe9sum\xe9\n")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(100 << 20)
    expected = {
        "pipe": "a pipe or a device",
        "/dev/zero": "a pipe or a device",
        ".": "a folder",
        "large": "104,857,600 bytes",
        "latin": "not UTF-8",
        "nowhere": "No such file",
        "a\0b": "embedded null",
    }
    for name, part in expected.items():
        with pytest.raises(ConfigError, match=part) as caught:
            parse(["--config", str(tmp_path / name)])
        require_one_line(str(caught.value), "--config")
    with pytest.raises(ConfigError, match="--config: name a YAML file"):
        parse(["--config"])


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("\ufeffseed: 3\r\n", "seed", 3),
        ("model: {masked_head: off}\n", "model.masked_head", False),
        ("output_dir: 2024-01-01\n", "output_dir", "2024-01-01"),
        ("corpus: {split: 'no', revision: '1.10'}\n", "corpus.revision", "1.10"),
        ("seed: 1_000\n", "seed", 1000),
        ("corpus:\n  patterns: &some [a, b]\n  text: *some\n", "corpus.text", ["a", "b"]),
        ("validation: &often {every: 5}\ncheckpoint: {<<: *often, keep_last: 3}\n", "checkpoint.every", 5),
        ('corpus: {separator: "\\n\\n"}\n', "corpus.separator", "\n\n"),
    ],
)
def test_file_with_unusual_spellings_is_read_as_typed(text: str, key: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    assert value_of(parse(["--config", str(path)]), key) == value


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--seed", "017"], "seed: 017 has a leading zero"),
        (["--seed=1:30"], "seed: YAML reads 1:30"),
        (["--model.overrides.hidden_act", "no"], "model.overrides.hidden_act: YAML reads no as false"),
        (["--model.overrides", "{a: 1, a: 2}"], "model.overrides.a: is given twice"),
        (["--model.overrides", "&a {a: *a}"], "model.overrides.a: refers to itself"),
        (
            ["--corpus.sources.a.source=x", "--corpus.sources.a.limit", "010"],
            "corpus.sources.a.limit: 010 has a leading",
        ),
        (["--optim.duration", "1" * 400 + " steps"], "optim.duration: must be like"),
        (["--optim", "null"], "optim is a section of keys"),
    ],
)
def test_flag_that_is_not_what_it_seems_is_refused(flags: list[str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(flags)
    require_one_line(str(caught.value), part)


# --- the next stage, and real launches ---

LEGAL: dict[str, list[Any]] = {
    "seed": [0, 2**63 - 1],
    "rows.max_length": [8, 500],
    "rows.mode": ["truncate", "chunk", "pack"],
    "masking.unit": ["token", "word", "span"],
    "masking.probability": [1e-9, 0.999],
    "batch.global_size": [1, 17, 4096],
    "optim.duration": ["1 steps", "0.001 epochs", "1T tokens", "9 hours"],
    "optim.name": ["adamw"],
    "optim.warmup": [0, 0.5, 10**6],
    "optim.lr": [1e-30, 1e9],
    "validation.every": [None, 10**9],
    "checkpoint.keep_last": [1, 1000],
    "tokenizer.train_vocab_size": [300, 60_000],
    "model.checkpointing": ["none", "layers"],
    "model.overrides": [{}, {"hidden_size": 64, "num_attention_heads": 2}, {"num_hidden_layers": 1}],
    "export.dtype": ["float32", "bfloat16"],
}


def test_legal_values_lead_to_a_spec() -> None:
    draw = random.Random(SEED)
    for i in range(8):
        chosen = {key: draw.choice(values) for key, values in LEGAL.items()}
        flags = [f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in chosen.items()]
        try:
            spec = resolve(parse([*flags, "--tracking.trackers=[]"]), Launch.read())
        except UserError as error:
            raise AssertionError(f"case {i} of seed {SEED}: {flags}: {error}") from error
        assert spec.phases[0].batch.global_size == chosen["batch.global_size"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--rows.max_length=100000000000"],
        ["--model.overrides.hidden_size=1000000000"],
        ["--model.overrides={hidden_size: 65536, intermediate_size: 1000000000}"],
        ["--model.overrides.num_hidden_layers=-1"],
        ["--model.overrides.num_hidden_layers=1000000000"],
        ["--model.overrides.num_attention_heads=0"],
        ["--model.overrides.num_attention_heads=-3"],
        ["--model.overrides.intermediate_size=-5"],
        ["--model.overrides.vocab_size=1000000000"],
        ["--model.overrides.max_position_embeddings=100000000000"],
        ["--model.overrides.type_vocab_size=100000000000"],
        ["--model.overrides.hidden_dropout_prob=7"],
        ["--model.overrides.layer_norm_eps=.nan"],
        ["--tokenizer.train_vocab_size=1000000000"],
        ["--model.name_or_path=distilbert", "--model.overrides={dim: 60000, n_layers: 900, n_heads: 60}"],
        ["--model.name_or_path=distilbert", "--model.overrides={sinusoidal_pos_embds: true, dim: 1000000000}"],
        ["--model.name_or_path=albert", "--model.overrides.num_hidden_groups=1000000000"],
        ["--model.name_or_path=modernbert", "--model.overrides.hidden_size=1000000000"],
        ["--model.name_or_path=deberta-v2", "--model.overrides.position_buckets=1000000000"],
        ["--model.name_or_path=roberta", "--model.overrides.num_hidden_layers=100000"],
    ],
    ids=lambda flags: flags[-1].removeprefix("--"),
)
def test_absurd_numbers_are_refused_before_anything_is_built(flags: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        resolve(parse([*flags, "--tracking.trackers=[]"]), Launch.read())
    key = "model.overrides" if "overrides" in flags[-1] else flags[-1].removeprefix("--").split("=", maxsplit=1)[0]
    require_one_line(str(caught.value), key)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--rows.max_length", "100000000000"],
        ["--model.overrides", "{hidden_size: 1000000000}"],
        ["--optim.duration", "1e30 steps"],
        ["--output_dir", "a\nb"],
    ],
    ids=lambda flags: flags[0].removeprefix("--"),
)
def test_launch_with_an_absurd_value_leaves_nothing(flags: list[str], tmp_path: Path) -> None:
    places = [f"--corpus.cache_dir={tmp_path / 'cache'}"]
    if flags[0] != "--output_dir":
        places.append(f"--output_dir={tmp_path / 'run'}")
    ended = launching.python("train.py", *flags, *places)
    assert ended.returncode == 2, ended.output
    errors = ended.stderr.strip().splitlines()
    assert len(errors) == 1 and errors[0].startswith(f"error: {flags[0].removeprefix('--')}"), ended.output
    assert not list(tmp_path.iterdir())
