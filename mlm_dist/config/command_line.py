"""The words of a command line, sorted: what a job is about, files, flags and requests."""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlm_dist.config import aliases
from mlm_dist.config.presets import PRESETS, preset_file
from mlm_dist.config.tree import keys
from mlm_dist.errors import ConfigError

# Flags without a value.
SWITCHES = {"-h", "--help", "--print_config", "--debug"}
_CHECKPOINT = "runs/mine/checkpoints/step-00000500"
_SEPARATOR = "--corpus.separator"  # its value may look like a flag, such as ---
# What the word without a flag means for each key that it can stand for, in messages.
POSITIONALS = {"corpus.source": "the documents", "output_dir": "the run directory"}


class CommandLine(NamedTuple):
    """The words of a command line.

    Args:
        files: YAML files in the order in which they are read: presets, then those of --config. Without any, that of the
            run whose checkpoint --from names.
        flags: All other flags, `--key=value`; the word without a flag is one of them.
        separators: The values of --corpus.separator.
        asks_for_help: Whether --help is given.
    """

    files: list[str]
    flags: list[str]
    separators: list[str]
    asks_for_help: bool


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(flag, value) of each flag, with its dashes, and ("", word) of each word that is not the value of a flag.

    The value is None if there is none: a flag takes the word behind it, unless that looks like a flag.
    """
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not _is_flag(word):
            yield "", word
            continue
        flag, has_value, given = word.partition("=")
        value = given if has_value else None
        is_open = not has_value and flag not in SWITCHES and i < len(words)
        if is_open and (flag == _SEPARATOR or not _is_flag(words[i])):
            value = words[i]
            i += 1
        yield flag, value


def _is_flag(word: str) -> bool:
    """Whether a word is a flag; `-1` and `-` are values, `-lr` is a flag."""
    return word.startswith("--") or re.match(r"-[A-Za-z]", word) is not None


def joined(flag: str, value: str | None) -> str:
    """A flag and its value as one word."""
    return flag if value is None else f"{flag}={value}"


def read(words: Sequence[str], positional: str) -> CommandLine:
    """Sort the words of a command line.

    Args:
        words: The words.
        positional: The key that a word without a flag stands for.

    Raises:
        ConfigError: A word cannot be read; the message says what to write.
    """
    presets: list[str] = []
    files: list[str] = []
    flags: list[str] = []
    separators: list[str] = []
    named: list[str] = []
    asks_for_help, before, origin = False, "", ""
    for flag, value in pairs(words):
        match flag:
            case "":
                named.append(_named(str(value), before))
            case "-h" | "--help":
                asks_for_help = True
            case "--preset":
                presets.append(preset_file(_value(value, f"--preset: name one of {', '.join(PRESETS)}")))
            case "--from":
                checkpoint = _value(value, f"--from: name a checkpoint, such as {_CHECKPOINT}")
                if re.fullmatch(r"step-\d+", os.path.basename(os.path.normpath(checkpoint))) is None:
                    raise ConfigError(f"--from: {checkpoint} is no checkpoint; name one, such as {_CHECKPOINT}")
                flags.append(f"--checkpoint.resume={checkpoint}")
                origin = os.path.join(os.path.expanduser(checkpoint), "..", "..", "config.yaml")
            case "--config":
                files.append(_config_file(_value(value, "--config: name a YAML file")))
            case "--corpus.separator" if value not in (None, "null"):
                separators.append(str(value))
            case _:
                _refuse_section(flag, value)
                flags.append(joined(flag, value))
        before = flag
    if not presets and not files and os.path.isfile(origin):
        files = [os.path.normpath(origin)]
        if not any(flag.startswith("--output_dir=") for flag in flags):
            raise ConfigError("--from: name the directory of the new run as well, such as --output_dir runs/decay")
    return CommandLine([*presets, *files], _with_positional(named, flags, positional), separators, asks_for_help)


def _value(value: str | None, expected: str) -> str:
    if not value:
        raise ConfigError(expected)
    return value


def _config_file(name: str) -> str:
    path = os.path.expanduser(name)
    return path if name not in PRESETS or os.path.exists(path) else preset_file(name)


def _named(word: str, before: str) -> str:
    """A word without a flag.

    Raises:
        ConfigError: It is no name but the rest of a list of files, or belongs to a flag.
    """
    kind = keys().get(before.removeprefix("--"))
    if any(typing.get_origin(part) is list for part in (kind, *typing.get_args(kind))):
        raise ConfigError(f"{word!r} follows the value of {before}; put globs into quotes, such as {before} '*.md'")
    key, _, value = word.partition("=")
    if key in keys() and not os.path.exists(word):
        raise ConfigError(f"'{key}' is a key; write --{key} {value or 'VALUE'}")
    if not os.path.exists(os.path.expanduser(word)) and word in PRESETS:
        raise ConfigError(f"{word} is a preset; write --preset {word}")
    if word.endswith((".yaml", ".yml")):
        raise ConfigError(f"{word} is a config; write --config {word}")
    return word


def _with_positional(named: Sequence[str], flags: list[str], key: str) -> list[str]:
    """The flags, with that of the word without a flag.

    Raises:
        ConfigError: There are several such words, or its flag is given as well.
    """
    if not named:
        return flags
    what = POSITIONALS[key]
    if len(named) > 1:
        several = "; corpus.sources names several sources" if key == "corpus.source" else ""
        raise ConfigError(
            f"{named[0]!r} and {named[1]!r}: name {what} once, with quotes around a name with spaces{several}"
        )
    if any(flag.split("=")[0] == f"--{key}" for flag in flags):
        raise ConfigError(f"{named[0]!r} and --{key} both name {what}; give one of them")
    return [f"--{key}={named[0]}", *flags]


def _refuse_section(flag: str, value: str | None) -> None:
    """Refuse a value for a whole section, such as `--model bert`.

    Raises:
        ConfigError: Names the key that is most likely meant.
    """
    name = flag.lstrip("-")
    is_section = any(key.startswith(f"{name}.") for key in keys())
    if is_section and value is not None and not value.startswith("{") and not os.path.isfile(value):
        raise ConfigError(f"{name} is a section of keys; {aliases.advice(name, value, is_flag=True)}")
