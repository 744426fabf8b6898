"""Completion in a shell: all jobs, commands and flags, with the paths and values that they take."""

from __future__ import annotations

import argparse
import typing
from typing import Any

from mlm_dist import __version__
from mlm_dist.config import keys, reference
from mlm_dist.config.presets import PRESETS
from mlm_dist.engine.topologies import TOPOLOGIES
from mlm_dist.objectives import OBJECTIVES
from mlm_dist.optim import OPTIMIZERS
from mlm_dist.registry import Registry
from mlm_dist.usage import JOBS

# Keys whose values are paths: of folders only, or of files as well.
FOLDERS = ("output_dir", "corpus.cache_dir", "tokenizer.path", "checkpoint.resume", "export.checkpoint")
FILES = (*("corpus.source", "corpus.export", "model.name_or_path", "model.init_from", "validation.model"),)


def parser(commands: dict[str, str]) -> argparse.ArgumentParser:
    """All that can be written, for completion and for --version; jobs and commands read their own flags.

    Args:
        commands: {command: what it does} besides the jobs.
    """
    import shtab

    top = argparse.ArgumentParser(prog="mlm-dist", allow_abbrev=False)
    top.add_argument("--version", action="version", version=__version__)
    shtab.add_argument_to(top, "--print_completion", help="print the completion of a shell")
    jobs = top.add_subparsers(title="jobs", metavar="JOB")
    for name, job in JOBS.items():
        one = jobs.add_parser(name, help=job.help, add_help=False)
        one.add_argument("--topology", choices=TOPOLOGIES.names(), help="launch through accelerate with this file")
        one.add_argument("--preset", choices=list(PRESETS), help="start from a packaged config")
        _complete(one.add_argument("--from", help="begin from a checkpoint of another run"), shtab.DIRECTORY)
        one.add_argument("--debug", action="store_true", help="show the traceback of an error")
        one.add_argument("--print_config", action="store_true", help="print all keys as YAML")
        one.add_argument("--help", action="store_true", help="show the keys most people need")
        _complete(one.add_argument("--config", help="YAML file with any of the keys"), shtab.FILE)
        for key, kind in keys().items():
            action = one.add_argument(f"--{key}", choices=_choices(key, kind), help=key)
            if key in (*FOLDERS, *FILES):
                _complete(action, shtab.DIRECTORY if key in FOLDERS else shtab.FILE)
        what = ("RUN", shtab.DIRECTORY) if job.of_a_run or job.of_documents_or_run else ("DOCS", shtab.FILE)
        _complete(one.add_argument(what[0], nargs="?", help=what[0]), what[1])
    for name, text in commands.items():
        one = jobs.add_parser(name, help=text, add_help=False)
        one.add_argument("--help", action="store_true", help="show how it is used")
        if name == "keys":
            one.add_argument("WORD", nargs="?", choices=[*filter(None, reference.sections()), *keys()])
        if name == "compare":
            _complete(one.add_argument("RUN", nargs="+"), shtab.DIRECTORY)
            one.add_argument("--price_per_hour", help="price of an hour of training")
            _complete(one.add_argument("--output", help="the page to write"), shtab.FILE)
        if name == "search":
            _complete(one.add_argument("RUN"), shtab.DIRECTORY)
            one.add_argument("QUERY", nargs="?")
            one.add_argument("--top", help="passages to show")
            one.add_argument("--split", choices=["all", "train", "validation"], help="documents to search in")
            one.add_argument(
                "--compare", choices=["start", "none"], help="search with the model before training as well"
            )
            one.add_argument("--json", action="store_true", help="print one JSON object per passage")
            one.add_argument("--serve", action="store_true", help="serve a search page on this machine")
            one.add_argument("--port", help="port of the page")
        if name == "cache":
            one.add_argument("ACTION", nargs="?", choices=["prune"])
            one.add_argument("--older-than", help="remove corpora that were last used before")
            one.add_argument("--dry-run", action="store_true", help="show what would be removed")
            _complete(one.add_argument("--cache_dir", help="folder of prepared corpora"), shtab.DIRECTORY)
    return top


def _complete(action: Any, how: Any) -> None:
    action.complete = how


def _choices(key: str, kind: Any) -> list[str] | None:
    registries: dict[str, Registry[Any]] = {"objective": OBJECTIVES, "optim.name": OPTIMIZERS}
    if key in registries:
        return registries[key].names()
    if kind is bool:
        return ["true", "false"]
    literals = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is typing.Literal]
    return list(typing.get_args(literals[0])) if literals else None
