"""`mlm-dist JOB`: the jobs of an installed package, each the same as its file under `mlm_dist/`.

    mlm-dist train --corpus.source docs/
    mlm-dist train --topology zero2 --num_processes 4 --optim.lr 3e-5

`--topology` launches a job through accelerate's launcher. Flags with a dot, and the few flags of a job without one,
belong to the job; all others belong to the launcher.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from mlm_dist import __version__, launcher, names, runtime
from mlm_dist.config import Config, keys, parse, parse_of_run
from mlm_dist.engine.topologies import TOPOLOGIES
from mlm_dist.errors import ConfigError, UserError
from mlm_dist.objectives import OBJECTIVES
from mlm_dist.optim import OPTIMIZERS
from mlm_dist.registry import Registry
from mlm_dist.stages import stage


class Job(NamedTuple):
    """A job.

    Args:
        help: What it does, in a few words.
        of_a_run: Whether it is about an existing run, whose config is read before files and flags.
    """

    help: str
    of_a_run: bool = False


JOBS = {
    "plan": Job("dry run: size, time and memory of a run"),
    "prepare": Job("turn documents into rows of tokens"),
    "train": Job("prepare if necessary, train, validate and export"),
    "validate": Job("evaluate a model or a checkpoint on the validation set", of_a_run=True),
    "export": Job("write a checkpoint as a Hugging Face model", of_a_run=True),
    "report": Job("show a run in one HTML file", of_a_run=True),
}
# Flags of jobs without a dot; all others without a dot belong to the launcher.
_JOB_FLAGS = {"help", "config", "print_config", *(key for key in keys() if "." not in key)}
_TOPOLOGY = """

--topology NAME|PATH launches this job through accelerate with one of its files: a packaged one ({names}) or your own.
Flags of `accelerate launch` can follow, such as --num_processes 4 or --mixed_precision bf16. Without it, one process
uses the device of this machine. --debug shows the tracebacks of errors.
"""


class Flags(NamedTuple):
    """The flags of a command line, by what they belong to.

    Args:
        topology: The value of --topology, if it is given.
        debug: Whether --debug is given.
        for_job: Flags of the job.
        for_launcher: Flags of the launcher.
    """

    topology: str | None
    debug: bool
    for_job: list[str]
    for_launcher: list[str]


def main() -> NoReturn:
    """Run the program with this process's arguments and exit with its exit code (see the README's table)."""
    try:
        _run(sys.argv[1:])
    except UserError as error:
        if os.environ.get(runtime.DEBUG):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(runtime.EXIT_USER_ERROR) from None
    raise SystemExit(runtime.EXIT_OK)


def _run(words: Sequence[str]) -> None:
    name = next(iter(words), "--help")
    if name.startswith("-"):
        parser().parse_args(words)  # answers --help, --version and --print_completion, and refuses all else
        raise ConfigError("name a job: " + ", ".join(JOBS))
    if name not in JOBS:
        raise ConfigError(f"there is no job '{name}'; {names.nearest(name, JOBS)}")
    flags = split_flags(words[1:])
    if flags.debug:
        os.environ[runtime.DEBUG] = "1"
    if flags.topology is not None:
        # Wrong flags and --help are answered here, once, before anything is launched.
        read = parse_of_run if JOBS[name].of_a_run else parse
        read(flags.for_job, prog=f"mlm-dist {name}", description=_description(name))
        launcher.launch(name, flags.topology, flags.for_job, flags.for_launcher, [*sorted(_JOB_FLAGS), *keys()])
    elif flags.for_launcher:
        flag = flags.for_launcher[0].split("=")[0].removeprefix("--")
        near = names.nearest(flag, [*sorted(_JOB_FLAGS), "topology", "debug", *keys()])
        raise ConfigError(f"unknown key '{flag}'; {near}; flags of the launcher need --topology")
    else:
        sys.argv = [f"mlm-dist {name}", *flags.for_job]
        runtime.main(_lazy(name), prog=sys.argv[0], description=_description(name), of_a_run=JOBS[name].of_a_run)


def _lazy(name: str) -> Callable[[Config], object]:
    """A job that is imported after its flags were read, so that help and errors do not wait for torch."""
    return lambda config: _imported(name).run(config)


def _imported(name: str) -> Any:
    with stage("starting", leaves_after=None):
        return importlib.import_module(f"mlm_dist.{name}")


def split_flags(words: Sequence[str]) -> Flags:
    """Sort flags by what they belong to; the words after a flag go with it.

    Raises:
        ConfigError: --topology has no value, or several.
    """
    topology, debug = None, False
    for_job: list[str] = []
    for_launcher: list[str] = []
    for group in _groups(words):
        flag, _, value = group[0].partition("=")
        flag = flag.removeprefix("--")
        if flag == "debug":
            debug = True
            for_job += group[1:]
        elif flag == "topology":
            values = [value] if value else group[1:]
            if len(values) != 1:
                raise ConfigError(f"--topology: name one file; packaged are {', '.join(TOPOLOGIES.names())}")
            topology = values[0]
        else:
            is_jobs = not group[0].startswith("--") or "." in flag or flag in _JOB_FLAGS
            (for_job if is_jobs else for_launcher).extend(group)
    return Flags(topology, debug, for_job, for_launcher)


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for word in words:
        if word.startswith("--") and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _description(name: str) -> str:
    """The docstring of a job, read without importing it."""
    spec = importlib.util.find_spec(f"mlm_dist.{name}")
    assert spec is not None, name
    assert spec.origin is not None, name
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return text + _TOPOLOGY.format(names=", ".join(TOPOLOGIES.names()))


def parser() -> argparse.ArgumentParser:
    """All jobs and flags, for help and completion; the jobs read their flags themselves."""
    import shtab

    top = argparse.ArgumentParser(
        prog="mlm-dist",
        description="Train BERT-like encoders on your own documents.",
        epilog="`mlm-dist JOB --help` explains every key of the config.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=__version__)
    shtab.add_argument_to(top, "--print_completion", help="print the completion of a shell; see docs/topologies.md")
    jobs = top.add_subparsers(title="jobs", metavar="JOB")
    registries: dict[str, Registry[Any]] = {"objective": OBJECTIVES, "optim.name": OPTIMIZERS}
    for name, (text, _) in JOBS.items():
        one = jobs.add_parser(name, help=text, add_help=False)
        one.add_argument("--topology", choices=TOPOLOGIES.names(), help="launch through accelerate with this file")
        one.add_argument("--debug", action="store_true", help="show the tracebacks of errors")
        one.add_argument("--help", action="store_true", help="explain every key")
        file: Any = one.add_argument("--config", help="YAML file with any of the keys")
        file.complete = shtab.FILE
        for key, kind in keys().items():
            choices = registries[key].names() if key in registries else _choices(kind)
            one.add_argument(f"--{key}", choices=choices, help=key)
    return top


def _choices(kind: Any) -> list[str] | None:
    if kind is bool:
        return ["true", "false"]
    literals = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is typing.Literal]
    return list(typing.get_args(literals[0])) if literals else None
