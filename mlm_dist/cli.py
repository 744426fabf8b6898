"""`mlm-dist JOB`: the jobs for those who installed the package, each the same as its file under `mlm_dist/`.

    mlm-dist train --corpus.source docs/
    mlm-dist train --topology zero2 --num_processes 4 --optim.lr 3e-5

`--topology` launches a job through accelerate's own launcher. Flags with a dot belong to the job, as do those few of
its flags that have none; all others are the launcher's.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib
import importlib.util
import os
import signal
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn

from mlm_dist import __version__, runtime
from mlm_dist.config import Config, keys, parse, parse_of_run
from mlm_dist.errors import ConfigError, UserError, reason


class Job(NamedTuple):
    """A job.

    Args:
        says: What it does, in a few words.
        of_a_run: Whether it is about a run that exists, whose own configuration then stands before flags and files.
    """

    says: str
    of_a_run: bool = False


JOBS = {
    "plan": Job("show what a run will be and take, before anything is done"),
    "prepare": Job("turn documents into rows of tokens"),
    "train": Job("prepare if need be, train, validate and export"),
    "validate": Job("measure a model or a checkpoint on the held-out rows", of_a_run=True),
    "export": Job("write a checkpoint as a model for transformers", of_a_run=True),
    "report": Job("show a run in one HTML file", of_a_run=True),
}
# Flags of jobs that have no dot; what else has none is for the launcher.
_JOB_FLAGS = {"help", "config", "print_config", *(key for key in keys() if "." not in key)}
_TOPOLOGY = """

--topology NAME|PATH launches this job through accelerate, with one of its files: a packaged one ({names}) or your own.
Flags of `accelerate launch` go with it, such as --num_processes 4 or --mixed_precision bf16. Without it there is one
process, on whatever device is there. --debug shows the tracebacks of errors.
"""


def main() -> NoReturn:
    """Run the program with this process's arguments and leave with its exit code (see the README's table)."""
    try:
        _run(sys.argv[1:])
    except UserError as error:
        if os.environ.get(runtime.DEBUG):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(runtime.EXIT_USER_ERROR) from None
    raise SystemExit(runtime.EXIT_OK)


def topologies() -> dict[str, Path]:
    """{name: accelerate file} of those that come with the package."""
    folder = Path(__file__).resolve().parent / "configs" / "accelerate"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _run(words: Sequence[str]) -> None:
    name = next(iter(words), "--help")
    if name.startswith("-"):
        parser().parse_args(words)  # answers --help, --version and --print_completion, and refuses all else
        raise ConfigError("name a job: " + ", ".join(JOBS))
    if name not in JOBS:
        raise ConfigError(f"there is no job '{name}'; {_nearest(name, JOBS)}")
    own, for_job, for_launcher = _sorted(words[1:])
    if "debug" in own:
        os.environ[runtime.DEBUG] = "1"
    if own.get("topology") is not None:
        _launch(name, own["topology"], for_job, for_launcher)
    elif for_launcher:
        flag = for_launcher[0].split("=")[0].removeprefix("--")
        near = _nearest(flag, [*sorted(_JOB_FLAGS), "topology", "debug", *keys()])
        raise ConfigError(f"unknown key '{flag}'; {near}; flags of the launcher need --topology")
    else:
        sys.argv = [f"mlm-dist {name}", *for_job]
        runtime.run(_lazily(name), prog=sys.argv[0], description=_description(name), of_a_run=JOBS[name].of_a_run)


def _lazily(name: str) -> typing.Callable[[Config], None]:
    """A job that is imported when its flags have been read, so that help and errors do not wait for torch."""

    def run(config: Config) -> None:
        importlib.import_module(f"mlm_dist.{name}").main(config)

    return run


def _launch(name: str, topology: str, for_job: Sequence[str], for_launcher: Sequence[str]) -> None:
    """Run a job through accelerate's launcher, and leave with the exit code of its processes."""
    file = _file(topology)
    # Wrong flags and --help are answered here, once, before anything is started.
    read = parse_of_run if JOBS[name].of_a_run else parse
    read(for_job, prog=f"mlm-dist {name}", description=_description(name))

    import yaml
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from mlm_dist.engine import conflicts

    launcher = launch_command_parser()
    known = [flag.lstrip("-") for action in launcher._actions for flag in action.option_strings]
    for flag in (word.split("=")[0].lstrip("-") for word in for_launcher if word.startswith("--")):
        if flag not in known:
            near = _nearest(flag, [*_JOB_FLAGS, *keys(), *known])
            raise ConfigError(f"--{flag} is a flag of neither {name} nor the launcher; {near}")
    launcher.exit_on_error = False
    try:
        settings = yaml.safe_load(file.read_text("utf-8"))
        flags = launcher.parse_args(
            [*for_launcher, "--config_file", str(file), "--module", f"mlm_dist.{name}", *for_job]
        )
        conflicts.check_file(str(file), settings, vars(flags))
    except (argparse.ArgumentError, OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"--topology: cannot launch with {file} ({reason(error)})") from error
    if settings.get("use_cpu"):
        os.environ["ACCELERATE_USE_CPU"] = "true"  # accelerate tells a single process only
    flags.signals_to_handle = "SIGINT,SIGHUP,SIGQUIT"  # of torch's launcher; the others are passed on
    _pass_signals_on()
    try:
        launch_command(flags)
    except ChildFailedError as error:
        raise SystemExit(_shell_code(error.get_first_failure()[1].exitcode)) from None
    except SignalException as error:
        raise SystemExit(_shell_code(-error.sigval)) from None
    except Exception as error:
        code = getattr(error, "returncode", None)  # of a single process
        if code is not None:
            raise SystemExit(_shell_code(code)) from None
        raise ConfigError(f"--topology: cannot launch with {file} ({reason(error)})") from error


def _file(topology: str) -> Path:
    packaged = topologies()
    if topology in packaged:
        return packaged[topology]
    path = Path(topology).expanduser()
    if path.is_file():
        return path
    raise ConfigError(f"--topology: there is no accelerate file '{topology}'; {_nearest(topology, packaged)}")


def _pass_signals_on() -> None:
    """Let the processes of a launch have the signals that end a run, and give them the time to save.

    Accelerate would die of SIGUSR1 and leave them alone, and torch's launcher kills them 30 s after a SIGTERM.
    """

    def forward(number: int, frame: FrameType | None) -> None:
        import psutil

        for child in psutil.Process().children():
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, forward)


def _sorted(words: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """This program's own flags, the job's and the launcher's; what follows a flag goes with it."""
    own: dict[str, str] = {}
    lists: dict[str, list[str]] = {"job": [], "launcher": []}
    for group in _groups(words):
        flag, _, value = group[0].partition("=")
        flag = flag.removeprefix("--")
        if flag == "debug":
            own["debug"] = ""
            lists["job"] += group[1:]
        elif flag == "topology":
            given = [value] if value else group[1:]
            if len(given) != 1:
                raise ConfigError(f"--topology: name one file; packaged are {', '.join(topologies())}")
            own["topology"] = given[0]
        else:
            is_jobs = not group[0].startswith("--") or "." in flag or flag in _JOB_FLAGS
            lists["job" if is_jobs else "launcher"] += group
    return own, lists["job"], lists["launcher"]


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for word in words:
        if word.startswith("--") and group:
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _nearest(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return (
        f"did you mean '{close[0]}'?" if close else f"choose of {', '.join(known)}" if len(known) < 20 else "see --help"
    )


def _shell_code(code: int) -> int:
    """An exit code as a shell says it: 128 + the signal for a process that died of one."""
    return code if code >= 0 else 128 - code


def _description(name: str) -> str:
    """What a job says about itself, read without importing it."""
    spec = importlib.util.find_spec(f"mlm_dist.{name}")
    assert spec is not None, name
    assert spec.origin is not None, name
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return text + _TOPOLOGY.format(names=", ".join(topologies()))


def parser() -> argparse.ArgumentParser:
    """All jobs and flags, for help and completion; the jobs read their flags themselves."""
    import shtab

    top = argparse.ArgumentParser(
        prog="mlm-dist",
        description="Train BERT-like encoders on your own documents.",
        epilog="`mlm-dist JOB --help` explains every key of the configuration.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=__version__)
    shtab.add_argument_to(top, "--print_completion", help="print the completion of a shell; see docs/topologies.md")
    jobs = top.add_subparsers(title="jobs", metavar="JOB")
    for name, (says, _) in JOBS.items():
        one = jobs.add_parser(name, help=says, add_help=False)
        one.add_argument("--topology", choices=list(topologies()), help="launch through accelerate with this file")
        one.add_argument("--debug", action="store_true", help="show the tracebacks of errors")
        one.add_argument("--help", action="store_true", help="explain every key")
        file: Any = one.add_argument("--config", help="YAML file with any of the keys")
        file.complete = shtab.FILE
        for key, kind in keys().items():
            one.add_argument(f"--{key}", choices=_choices(kind), help=key)
    return top


def _choices(kind: Any) -> list[str] | None:
    if kind is bool:
        return ["true", "false"]
    literals = [part for part in (kind, *typing.get_args(kind)) if typing.get_origin(part) is typing.Literal]
    return list(typing.get_args(literals[0])) if literals else None


if __name__ == "__main__":
    main()
