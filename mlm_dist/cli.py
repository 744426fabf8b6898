"""`mlm-dist JOB`: the jobs of an installed package, each the same as its file under `mlm_dist/`, and a few commands.

    mlm-dist train docs/
    mlm-dist train docs/ --topology zero2 --num_processes 4 --optim.lr 3e-5

`--topology` launches a job through accelerate's launcher. Flags with a dot, and the few flags of a job without one,
belong to the job; all others belong to the launcher.
"""

from __future__ import annotations

import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from mlm_dist import __version__, launcher, names, runtime, usage
from mlm_dist.config import Config, aliases, command_line, keys
from mlm_dist.config.messages import unknown_key
from mlm_dist.credentials import without_credentials
from mlm_dist.engine.topologies import TOPOLOGIES
from mlm_dist.errors import ConfigError, UserError
from mlm_dist.terminal.stages import stage
from mlm_dist.usage import JOBS

# What is no job: it has no config. The module of each takes the words behind its name.
COMMANDS = {
    "search": "find passages of a run's documents with its model",
    "compare": "compare runs: results, settings and curves",
    "keys": "explain the keys of the config",
    "cache": "list and remove prepared corpora",
    "env": "show versions and hardware, for bug reports",
}
# Names of other tools' jobs.
_OTHER_JOBS = {
    "train": ("pretrain", "fit", "run", "finetune", "fine-tune", "continue", "resume"),
    "embed": ("embedding", "embeddings", "contrastive", "sentence-transformer", "retrieval"),
    "prepare": ("preprocess", "tokenize", "data", "prep"),
    "validate": ("eval", "evaluate", "test", "score"),
    "export": ("save", "convert", "publish"),
    "report": ("show", "summary", "view"),
    "plan": ("dry-run", "dryrun", "estimate", "check"),
    "keys": ("config", "configs", "options", "params", "parameters", "settings"),
    "search": ("query", "find", "ask", "retrieve"),
    "compare": ("diff", "runs", "leaderboard"),
    "env": ("info", "version", "doctor", "system"),
    "cache": ("clean", "prune", "clear"),
    "--help": ("help", "presets", "jobs"),
}
# Flags of jobs without a dot; all others without a dot belong to the launcher.
_JOB_FLAGS = {"help", "h", "config", "preset", "from", "print_config", *(key for key in keys() if "." not in key)}


class Flags(NamedTuple):
    """The words of a command line, by what they belong to; a flag and its value are one word.

    Args:
        topology: The value of --topology, if it is given.
        debug: Whether --debug is given.
        for_job: Words of the job.
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
        print(f"error: {without_credentials(str(error))}", file=sys.stderr, flush=True)
        raise SystemExit(runtime.EXIT_USER_ERROR) from None
    raise SystemExit(runtime.EXIT_OK)


def _run(words: Sequence[str]) -> None:
    name = next(iter(words), "")
    if name in ("-h", "--help"):
        sys.stdout.write(_help())
    elif name == "--version" or name.startswith("--print_completion"):
        from mlm_dist.commands import completion

        completion.parser(COMMANDS).parse_args(words)
    elif name in JOBS:
        _run_job(name, words[1:])
    elif name in COMMANDS:
        importlib.import_module(f"mlm_dist.commands.{name}").main(words[1:])
    else:
        raise ConfigError(_unknown_job(name))


def _unknown_job(name: str) -> str:
    known = [*JOBS, *COMMANDS]
    if not name or name.startswith("-"):
        return f"name a job: {', '.join(known)}; see mlm-dist --help"
    for ours, theirs in _OTHER_JOBS.items():
        if name.lower().replace("_", "-") in theirs:
            return f"there is no job '{name}'; write mlm-dist {ours}"
    if os.path.exists(os.path.expanduser(name)):
        return f"there is no job '{name}'; to train on these documents, write mlm-dist train {name}"
    return f"there is no job '{name}'; {names.nearest(name, known)}"


def _run_job(name: str, words: Sequence[str]) -> None:
    flags, prog = split_flags(words), f"mlm-dist {name}"
    if name == "plan":
        os.environ[runtime.COMMAND] = shlex.join(map(without_credentials, words))
    if flags.debug:
        os.environ[runtime.DEBUG] = "1"
    if flags.topology is not None:
        # Wrong flags and --help are answered here, once, before anything is launched.
        JOBS[name].read(flags.for_job, prog=prog, help_text=lambda: usage.text(prog))
        launcher.launch(name, flags.topology, flags.for_job, flags.for_launcher, [*sorted(_JOB_FLAGS), *keys()])
    elif flags.for_launcher:
        flag, value = next(command_line.pairs(flags.for_launcher))
        raise ConfigError(_needs_topology(flag.removeprefix("--"), value))
    else:
        sys.argv = [prog, *flags.for_job]
        runtime.main(_lazy(name), prog=prog, read=JOBS[name].read)


def _needs_topology(flag: str, value: str | None) -> str:
    """The message for a flag that is not the job's, without --topology."""
    if aliases.find(flag) is not None:
        return unknown_key(flag, value or "")
    near = names.nearest(flag, [*sorted(_JOB_FLAGS), "topology", "debug", *keys()])
    return f"unknown key '{flag}'; {near}; flags of the launcher need --topology"


def _lazy(name: str) -> Callable[[Config], object]:
    """A job that is imported after its flags were read, so that help and errors do not wait for torch."""
    return lambda config: _imported(name).run(config)


def _imported(name: str) -> Any:
    with stage("starting", leaves_after=None):
        return importlib.import_module(f"mlm_dist.{name}")


def split_flags(words: Sequence[str]) -> Flags:
    """Sort the words behind a job by what they belong to.

    Raises:
        ConfigError: --topology has no value, or is given several times.
    """
    topology, debug = None, False
    for_job: list[str] = []
    for_launcher: list[str] = []
    for flag, value in command_line.pairs(words):
        name = flag.removeprefix("--")
        if flag == "--debug":
            debug = True
        elif flag == "--topology":
            if not value or topology is not None:
                raise ConfigError(f"--topology: name one file; packaged are {', '.join(TOPOLOGIES.names())}")
            topology = value
        elif not flag:
            for_job.append(str(value))
        else:
            is_jobs = not flag.startswith("--") or "." in name or name in _JOB_FLAGS
            (for_job if is_jobs else for_launcher).append(command_line.joined(flag, value))
    return Flags(topology, debug, for_job, for_launcher)


def _help() -> str:
    """What `mlm-dist --help` prints."""
    jobs = "\n".join(f"  {name:<10}{job.help}" for name, job in JOBS.items())
    commands = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return f"""\
Usage: mlm-dist JOB [DOCS or RUN] [--KEY VALUE ...]

mlm_dist {__version__}: train BERT-like encoders on your own documents.

Jobs:
{jobs}

Commands:
{commands}

Examples:
  mlm-dist plan my_docs
  mlm-dist train my_docs --preset continue --output_dir runs/mine
  mlm-dist validate runs/mine

Presets, for --preset:
{usage.presets()}

Options:
  --version                  print the version
  --print_completion SHELL   print the completion of bash, zsh or tcsh
  -h, --help                 show this text; after a job, its keys and options
"""


if __name__ == "__main__":
    main()
