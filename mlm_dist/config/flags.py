"""Reading a config from flags and YAML files; a flag wins over a file, a file over the default."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_dist import names
from mlm_dist.config import command_line, phases, yaml_text
from mlm_dist.config.checks import Section
from mlm_dist.config.messages import explain
from mlm_dist.config.source import NamedSourceConfig
from mlm_dist.config.tree import Config, keys
from mlm_dist.config.value_types import fits
from mlm_dist.errors import ConfigError

RUN = "output_dir"  # what a word without a flag stands for in jobs about a run


def parse(
    argv: Sequence[str] | None = None,
    *,
    prog: str = "train.py",
    help_text: Callable[[], str] | None = None,
    positional: str = "corpus.source",
) -> Config:
    """Read flags and the YAML files they name into a checked `Config`.

    Args:
        argv: Flags without the program's name; by default those of this process.
        prog: The program's name in messages.
        help_text: What --help prints; by default where the keys are explained.
        positional: The key that a word without a flag stands for.

    Raises:
        ConfigError: A key is unknown or has a wrong type or value; the message names it and says what would do.
        SystemExit: --help or --print_config was given, and has been answered.
    """
    words = command_line.read(list(sys.argv[1:] if argv is None else argv), positional)
    if words.asks_for_help:
        sys.stdout.write((help_text or _pointer)())
        raise SystemExit(0)
    parser = _parser(prog=prog)
    parser.add_argument("--config", action="config")
    of_phases = [word for word in words.flags if phases.is_flag(word)]
    flags = _source_flags(_bare_lists([word for word in words.flags if not phases.is_flag(word)]))
    lines = {name: yaml_text.check(yaml_text.read(name), name, keys()) for name in words.files}
    _check_values(flags)
    arguments = [*(f"--config={name}" for name in words.files), *flags]
    try:
        config = Config(**_sections(parser, lambda: parser.parse_args(arguments)))
        if words.separators:
            corpus = dataclasses.replace(config.corpus, separator=words.separators[-1])
            config = dataclasses.replace(config, corpus=corpus)
        if of_phases:
            config = dataclasses.replace(config, phases=phases.with_flags(config.phases, of_phases))
    except ConfigError as error:
        raise ConfigError(f"{error}{_place(str(error), flags, lines)}") from None
    return config


def _pointer() -> str:
    return "`mlm-dist keys` explains every key.\n"


def from_dicts(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a config of which some are given as dicts.

    Raises:
        ConfigError: As `parse`.
    """
    given = {name: dataclasses.asdict(value) if isinstance(value, Section) else value for name, value in values.items()}
    for name in {key.split(".")[0] for key in keys() if "." in key} & given.keys():
        if not isinstance(given[name], Mapping):
            raise ConfigError(f"{name}: expected a dict of its keys, got {given[name]}")
    parser = _parser()
    return _sections(parser, lambda: parser.parse_object(given))


def _parser(**about: Any) -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **about)
    parser.add_class_arguments(Config)
    return parser


def _sections(parser: Any, read: Callable[[], Any]) -> dict[str, Any]:
    """{section or top-level key: value} of what `read` gives."""
    try:
        found = read()
        groups = {key.split(".")[0] for key in keys() if "." in key}
        for group in sorted(groups):
            if not hasattr(found[group], "__dict__"):
                raise ConfigError(f"{group}: expected keys and values below it, got {found[group]}")
        made = parser.instantiate(found)
    except ConfigError:
        raise
    except Exception as error:  # jsonargparse raises several kinds, all of them about the user's input
        raise ConfigError(explain(str(error))) from None
    return {item.name: made[item.name] for item in dataclasses.fields(Config)}


def parse_of_run(argv: Sequence[str] | None = None, *, prog: str, help_text: Callable[[], str] | None = None) -> Config:
    """As `parse`, for jobs about an existing run: the config.yaml in output_dir is read before files and flags.

    Raises:
        ConfigError: As `parse`, or a word without a flag is not the directory of a run.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    asks = "--print_config"  # answered by the second pass, when all is merged
    first = [flag for flag in flags if not flag.startswith(asks)]
    output_dir = parse(first, prog=prog, help_text=help_text, positional=RUN).output_dir
    folder = os.path.expanduser(output_dir)
    named = [word for flag, word in command_line.pairs(flags) if not flag]
    if named:
        _require_run(folder)
    of_run = os.path.join(folder, "config.yaml")
    files = ["--config", of_run] if os.path.isfile(of_run) else []
    others = [command_line.joined(flag, value) for flag, value in command_line.pairs(flags) if flag]
    # A run's directory may have been moved since its file was written.
    return parse([*files, *others, f"--{RUN}={output_dir}"], prog=prog, help_text=help_text, positional=RUN)


def _require_run(folder: str) -> None:
    """Refuse a folder that is not the directory of a run.

    Raises:
        ConfigError: Names the nearest folder, or the run that the folder belongs to.
    """
    if not os.path.isdir(folder):
        near = names.nearest_path(folder)
        hint = f"did you mean {near}?" if near else "name the directory of a run"
        raise ConfigError(f"{RUN}: {folder} does not exist; {hint}")
    if not is_run(folder):
        above = [str(path) for path in Path(folder).parents if is_run(str(path))]
        hint = f"did you mean {above[0]}?" if above else "name the directory of a run"
        raise ConfigError(f"{RUN}: {folder} has no config.yaml and no metrics.jsonl; {hint}")


def is_run(folder: str) -> bool:
    """Whether a folder is the directory of a run."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("config.yaml", "metrics.jsonl"))


def _bare_lists(argv: list[str]) -> list[str]:
    """Let `--corpus.patterns '*.md'` and `--tracking.trackers a,b` stand for one-line YAML lists."""
    lists = {f"--{key}": choices for key, kind in keys().items() if (choices := _list_or(kind)) is not None}
    words = [part for word in argv for part in (word.split("=", 1) if word.split("=", 1)[0] in lists else [word])]
    for i in range(1, len(words)):
        is_value = words[i - 1] in lists and not words[i].startswith(("[", "--"))
        if is_value and words[i] not in lists[words[i - 1]]:
            quoted = (json.dumps(item) for item in words[i].split(",") if item)
            words[i] = f"[{', '.join(quoted)}]"
    return words


def _list_or(kind: Any) -> set[str] | None:
    """The words that a key takes instead of a list; None if it takes no list, as a key of lists or null does not."""
    parts = typing.get_args(kind) if typing.get_origin(kind) is typing.Union else (kind,)
    if not any(typing.get_origin(part) is list for part in parts) or type(None) in parts:
        return None
    return {word for part in parts if typing.get_origin(part) is typing.Literal for word in typing.get_args(part)}


def _source_flags(argv: list[str]) -> list[str]:
    """Join the flags of each source: `--corpus.sources.NAME.KEY VALUE` several times become one for the whole source.

    The parser would keep only the last of them.
    """
    sources: dict[str, dict[str, Any]] = {}
    others: list[str] = []
    words = iter(argv)
    for word in words:
        flag = re.fullmatch(r"--corpus\.sources\.([^.=]+)\.([^.=]+)(?:=(.*))?", word, re.DOTALL)
        value = None if flag is None else flag[3] if flag[3] is not None else next(words, None)
        if flag is None or value is None:
            others.append(word)
        else:
            sources.setdefault(flag[1], {})[flag[2]] = _source_value(f"corpus.sources.{flag[1]}", flag[2], value)
    return others + [f"--corpus.sources.{name}={json.dumps(values)}" for name, values in sources.items()]


def _source_value(source: str, name: str, value: str) -> Any:
    """The value of a key of a source; `a,b` stands for a list, as in other flags."""
    import yaml

    kind = typing.get_type_hints(NamedSourceConfig).get(name)
    if typing.get_origin(kind) is list and not value.startswith("["):
        return [item for item in value.split(",") if item]
    if kind is str or (str in typing.get_args(kind) and value != "null"):
        return value
    try:
        yaml_text.check(value, "", keys(), f"{source}.{name}")
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _check_values(flags: Sequence[str]) -> None:
    """Refuse values of flags that YAML reads as another type than they look; those of keys of text are no YAML."""
    import yaml

    kinds: dict[str, Any] = keys()
    kinds |= {key.split(".")[0]: dict for key in kinds if "." in key}
    for i, word in enumerate(flags):
        name, has_value, value = word.removeprefix("--").partition("=")
        is_inside = ".".join(name.split(".")[:2]) in kinds and name not in kinds  # such as model.overrides.hidden_size
        if not word.startswith("--") or not (is_inside or (name in kinds and not fits("", kinds[name]))):
            continue
        if not has_value and i + 1 < len(flags):
            value = flags[i + 1]
        with contextlib.suppress(yaml.YAMLError):  # the parser reports it
            yaml_text.check(value, "", kinds, name)


def _place(message: str, flags: Sequence[str], lines: Mapping[str, Mapping[str, int]]) -> str:
    """The file and line of the key that a message is about; empty if a flag gives it."""
    named = re.match(r"unknown key '([^']*)'|(\w+) is a section", message)
    key = named[1] or named[2] if named else message.split(":", maxsplit=1)[0]
    if any(word.split("=")[0] == f"--{key}" for word in flags):
        return ""
    return next((f" ({name}, line {found[key]})" for name, found in reversed([*lines.items()]) if key in found), "")
