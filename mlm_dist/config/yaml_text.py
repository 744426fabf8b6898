"""YAML in files and flags, checked before it is read: its size, its depth, and values that YAML reads as another type.

YAML 1.1 reads 017 as 15, 1:30 as 90 and no as false. Such values are refused, with the spelling to use.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlm_dist.errors import ConfigError

MAX_BYTES = 256 << 10
MAX_DEPTH = 16
MAX_VALUES = 10_000  # with each alias counted as what it stands for
MAX_DIGITS = 40

_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


def read(path: str) -> str:
    """The text of a YAML file.

    Raises:
        ConfigError: It does not exist, is no regular file, is too large, or is not UTF-8.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise ConfigError(f"--config: {path} is {kind}; name a YAML file")
        if status.st_size > MAX_BYTES:
            raise ConfigError(f"--config: {path} has {status.st_size:,} bytes; a config has at most {MAX_BYTES:,}")
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config: {path} is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"--config: cannot read {path} ({why}); name a YAML file") from None


def check(text: str, name: str, kinds: Mapping[str, Any], key: str = "") -> dict[str, int]:
    """Refuse YAML that is not what its author means, or that is too much to be a config.

    Args:
        text: The YAML.
        name: The file, for messages; empty for a flag.
        kinds: {dotted key: type} of the config.
        key: The key whose value it is; empty for a file.

    Returns:
        {dotted key: line} of a file.

    Raises:
        ConfigError: A key is given twice, a value is read as another type than it looks, or the text is too deep or
            refers to itself.
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    where = _Where(name, key)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise where.error(event.start_mark, f"lists and mappings are nested over {MAX_DEPTH} deep")
            if tag := getattr(event, "tag", None):
                raise where.error(event.start_mark, f"tags such as {tag} are not read; write the value alone")
        root = yaml.compose(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, ConfigError) or not name:
            raise
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise where.error(mark, f"is not YAML ({problem})") from None
    found = _Keys(where, kinds)
    if root is not None:
        found.add(root, key)
    elif name:
        raise ConfigError(f"--config: {name} is empty; write keys and values, such as seed: 1")
    return found.lines


class _Where:
    """Where a text is, for messages."""

    def __init__(self, name: str, key: str) -> None:
        self._name, self._key = name, key

    def error(self, mark: Any, problem: str, key: str = "") -> ConfigError:
        """The error for a problem at a place of the text."""
        subject = key or self._key or "--config"
        if not self._name:
            return ConfigError(f"{subject}: {problem}")
        line = "" if mark is None else f", line {mark.line + 1}"
        return ConfigError(f"{subject}: {problem} ({self._name}{line})")


class _Keys:
    """The keys and values of a text, checked while they are added."""

    def __init__(self, where: _Where, kinds: Mapping[str, Any]) -> None:
        self.lines: dict[str, int] = {}
        self._where, self._kinds = where, kinds
        self._open: list[Any] = []
        self._count = 0

    def add(self, node: Any, key: str) -> None:
        """Check a node and all below it; an alias counts as what it stands for."""
        import yaml

        self._count += 1
        if any(node is one for one in self._open):
            raise self._where.error(node.start_mark, "refers to itself", key)
        if self._count > MAX_VALUES:
            raise self._where.error(node.start_mark, f"has over {MAX_VALUES:,} values, aliases included", key)
        if isinstance(node, yaml.ScalarNode):
            self._scalar(node, key)
            return
        self._open.append(node)
        if isinstance(node, yaml.MappingNode):
            for name, value, line in self._pairs(node, key):
                if line is not None:
                    self.lines[name] = line
                self.add(value, name)
        else:
            for value in node.value:
                self.add(value, key)
        self._open.pop()

    def _pairs(self, node: Any, key: str) -> Iterator[tuple[str, Any, int | None]]:
        """(dotted key, value, line) of a mapping; the values of a merge key, which others override, have no line."""
        import yaml

        seen: dict[str, int] = {}
        for name, value in node.value:
            if name.tag == "tag:yaml.org,2002:merge":
                if not isinstance(value, yaml.CollectionNode):
                    raise self._where.error(name.start_mark, "<< takes a mapping, such as << : *name", key)
                yield key, value, None
                continue
            is_text = name.tag == "tag:yaml.org,2002:str" or key.startswith("model.overrides")
            if not isinstance(name, yaml.ScalarNode) or not is_text:
                raise self._where.error(name.start_mark, "a key must be a name", key)
            dotted = f"{key}.{name.value}" if key else name.value
            if not key and name.value == "config":
                raise self._where.error(name.start_mark, "a file cannot name another; give --config several times")
            line = name.start_mark.line + 1
            before = seen.get(dotted) or (self.lines.get(dotted) if dotted in self._kinds else None)
            if before is not None:
                raise self._where.error(name.start_mark, f"is given twice, first in line {before}; remove one", dotted)
            seen[dotted] = line
            yield dotted, value, line

    def _scalar(self, node: Any, key: str) -> None:
        text = node.value
        if node.style is not None and node.style != "":
            return  # in quotes, or a block of text
        if _OCTAL.fullmatch(text):
            other = text.replace("_", "").lstrip("-+0") or "0"
            problem = f"{text} has a leading zero, which YAML reads as octal; write {other}, or '{text}' for text"
        elif _SEXAGESIMAL.fullmatch(text):
            problem = f"YAML reads {text} as a number in base 60; write the number, or '{text}' for text"
        elif text.lower() in _WORDS and self._kinds.get(key) is not bool:
            problem = f"YAML reads {text} as {_WORDS[text.lower()]}; write {_WORDS[text.lower()]}, or '{text}' for text"
        elif len(text) > MAX_DIGITS and re.fullmatch(r"[-+]?[0-9_.]+", text):
            problem = f"a number of {len(text):,} digits is too long"
        else:
            return
        raise self._where.error(node.start_mark, problem, key)
