"""The config of a search model that begins from a run: its documents, its split and its model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mlm_dist.config import command_line
from mlm_dist.config.flags import RUN, is_run, parse
from mlm_dist.config.tree import Config, flat, to_dict

PRESET = "search"
_KEPT = ("corpus.", "rows.max_length")  # keys of the run that its search model takes over


def parse_search_model(
    argv: Sequence[str] | None = None, *, prog: str, help_text: Callable[[], str] | None = None
) -> Config:
    """As `flags.parse`, with the preset `search`; a word without a flag may also be the directory of a run.

    The search model of a run begins from its exported model. It has the documents and the validation split of the run,
    and rows of the same length. By default its directory is that of the run with `-search` at its end.

    Args:
        argv: See `flags.parse`.
        prog: See `flags.parse`.
        help_text: See `flags.parse`.
    """
    pairs = list(command_line.pairs(sys.argv[1:] if argv is None else argv))
    given = {flag for flag, _ in pairs}
    run = next((str(word) for flag, word in pairs if not flag and is_run(os.path.expanduser(str(word)))), None)
    words = [] if "--preset" in given else [f"--preset={PRESET}"]
    if run is not None:
        folder = os.path.normpath(os.path.expanduser(run))
        kept = _flags_of(folder) | {"--model.name_or_path": folder, f"--{RUN}": f"{folder}-search"}
        words += [f"{flag}={value}" for flag, value in kept.items() if flag not in given]
    words += [command_line.joined(flag, value) if flag else str(value) for flag, value in pairs if flag or value != run]
    return parse(words, prog=prog, help_text=help_text)


def _flags_of(folder: str) -> dict[str, str]:
    """{flag: value} of the keys of a run that are kept, where they differ from the defaults."""
    of_run = os.path.join(folder, "config.yaml")
    values = flat(to_dict(parse([f"--config={of_run}"] if os.path.isfile(of_run) else [], prog="embed")))
    defaults = flat(to_dict(Config()))
    return {
        f"--{key}": _as_flag(value)
        for key, value in values.items()
        if key.startswith(_KEPT) and value != defaults.get(key)
    }


def _as_flag(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
