"""Messages for errors of the parser of flags: the key, what is wrong with it, and the nearest known key."""

from __future__ import annotations

import difflib
import re

from mlm_dist.config import aliases
from mlm_dist.config.tree import keys
from mlm_dist.config.value_types import shown, type_name

_MIX = "corpus: {sources: {docs: {source: DOCS}, general: {source: TEXT}}, mix: {docs: 0.9, general: 0.1}}"
_HELD_OUT = "corpus: {sources: {docs: {source: DOCS}, general: {source: TEXT, validation_fraction: 1}}, mix: {docs: 1}}"
# Keys of earlier versions, and how they are written now.
_REPLACED = {
    "optim.epochs": "optim.duration: '{} epochs'",
    "optim.steps": "optim.duration: '{} steps'",
    "optim.hours": "optim.duration: '{} hours'",
    "corpus.replay_source": _MIX,
    "corpus.replay_share": _MIX,
    "validation.second_source": _HELD_OUT,
    "validation.probe": "validation.tasks: [retrieval]",
}


def explain(message: str) -> str:
    """One line for a parser's message: the key, what is wrong with it, and the nearest known key."""
    unknown = re.search(r"unrecognized arguments: (-\S.*?)(?= --?[A-Za-z]|$)", message)
    in_group = re.search(r"Group '([^']*)' does not accept option '([^']*)'", message)
    top_level = re.search(r"(?:Key|Option) '([^']+)' is not (?:expected|accepted)", message)
    if unknown or in_group or top_level:
        if unknown:
            key = unknown[1].lstrip("-").split("=")[0]
        elif in_group:
            key = ".".join(part for part in in_group.groups() if part)
        else:
            assert top_level is not None
            key = top_level[1]
        return unknown_key(key, unknown[1].partition("=")[2] if unknown else "", is_flag=bool(unknown))
    wrong = re.search(r'key "([^"]+)"', message)
    if wrong and wrong[1] in keys():
        given = re.search(r"(?:Got value|Given value): (.*)", message)
        kind = keys()[wrong[1]]
        return f"{wrong[1]}: expected {type_name(kind)}, got {shown(given[1]) if given else 'something else'}"
    plain = " ".join(message.split())
    if section := re.match(r'Parser key "(\w+)": Unable to load config', plain):
        return f"{section[1]} is a section of keys; {aliases.advice(section[1], None, is_flag=False)}"
    for theirs, ours in (('Parser key "config": ', "--config: "), ("Problems parsing config: ", "--config: ")):
        plain = plain.replace(theirs, ours)
    return plain.replace("Unexpected config:", "--config: the file must hold keys and values, but holds")


def unknown_key(key: str, value: str = "", *, is_flag: bool = True) -> str:
    """One line for a key that does not exist: what to use instead, if that is known, or the nearest key.

    Args:
        key: The key, without dashes.
        value: The value that was given.
        is_flag: Whether it is a flag; otherwise it is a key in a file.
    """
    if key in _REPLACED:
        return f"{key} was replaced; write {_REPLACED[key].replace('{}', value or 'N')}"
    if key.startswith("phase."):
        return f"unknown key '{key}'; did you mean 'phases.{key.removeprefix('phase.')}'?"
    known = aliases.find(key) is not None
    return f"unknown key '{key}'; {aliases.advice(key, value, is_flag=is_flag) if known else _nearest(key)}"


def _nearest(key: str) -> str:
    known = list(keys())
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:  # a right leaf in the wrong group
        leaf = key.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
        close = close or difflib.get_close_matches(leaf, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else "`mlm-dist keys` lists all keys"
