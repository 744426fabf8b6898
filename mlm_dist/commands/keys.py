"""`mlm-dist keys [WORD]`: explain the keys of the config.

mlm-dist keys                  all keys
mlm-dist keys optim            a section
mlm-dist keys lr               keys with a word in their name
mlm-dist keys learning_rate    the key that other tools call so
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

from mlm_dist.config import aliases, command_line, reference
from mlm_dist.config.messages import unknown_key
from mlm_dist.errors import ConfigError

MAX_WIDTH = 100


def main(words: Sequence[str]) -> None:
    """Print the reference of all keys, or of those that a word names.

    Raises:
        ConfigError: No key is meant by the word, or there are several words.
    """
    named = [value or "" for flag, value in command_line.pairs(words) if not flag]
    others = [flag for flag, _ in command_line.pairs(words) if flag]
    if others in (["-h"], ["--help"]):
        sys.stdout.write(f"{(__doc__ or '').strip()}\n")
        return
    if others or len(named) > 1:
        raise ConfigError(f"mlm-dist keys takes one word, such as optim or lr, got {' '.join(words)}")
    sections = reference.sections()
    found = [one for section in sections for one in reference.entries(section)]
    if named:
        found = _chosen(found, named[0])
    sys.stdout.write("\n".join(map(_shown, found)))


def _chosen(entries: list[reference.Entry], word: str) -> list[reference.Entry]:
    """The keys of a section, the key of this name, the one that it is an alias of, or all whose names hold it."""
    name = word.strip("-.").replace("-", "_").lower()
    alias = aliases.find(name)
    ways = (
        lambda key: key.startswith(f"{name}.") or key == name,
        lambda key: key.split(".")[-1] == name,
        lambda key: alias is not None and key == alias.key,
        lambda key: name in key,
    )
    for is_meant in ways:
        if found := [one for one in entries if is_meant(one.key)]:
            return found
    raise ConfigError(unknown_key(name, is_flag=False))


def _shown(entry: reference.Entry) -> str:
    width = min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)
    text = f"{entry.text} {reference.registered(entry.key)}".strip()
    head = textwrap.fill(
        f"{entry.key} = {entry.default}  ({entry.type.replace('`', '')})",
        width,
        subsequent_indent="    ",
        break_on_hyphens=False,
    )
    body = textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return f"{head}\n{body}\n"
