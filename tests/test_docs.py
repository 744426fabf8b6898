"""Every command in the README, in docs/ and in CONTRIBUTING.md is run, or at least read by the programs it starts."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launching
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from launching import ROOT
from making import run_git
from pathspec import GitIgnoreSpec

from mlm_dist import cli
from mlm_dist.config import keys, parse

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
STARTS = r"make|pip|python|accelerate launch|mlm-dist(?! --)|sbatch|srun|\.venv/bin/\S+"
INLINE = re.compile(rf"`((?:\w+=\S+ )*(?:{STARTS})\s[^`]+)`")


def commands(page: Path) -> list[str]:
    """The commands of a page, each on one line: those in its blocks, then those within its text."""
    text = page.read_text("utf-8")
    blocks = FENCE.findall(text)
    assert {language for language, _ in blocks} <= {"bash", ""}, f"{page.name}: commands go into blocks of bash"
    lines = "".join(body for language, body in blocks if language == "bash").replace("\\\n", " ").splitlines()
    found = [*(re.sub(r"\s#\s.*", "", line) for line in lines), *INLINE.findall(FENCE.sub("", text))]
    return [" ".join(command.split()) for command in found if command.strip()]


@dataclass(frozen=True)
class Tried:
    """How a command is tried.

    Args:
        more: What is put behind it, so that it ends soon and needs no network.
        is_quick: Whether it is run by `make test` already, not by `make test-all` alone.
        not_run: Why it is only read.
    """

    more: str = ""
    is_quick: bool = False
    not_run: str = ""


# What the pages leave to the reader, and machines that are not here. The first that fit come first.
STANDS_FOR = {
    "path/to/your/docs": "documents",
    "path/to/docs": "documents",
    "/shared/docs": "documents",
    "/shared/cache": "cache",
    "/shared/filtered": "filtered",
    "ddp.yaml": "cpu_2.yaml",
    "cpu_2.yaml": "cpu_2.yaml --main_process_port 0",  # another test may have the usual one
    "--topology cpu_2": "--topology cpu_2 --main_process_port 0",
    "--num_processes 4": "--num_processes 2 --main_process_port 0",
    "--num_machines …": "--num_machines 1",
    "--config_file configs/accelerate/NAME.yaml": "--config_file configs/accelerate/cpu.yaml",
    "--topology NAME": "--topology cpu",
    "mlm-dist JOB": "mlm-dist plan",
    # A dry run: another would take the package out of the environment that runs the tests; the wheel is installed.
    "pip install": "pip install --dry-run --no-deps --no-build-isolation",
    "make quickstart": "$(make -n quickstart)",  # what it starts, so that flags can follow
    "make ": "make -o .venv/installed -o .venv/installed-dev ",  # which `.venv` stands for
    " ...": "",
}
PREPARE = " --corpus.cache_dir=cache --tokenizer.train_vocab_size=1000 --rows.max_length=64"
SHORT = f"{PREPARE} --corpus.validation_fraction=0.2 --optim.duration='2 steps' --export.verify=false"
# Instead of what is on a network; into a directory that an earlier command may have used.
OURS = f" --corpus.source=documents --model.name_or_path=bert-tiny --checkpoint.resume=never{SHORT}"
SUITE = Tried(not_run="is the suite, or holds it")
LONG = Tried(not_run="takes minutes to hours; test_benchmarks.py runs the same with tiny models")

# In the order in which they are run, in one copy of the repository.
COMMANDS = {
    "make docs": Tried(is_quick=True),
    "mlm-dist plan --corpus.source path/to/your/docs": Tried(SHORT, is_quick=True),
    "mlm-dist train --corpus.source path/to/your/docs --output_dir runs/mine": Tried(SHORT, is_quick=True),
    'eval "$(mlm-dist --print_completion bash)"': Tried(is_quick=True),
    "accelerate launch mlm_dist/train.py --corpus.source path/to/your/docs --output_dir runs/mine": Tried(SHORT),
    "pip install -e .": Tried(),
    "make quickstart": Tried(SHORT),
    "mlm-dist validate --output_dir runs/mine": Tried(),
    "mlm-dist export --output_dir runs/mine --export.dtype bfloat16": Tried(),
    "mlm-dist report --output_dir runs/mine": Tried(),
    "python -c 'from transformers import pipeline; "
    'print(pipeline("fill-mask", "runs/mine/model")("The [MASK] of the key."))\'': Tried(),
    "accelerate launch --config_file configs/accelerate/ddp.yaml mlm_dist/train.py "
    "--config configs/runs/azure_docs.yaml": Tried(OURS),
    "mlm-dist train --topology zero2 --num_processes 4 --corpus.source path/to/your/docs --output_dir runs/four": Tried(
        SHORT
    ),
    "mlm-dist JOB": Tried(OURS),
    "mlm-dist train --topology NAME ...": Tried(OURS),
    "accelerate launch --config_file configs/accelerate/NAME.yaml mlm_dist/train.py ...": Tried(OURS),
    "accelerate launch --use_deepspeed --deepspeed_config_file configs/deepspeed/zero2.json ...": Tried(
        f" --num_processes=2 --mixed_precision=bf16 --main_process_port=0 mlm_dist/train.py{OURS}"
    ),
    "python mlm_dist/train.py": Tried(OURS),
    "mlm-dist train --corpus.source path/to/your/docs --model.name_or_path google-bert/bert-base-uncased "
    "--output_dir runs/base": Tried(OURS),
    "mlm-dist train --config configs/runs/azure_docs_notebook.yaml": Tried(OURS),
    "mlm-dist train --config configs/runs/azure_docs.yaml": Tried(OURS),
    "mlm-dist train --topology zero2 --num_processes 4 --optim.lr 3e-5": Tried(OURS),
    "accelerate launch --config_file configs/accelerate/zero2.yaml --num_processes 4 mlm_dist/train.py "
    "--optim.lr 3e-5": Tried(OURS),
    "mlm-dist plan --topology cpu_2 --batch.global_size 64": Tried(OURS),
    "mlm-dist train --help": Tried(),
    'eval "$(mlm-dist --print_completion zsh)"': Tried(not_run="is for zsh; test_cli.py lets zsh read the script"),
    "python mlm_dist/prepare.py --corpus.source path/to/your/docs": Tried(PREPARE),
    "accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/prepare.py "
    "--corpus.source path/to/your/docs": Tried(PREPARE),
    "accelerate launch --num_machines … mlm_dist/prepare.py": Tried(OURS),
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)': Tried(),
    "srun --nodes 4 --ntasks-per-node 16 "
    "bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS exec python mlm_dist/prepare.py \"$@\"' "
    "prepare.py --corpus.source /shared/docs --corpus.cache_dir /shared/cache": Tried(),
    "python mlm_dist/prepare.py --corpus.source /shared/filtered --corpus.patterns '**/*.parquet' "
    "--corpus.deduplicate none --corpus.validation_fraction 0": Tried(PREPARE),
    "mlm-dist train --masking.unit word": Tried(OURS),
    "mlm-dist train --masking.unit span --masking.probability 0.2": Tried(OURS),
    "mlm-dist train --masking.probability 0.3 --masking.final_probability 0.15": Tried(OURS),
    "mlm-dist prepare --masking.unit word --corpus.source path/to/your/docs": Tried(PREPARE),
    "pip install 'mlm_dist[optimizers]'": Tried(not_run="takes the package from an index, where it is not yet"),
    "sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sbatch --config ...": Tried(not_run="needs Slurm"),
    "sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 launch/slurm.sbatch "
    "--config configs/runs/azure_docs.yaml": Tried(not_run="needs Slurm"),
    "make test": SUITE,
    "JOBS=8 make test": SUITE,
    "make test-all": SUITE,
    "make check": SUITE,
    ".venv/bin/pre-commit install": Tried(),
    "make bench": LONG,
    "python benchmarks/throughput.py": LONG,
    "python benchmarks/throughput.py --models 6x384 --lengths 128": LONG,
    "python benchmarks/time_to_loss.py --source path/to/docs": LONG,
    "python benchmarks/time_to_loss.py --source path/to/docs --quality": LONG,
    "python benchmarks/time_to_loss.py --source path/to/docs --quality --model runs/quickstart/model --lr 1e-3 "
    "--tokens 500000": LONG,
    "python benchmarks/prepare.py --source path/to/docs": LONG,
    "python benchmarks/prepare.py --source path/to/docs --scale-gb 2": LONG,
    "python benchmarks/recipes.py --source path/to/docs --start python-docs --work 3e12": LONG,
    "python benchmarks/recipes.py --start path/to/docs --work 3e12": LONG,
    "python benchmarks/throughput.py --source path/to/docs": LONG,
    "python benchmarks/gpu.py": LONG,
    "python benchmarks/loader.py": LONG,
    "python benchmarks/loader.py --source path/to/docs": LONG,
    "python benchmarks/scaling.py": LONG,
    "python benchmarks/scaling.py --source path/to/docs": LONG,
    "python benchmarks/checkpoint.py": LONG,
    "python benchmarks/scaling.py --predict": Tried(),
}

# Stands in for Slurm: two of the tasks, on this machine.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift 2; done
SLURM_NTASKS=2 SLURM_PROCID=1 "$@" &
SLURM_NTASKS=2 SLURM_PROCID=0 "$@" && wait $!
"""


def here(command: str) -> str:
    """The command as it is run here."""
    for theirs, ours in STANDS_FOR.items():
        command = command.replace(theirs, ours)
    return command


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert set(COMMANDS) == {command for page in PAGES for command in commands(page)}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the parsers of the programs it starts, flags and their values included."""
    monkeypatch.chdir(ROOT)
    ended = launching.run(["bash", "-n", "-c", here(command)])
    assert ended.returncode == 0, ended.output
    words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", here(command)))
    match words[1:] if "=" in words[0] else words:
        case ["make", *targets]:
            ended = launching.run(["make", "-n", *targets])
            assert ended.returncode == 0, ended.output
        case ["mlm-dist", job, *flags] if job in cli.JOBS:
            own, for_job, for_launcher = cli._sorted(flags)
            read_by_job(for_job)
            if "topology" in own:
                read_by_launcher([*for_launcher, "--config_file", str(cli._file(own["topology"])), "train.py"])
        case ["mlm-dist", *flags]:
            with pytest.raises(SystemExit, match="0"):
                cli.parser().parse_args(flags)
        case ["accelerate", "launch", *flags]:
            read_by_launcher(flags if "mlm_dist/" in command else [*flags, "mlm_dist/train.py"])
        case ["python", script, *flags] if script.startswith("mlm_dist/"):
            assert (ROOT / script).is_file()
            read_by_job(flags)
        case ["python", script, *flags] if script.startswith("benchmarks/"):
            read_by_benchmark(script, flags, monkeypatch)
        case ["sbatch", *_, script, "--config", file]:
            assert launching.run(["bash", "-n", script]).returncode == 0
            read_by_job(["--config", file])


def read_by_job(flags: list[str]) -> None:
    if flags == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            parse(flags)
    else:
        parse(flags)


def read_by_launcher(flags: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    found = launch_command_parser().parse_args(flags)
    assert found.config_file is None or Path(found.config_file).is_file()
    assert found.deepspeed_config_file is None or Path(found.deepspeed_config_file).is_file()
    parse(found.training_script_args)


def read_by_benchmark(script: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class UnderstoodError(Exception):
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser) -> None:
        parse_args(parser)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(UnderstoodError):
        runpy.run_path(script, run_name="__main__")


@pytest.fixture
def scratch(tmp_path: Path, prose: Path) -> Path:
    """A folder with the documents that the commands are tried on."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "filtered").mkdir()
    texts = [path.read_text("utf-8") for path in sorted(prose.iterdir())]
    for i, text in enumerate(texts):
        (tmp_path / "documents" / f"{i:02d}.md").write_text(text, "utf-8")
    pq.write_table(pa.table({"text": texts}), tmp_path / "filtered" / "part.parquet")
    return tmp_path


@pytest.fixture
def checkout(scratch: Path) -> Path:
    """The same with the repository in it as a clone would have it, what is not committed yet included."""
    ignored = GitIgnoreSpec.from_lines([*(ROOT / ".gitignore").read_text("utf-8").splitlines(), ".git"])

    def left_out(folder: str, names: list[str]) -> list[str]:
        paths = {name: Path(folder, name) for name in names}
        below = {name: f"{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" for name, path in paths.items()}
        return [name for name, path in below.items() if ignored.match_file(path)]

    shutil.copytree(ROOT, scratch, ignore=left_out, symlinks=True, dirs_exist_ok=True)
    (scratch / ".venv").symlink_to(sys.prefix)
    run_git(scratch, "init")
    programs = scratch / ".git" / "programs"
    programs.mkdir()
    (programs / "srun").write_text(SRUN, "utf-8")
    (programs / "scontrol").write_text("#!/bin/sh\necho localhost\n", "utf-8")
    for path in programs.iterdir():
        path.chmod(0o755)
    return scratch


def try_all(names: list[str], folder: Path, programs: Path, package: Path) -> None:
    """Run commands in a folder, one after the other, with the package that lies in another."""
    # Nothing is left in, or taken from, what this machine's user has in his home; but the operators DeepSpeed compiled.
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR", os.path.expanduser("~/.cache/torch_extensions"))
    environment: dict[str, Any] = {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(package),
        "HOME": str(folder / "home"),
        "TORCH_EXTENSIONS_DIR": extensions,
        "SLURM_JOB_NODELIST": "here",
        "GIT_DIR": str(folder / ".git"),  # whoever started the tests
    }
    imported = launching.run(
        ["python", "-c", "import mlm_dist; print(mlm_dist.__path__[0])"], cwd=folder, **environment
    )
    assert imported.stdout.strip() == str(package / "mlm_dist"), imported.output
    failed = []
    for name in names:
        command = f"set -euo pipefail; {here(name)}{COMMANDS[name].more}"
        ended = launching.run(["bash", "-c", command], cwd=folder, timeout=900, **environment)
        if ended.returncode != 0:
            failed.append(f"{name}\n{command}\n{ended.output}")
    assert not failed, "\n\n".join(failed)


def test_quick_commands_run_in_a_clone(checkout: Path) -> None:
    try_all([name for name in COMMANDS if COMMANDS[name].is_quick], checkout, checkout / ".git/programs", checkout)
    for page in (ROOT / "docs").iterdir():  # `make docs` was among them
        ours, theirs = (folder / "docs" / page.name for folder in (ROOT, checkout))
        assert theirs.read_bytes() == ours.read_bytes(), f"docs/{page.name} is out of step; run: make docs"
    assert (checkout / "runs/mine/report.html").exists()


@pytest.mark.slow
def test_all_commands_run_in_a_clone(checkout: Path) -> None:
    try_all([name for name in COMMANDS if not COMMANDS[name].not_run], checkout, checkout / ".git/programs", checkout)


@pytest.mark.slow
def test_all_commands_of_an_installed_package_run_anywhere(scratch: Path, installed: Path) -> None:
    """All of `mlm-dist`, but for those that name a file of the checkout."""
    names = [name for name in COMMANDS if "mlm-dist " in name and "configs/" not in name]
    try_all([name for name in names if not COMMANDS[name].not_run], scratch, installed / "bin", installed)


def test_reference_has_every_key_and_the_readme_none_that_is_not() -> None:
    rows = re.compile(r"^\| (`[^|]*`) \|", re.MULTILINE)
    reference = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert {row.strip("`") for row in rows.findall(reference)} == set(keys())
    section = (ROOT / "README.md").read_text("utf-8").split("## Configuration")[1].split("\n## ")[0]
    named = {key for row in rows.findall(section) for key in re.findall(r"`([^`]+)`", row)}
    assert named and named <= set(keys())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_that_are_named_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", re.sub(r"``.+?``|`[^`]+`", "", FENCE.sub("", text))):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:mlm_dist|configs|launch|benchmarks|tests|docs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
