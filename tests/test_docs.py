"""Every command in the README, docs/ and CONTRIBUTING.md is run, or at least parsed by the program it starts."""

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
from test_after_training import write_records

from mlm_dist import cli, launcher, usage
from mlm_dist.commands import completion
from mlm_dist.commands import keys as explain
from mlm_dist.config import keys, parse

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "python", "text", "toml", "yaml"}
STARTS = r"make|pip|python|accelerate launch|mlm-dist(?! --)|sbatch|srun|\.venv/bin/\S+"
INLINE = re.compile(rf"`((?:\w+=\S+ )*(?:{STARTS})\s[^`]+)`")


def commands(page: Path) -> list[str]:
    """The commands of a page, each on one line: those in its bash blocks, then those in its text."""
    text = page.read_text("utf-8")
    blocks = FENCE.findall(text)
    assert {language for language, _ in blocks} <= LANGUAGES, f"{page.name}: every block needs a language"
    lines = "".join(body for language, body in blocks if language == "bash").replace("\\\n", " ").splitlines()
    written = [*(re.sub(r"\s#\s.*", "", line) for line in lines), *INLINE.findall(FENCE.sub("", text))]
    return [" ".join(command.split()) for command in written if command.strip()]


@dataclass(frozen=True)
class Tried:
    """How a command is tested.

    Args:
        more: Arguments appended to it, so that it ends soon and needs no network.
        is_quick: Whether `make test` runs it; otherwise only `make test-all` does.
        not_run: Why it is parsed but not run.
    """

    more: str = ""
    is_quick: bool = False
    not_run: str = ""


# Replacements for what a reader must supply and for other machines. They are applied in this order.
STANDS_FOR = {
    "my_docs": "documents",
    "s3://bucket": "file://$PWD/bucket",
    "more_docs": "filtered",
    "/shared/docs": "documents",
    "/shared/cache": "cache",
    "/shared/filtered": "filtered",
    "/shared/clustered": "clustered",
    "ddp.yaml": "cpu_2.yaml",
    "cpu_2.yaml": "cpu_2.yaml --main_process_port 0",  # another test may use the default port
    "--topology cpu_2": "--topology cpu_2 --main_process_port 0",
    "--num_processes 4": "--num_processes 2 --main_process_port 0 --gpu_ids=-1,-1",
    "--num_machines 4": "--num_machines 1",
    # A dry run: a real one would replace the package in the environment of the tests.
    "pip install": "pip install --dry-run --no-deps --no-build-isolation",
    "pip wheel": "pip wheel --no-build-isolation",
    '/launch" launch': '/launch" my_launch',  # a clone has a folder of this name
    "make quickstart": "$(make -n quickstart)",  # the command it runs, so that flags can be appended
    "make ": "make -o .venv/installed -o .venv/installed-dev ",  # which `.venv` stands for
}
PREPARE = " --corpus.cache_dir=cache --tokenizer.train_vocab_size=1000 --rows.max_length=32"
SHORT = f"{PREPARE} --corpus.validation_fraction=0.1 --optim.duration='2 steps' --export.verify=false"
# Local documents and a local model instead of downloads, in a directory that an earlier command may have used.
LOCAL = f" --corpus.source=documents --model.name_or_path=bert-tiny --checkpoint.resume=never{SHORT}"
# The same, of a command that names its documents.
LOCAL_MODEL = f" --model.name_or_path=bert-tiny --checkpoint.resume=never{SHORT}"
SEARCH = " --batch.global_size=4 --export.verify=false --rows.max_length=64"
SUITE = Tried(not_run="runs the tests")
LONG = Tried(not_run="takes minutes to hours; test_benchmarks.py runs it with tiny models")

# For a model that an earlier command has trained.
AGAIN = (
    " --corpus.source=documents --corpus.cache_dir=cache --rows.max_length=64 --corpus.validation_fraction=0.1 "
    "--optim.duration='2 steps' --export.verify=false"
)
# In the order in which they are run, in one copy of the repository.
COMMANDS = {
    "make docs": Tried(is_quick=True),
    "mlm-dist plan my_docs": Tried(SHORT),
    "mlm-dist train my_docs --preset continue --output_dir runs/base": Tried(LOCAL_MODEL),
    "mlm-dist train my_docs --topology zero2 --num_processes 4 --output_dir runs/four": Tried(SHORT),
    "mlm-dist train my_docs --output_dir runs/mine": Tried(SHORT, is_quick=True),
    "mlm-dist validate runs/mine": Tried(),
    "mlm-dist report runs/mine": Tried(),
    "mlm-dist embed my_docs --topology cpu --mixed_precision bf16 --rows.max_length 128": Tried(
        f"{LOCAL_MODEL} --batch.global_size=4"
    ),
    "mlm-dist validate runs/search --validation.tasks retrieval": Tried(),
    'mlm-dist search runs/search "how do I rotate keys"': Tried(),
    "mlm-dist embed my_docs --model.name_or_path sentence-transformers/all-MiniLM-L6-v2 --output_dir runs/found": Tried(
        f"{LOCAL_MODEL} --batch.global_size=4"
    ),
    "mlm-dist embed runs/mine": Tried(f"{SEARCH} --optim.duration='2 steps'"),
    "mlm-dist train my_docs --preset search --model.name_or_path runs/mine --batch.global_size 128": Tried(
        f" --corpus.cache_dir=cache {SEARCH} --optim.duration='2 steps' --output_dir=runs/found"
    ),
    "mlm-dist embed runs/mine --topology zero2 --num_processes 4": Tried(
        f"{SEARCH} --optim.duration='4 steps' --output_dir=runs/four-search"
    ),
    "mlm-dist validate runs/mine-search --validation.tasks retrieval": Tried(),
    'mlm-dist search runs/mine-search "how do I rotate keys"': Tried(),
    'mlm-dist search runs/mine-search "how do I rotate keys" --top 10 --json': Tried(),
    'mlm-dist search runs/mine-search "how do I rotate keys" --compare start': Tried(),
    "mlm-dist search runs/mine-search --serve": Tried(not_run="serves until Ctrl-C; test_search.py does so"),
    "pip install 'mlm_dist[search]'": Tried(),
    "mlm-dist keys optim": Tried(),
    "mlm-dist keys": Tried(),
    "mlm-dist keys learning_rate": Tried(),
    "accelerate launch mlm_dist/train.py": Tried(LOCAL),
    "mlm-dist cache": Tried(" --cache_dir=cache"),
    "mlm-dist cache prune --older-than 30d --dry-run": Tried(" --cache_dir=cache"),
    "mlm-dist env": Tried(),
    "mlm-dist prepare my_docs --corpus.store s3://bucket/corpora": Tried(PREPARE),
    "mlm-dist train my_docs --output_dir runs/mine --corpus.store s3://bucket/corpora --checkpoint.store "
    "s3://bucket/runs/mine": Tried(f"{SHORT} --output_dir=runs/stored"),
    "mlm-dist train my_docs --corpus.store s3://bucket/corpora --corpus.rows_from store": Tried(
        f"{SHORT} --output_dir=runs/from_store"
    ),
    "python mlm_dist/prepare.py --corpus.source s3://bucket/docs": Tried(f" --corpus.source=documents{PREPARE}"),
    "pip install 'mlm_dist[scale]'": Tried(),
    "export AWS_ENDPOINT_URL=https://minio.example.org AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...": Tried(
        not_run="names another machine"
    ),
    "mlm-dist train --model.init_from runs/mine/model --model.name_or_path runs/mine/model --output_dir runs/larger "
    "--model.overrides '{num_hidden_layers: 4, hidden_size: 192, num_attention_heads: 6, "
    "intermediate_size: 768}'": Tried(AGAIN),
    "mlm-dist train --model.init_from runs/mine/model --model.name_or_path runs/mine/model --output_dir runs/other "
    "--tokenizer.train_vocab_size 2000": Tried(AGAIN),
    "mlm-dist plan --model.name_or_path modernbert --model.overrides '{num_hidden_layers: 6, hidden_size: 384, "
    "num_attention_heads: 6, intermediate_size: 576}'": Tried(f" --corpus.source=documents{SHORT}"),
    'eval "$(mlm-dist --print_completion bash)"': Tried(),
    "pip install -e .": Tried(),
    "pip install -e '.[optimizers]'": Tried(),
    "pip wheel --no-deps --wheel-dir dist .": Tried(),
    "pip install --constraint constraints.txt dist/*.whl": Tried(),
    "pip install dist/*.whl": Tried(),
    "pip install 'mlm_dist[formats,onnx]'": Tried(),
    "pip install 'mlm_dist[formats]'": Tried(),
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": Tried(not_run="needs a network"),
    "python -m venv my_env": Tried(),
    "source my_env/bin/activate": Tried(),
    "mlm-dist --version": Tried(),
    "mlm-dist plan": Tried(SHORT),
    "mlm-dist train": Tried(LOCAL),
    "make quickstart": Tried(f"{SHORT} --checkpoint.resume=never"),
    "mlm-dist validate runs/mine --validation.tasks retrieval": Tried(),
    "mlm-dist export runs/mine --export.dtype bfloat16": Tried(),
    "mlm-dist export runs/mine --export.license apache-2.0 --export.language en": Tried(),
    "mlm-dist compare runs/mine runs/larger": Tried(),
    "mlm-dist compare runs/sweep/*": Tried(not_run="test_sweeps.py runs it"),
    "mlm-dist compare runs/mine runs/larger --output comparison.html --price_per_hour 2.5": Tried(),
    "pip install -e '.[onnx]'": Tried(),
    "mlm-dist export runs/mine --export.format onnx": Tried(),
    "python examples/classifier.py runs/mine/model labelled.jsonl runs/classifier": Tried(),
    "python examples/token_classifier.py runs/mine/model tagged.jsonl runs/tagger": Tried(),
    "pip install 'sentence-transformers>=5.7'": Tried(),
    "python examples/sentence_embeddings.py runs/mine/model pairs.jsonl runs/embeddings": Tried(),
    "python -c 'from transformers import pipeline; "
    'print(pipeline("fill-mask", "runs/mine/model")("The [MASK] of the key."))\'': Tried(),
    "python -c 'from transformers import pipeline; "
    'print(pipeline("fill-mask", "runs/quickstart/model")("The [MASK] of the list."))\'': Tried(),
    "mlm-dist prepare my_docs": Tried(PREPARE),
    "for lr in 3e-4 1e-3 3e-3; do for seed in 1 2 3; do mlm-dist train my_docs --optim.lr $lr "
    "--seed $seed --output_dir runs/sweep/lr=$lr,seed=$seed; done; done": Tried(not_run="test_sweeps.py runs it"),
    "pip install optuna": Tried(),
    "mlm-dist plan --corpus.sources.manuals.source my_docs --corpus.sources.general.source more_docs "
    '--corpus.mix "{manuals: 0.9, general: 0.1}"': Tried(SHORT),
    "mlm-dist train my_docs --output_dir runs/ema --optim.ema_decay 0.999 --export.average ema": Tried(SHORT),
    "mlm-dist validate runs/ema --validation.model average --export.average ema": Tried(),
    "mlm-dist export runs/ema --export.average ema": Tried(),
    "mlm-dist train my_docs --output_dir runs/mean --checkpoint.every 500 --checkpoint.keep_last 3 "
    "--export.average 3": Tried(f"{SHORT} --optim.duration='6 steps' --checkpoint.every=2"),
    "mlm-dist plan my_docs --preset phases": Tried(PREPARE),
    "mlm-dist train my_docs --preset phases": Tried(f"{PREPARE} --export.verify=false"),
    'mlm-dist plan my_docs --preset phases --phases.decay.optim.floor 0.1 --phases.decay.duration "40 steps"': Tried(
        PREPARE
    ),
    "mlm-dist train my_docs --preset phases --output_dir runs/slow --from runs/phases/checkpoints/step-00000090 "
    '--phases.decay.duration "50 steps"': Tried(f"{PREPARE} --export.verify=false"),
    "mlm-dist train my_docs --preset phases --output_dir runs/low --from runs/phases/checkpoints/step-00000090 "
    "--phases.decay.optim.lr 5e-4": Tried(f"{PREPARE} --export.verify=false"),
    "mlm-dist compare runs/phases runs/slow runs/low": Tried(),
    "mlm-dist plan my_docs --preset modernbert_decay --model.name_or_path modernbert "
    "--tokenizer.train_vocab_size 4096": Tried(" --corpus.cache_dir=cache --model.overrides.num_hidden_layers=1"),
    "python sweep.py": Tried(not_run="test_sweeps.py runs it"),
    "accelerate launch --config_file configs/accelerate/ddp.yaml mlm_dist/train.py "
    "--config configs/runs/azure_docs.yaml": Tried(LOCAL),
    "accelerate launch --use_deepspeed --deepspeed_config_file configs/deepspeed/zero2.json --num_processes 4 "
    "--mixed_precision bf16 mlm_dist/train.py": Tried(LOCAL),
    "accelerate launch --config_file configs/accelerate/cpu_2.yaml my_script.py": Tried(),
    "python mlm_dist/train.py": Tried(LOCAL),
    "mlm-dist train my_docs --model.name_or_path google-bert/bert-base-uncased --output_dir runs/base": Tried(
        LOCAL_MODEL
    ),
    "mlm-dist train --preset azure_docs_notebook": Tried(LOCAL),
    "mlm-dist train --preset azure_docs": Tried(LOCAL),
    "mlm-dist train --topology zero2 --num_processes 4 --optim.lr 3e-5": Tried(LOCAL),
    "accelerate launch --config_file configs/accelerate/zero2.yaml --num_processes 4 mlm_dist/train.py "
    "--optim.lr 3e-5": Tried(LOCAL),
    'mlm-dist train --optim.duration "2 hours"': Tried(LOCAL),
    "mlm-dist plan --topology cpu_2 --batch.global_size 64": Tried(LOCAL),
    "mlm-dist train --topology fsdp2_cpu --corpus.source my_docs": Tried(f"{SHORT} --output_dir=runs/sharded"),
    "mlm-dist train --topology zero2 --num_processes 2 --gpu_ids=-1,-1": Tried(f" --main_process_port=0{LOCAL}"),
    "mlm-dist plan --model.name_or_path modernbert --rows.max_length 8192 --model.checkpointing layers": Tried(
        " --model.overrides.num_hidden_layers=1 --corpus.source=documents --corpus.cache_dir=cache"
    ),
    "mlm-dist train --help": Tried(),
    'eval "$(mlm-dist --print_completion zsh)"': Tried(not_run="is for zsh; test_cli.py lets zsh read the script"),
    "python mlm_dist/prepare.py --corpus.source my_docs": Tried(PREPARE),
    "mlm-dist prepare --corpus.sources.manuals.source my_docs --corpus.sources.more.source more_docs": Tried(PREPARE),
    "python benchmarks/fidelity.py my_docs --examples 5": Tried(),
    "accelerate launch --config_file configs/accelerate/cpu_2.yaml mlm_dist/prepare.py --corpus.source my_docs": Tried(
        PREPARE
    ),
    "accelerate launch --num_machines 4 mlm_dist/prepare.py": Tried(LOCAL),
    'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)': Tried(),
    "srun --nodes 4 --ntasks-per-node 16 "
    "bash -c 'RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS exec python mlm_dist/prepare.py \"$@\"' "
    "prepare.py --corpus.source /shared/docs --corpus.cache_dir /shared/cache": Tried(),
    "python mlm_dist/prepare.py --corpus.source /shared/filtered --corpus.patterns '**/*.parquet' "
    "--corpus.deduplicate none --corpus.validation_fraction 0": Tried(PREPARE),
    "mlm-dist prepare my_docs --corpus.engine datatrove --corpus.tasks 8 --corpus.workers 4": Tried(PREPARE),
    'mlm-dist prepare my_docs --corpus.filters "{GopherQualityFilter: {min_doc_words: 30}, PIIFormatter: {}}"': Tried(
        PREPARE
    ),
    "pip install fasttext-numpy2-wheel fasteners": Tried(not_run="needs a network"),
    "python examples/near_duplicate_clusters.py /shared/filtered /shared/clustered 8": Tried(),
    "mlm-dist prepare /shared/clustered/documents --corpus.patterns '**/*.parquet' --corpus.group cluster "
    "--corpus.deduplicate none --corpus.keep_together exact": Tried(PREPARE),
    "mlm-dist prepare --corpus.source /shared/docs --corpus.cache_dir /shared/cache --corpus.engine datatrove "
    "--corpus.executor slurm --corpus.tasks 256 --corpus.workers 64 "
    "--corpus.executor_options '{partition: cpu, time: \"04:00:00\", mem_per_cpu_gb: 4}'": Tried(
        not_run="needs Slurm; test_engines.py runs such a command"
    ),
    "mlm-dist train --objective causal_lm --corpus.source my_docs": Tried(LOCAL),
    "mlm-dist train --masking.unit word": Tried(LOCAL),
    "mlm-dist train --masking.probability 0.15": Tried(LOCAL),
    "mlm-dist train --masking.unit span --masking.probability 0.2": Tried(LOCAL),
    "mlm-dist train --masking.probability 0.3 --masking.final_probability 0.15": Tried(LOCAL),
    "mlm-dist prepare --masking.unit word --corpus.source my_docs": Tried(PREPARE),
    "sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 launch/slurm.sbatch "
    "--config configs/runs/azure_docs.yaml": Tried(not_run="needs Slurm"),
    "cp -rL \"$(python -c 'import mlm_dist; print(mlm_dist.__path__[0])')/launch\" launch": Tried(),
    "job=$(sbatch --parsable --ntasks-per-node=64 launch/slurm_prepare.sbatch "
    "--config configs/runs/azure_docs.yaml)": Tried(not_run="needs Slurm"),
    "sbatch --dependency=afterok:$job --kill-on-invalid-dep=yes --nodes=2 --gpus-per-node=8 --cpus-per-task=64 "
    "launch/slurm.sbatch --config configs/runs/azure_docs.yaml": Tried(not_run="needs Slurm"),
    "kubectl apply --filename launch/kubernetes.yaml": Tried(not_run="needs Kubernetes"),
    "docker build --tag mlm_dist .": Tried(not_run="needs Docker"),
    "docker run --rm --gpus all --ipc host --volume mlm_dist:/data mlm_dist train --topology gpu": Tried(
        not_run="needs Docker"
    ),
    "make site": Tried(),
    "python docs/make_pictures.py": Tried(not_run="takes minutes; test_site.py tests its parts"),
    "mlm-dist train --model.name_or_path NAME --model.revision step100000 --corpus.source docs/": Tried(
        not_run="needs a model of the Hub"
    ),
    "make test": SUITE,
    "JOBS=8 make test": SUITE,
    "make test-all": SUITE,
    "make test-unit": SUITE,
    "make check": SUITE,
    ".venv/bin/pre-commit install": Tried(),
    "MLM_DIST_CASES=100 MLM_DIST_SEED=2 python -m pytest -m slow tests/test_random_kills.py": LONG,
    "make bench": LONG,
    "python benchmarks/throughput.py": LONG,
    "python benchmarks/throughput.py --models 6x384 --lengths 128": LONG,
    "python benchmarks/time_to_loss.py --source my_docs": LONG,
    "python benchmarks/time_to_loss.py --source my_docs --quality": LONG,
    "python benchmarks/time_to_loss.py --source my_docs --quality --model runs/quickstart/model --lr 1e-3 "
    "--tokens 500000": LONG,
    "python benchmarks/prepare.py --source my_docs": LONG,
    "python benchmarks/prepare.py --source my_docs --scale-gb 2": LONG,
    "python benchmarks/scale.py": LONG,
    "python benchmarks/scale.py --check 10000000": LONG,
    "python benchmarks/recipes.py --source my_docs --start python-docs --work 3e12": LONG,
    "python benchmarks/recipes.py --start my_docs --work 3e12": LONG,
    "python benchmarks/throughput.py --source my_docs": LONG,
    "python benchmarks/gpu.py": LONG,
    "python benchmarks/gpu.py --quick": LONG,
    "python benchmarks/gpu.py --store-losses": LONG,
    "python benchmarks/operators.py": LONG,
    "python benchmarks/loader.py": LONG,
    "python benchmarks/loader.py --source my_docs": LONG,
    "python benchmarks/scaling.py": LONG,
    "python benchmarks/scaling.py --source my_docs": LONG,
    "python benchmarks/checkpoint.py": LONG,
    "python benchmarks/startup.py": LONG,
    "python benchmarks/contrastive.py --source my_docs": LONG,
    "python benchmarks/worth.py my_docs my_other_docs": LONG,
    "python benchmarks/worth.py my_docs my_other_docs --recipes embed": LONG,
    "python benchmarks/first_result.py": LONG,
    "python benchmarks/first_result.py --variants modernbert-tiny,bert-tiny": LONG,
    "python benchmarks/head_initialization.py --source my_docs": LONG,
    "python benchmarks/activation_memory.py --source my_docs": LONG,
    "python benchmarks/scaling.py --predict --flops 1.5e11 --memory 2e10 --bandwidth 8.1e8 --latency 0 "
    "--overlap 0": Tried(),
}

# Replaces Slurm: two of the tasks, on this machine.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift 2; done
SLURM_NTASKS=2 SLURM_PROCID=1 "$@" &
SLURM_NTASKS=2 SLURM_PROCID=0 "$@" && wait $!
"""


def on_this_machine(command: str) -> str:
    """The command as the tests run it."""
    for written, replacement in STANDS_FOR.items():
        command = command.replace(written, replacement)
    return command


def test_every_command_has_a_row_and_every_row_a_command() -> None:
    assert set(COMMANDS) == {command for page in PAGES for command in commands(page)}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_parsed(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The programs that a command starts accept its flags and their values."""
    monkeypatch.chdir(ROOT)
    ended = launching.run(["bash", "-n", "-c", on_this_machine(command)])
    assert ended.returncode == 0, ended.output
    words = shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", on_this_machine(command)))
    match words[1:] if "=" in words[0] else words:
        case ["make", *targets]:
            ended = launching.run(["make", "-n", *targets])
            assert ended.returncode == 0, ended.output
        case ["mlm-dist", job, *flags] if job in usage.JOBS:
            split = cli.split_flags(flags)
            parsed_by_job(split.for_job)
            if split.topology is not None:
                file = str(launcher.accelerate_file(split.topology))
                parsed_by_launcher([*split.for_launcher, "--config_file", file, "train.py"])
        case ["mlm-dist", "keys", word]:
            explain.main([word])
        case ["mlm-dist", command, *_] if command in cli.COMMANDS:
            completion.parser(cli.COMMANDS).parse_args(words[1:])
        case ["mlm-dist", *flags]:
            with pytest.raises(SystemExit, match="0"):
                completion.parser(cli.COMMANDS).parse_args(flags)
        case ["accelerate", "launch", *flags]:
            parsed_by_launcher(flags)
        case ["python", script, *flags] if script.startswith("mlm_dist/"):
            assert (ROOT / script).is_file()
            parsed_by_job(flags)
        case ["python", script, *flags] if script.startswith("benchmarks/"):
            parsed_by_benchmark(script, flags, monkeypatch)
        case ["sbatch", *_, script, "--config", file]:
            assert launching.run(["bash", "-n", script]).returncode == 0
            parsed_by_job(["--config", file])


def parsed_by_job(flags: list[str]) -> None:
    if flags == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            parse(flags)
    else:
        parse(flags)


def parsed_by_launcher(flags: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    parsed = launch_command_parser().parse_args(flags)
    assert parsed.config_file is None or Path(parsed.config_file).is_file()
    assert parsed.deepspeed_config_file is None or Path(parsed.deepspeed_config_file).is_file()
    parse(parsed.training_script_args)


def parsed_by_benchmark(script: str, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class ParsedError(Exception):
        pass

    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser) -> None:
        parse_args(parser)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *flags])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    with pytest.raises(ParsedError):
        runpy.run_path(script, run_name="__main__")


@pytest.fixture
def scratch(tmp_path: Path, prose: Path) -> Path:
    """A folder with the documents that the commands use."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "filtered").mkdir()
    texts = [path.read_text("utf-8") for path in sorted(prose.iterdir())]
    for i, text in enumerate(texts):
        (tmp_path / "documents" / f"{i:02d}.md").write_text(text, "utf-8")
    pq.write_table(pa.table({"text": texts}), tmp_path / "filtered" / "part.parquet")
    write_records(tmp_path)
    return tmp_path


@pytest.fixture
def checkout(scratch: Path) -> Path:
    """The same folder with a copy of the repository, like a clone but with changes that are not committed yet."""
    ignored = GitIgnoreSpec.from_lines([*(ROOT / ".gitignore").read_text("utf-8").splitlines(), ".git"])

    def skipped(folder: str, names: list[str]) -> list[str]:
        paths = {name: Path(folder, name) for name in names}
        below = {name: f"{path.relative_to(ROOT)}{'/' if path.is_dir() else ''}" for name, path in paths.items()}
        return [name for name, path in below.items() if ignored.match_file(path)]

    shutil.copytree(ROOT, scratch, ignore=skipped, symlinks=True, dirs_exist_ok=True)
    (scratch / ".venv").symlink_to(sys.prefix)
    (scratch / "my_script.py").write_text(script_of_python_api(), "utf-8")
    run_git(scratch, "init")
    programs = scratch / ".git" / "programs"
    programs.mkdir()
    (programs / "srun").write_text(SRUN, "utf-8")
    (programs / "scontrol").write_text("#!/bin/sh\necho localhost\n", "utf-8")
    for path in programs.iterdir():
        path.chmod(0o755)
    return scratch


def script_of_python_api() -> str:
    """The first example of docs/python_api.md, on a small corpus and for two steps."""
    text = (ROOT / "docs" / "python_api.md").read_text("utf-8")
    script = next(body for language, body in FENCE.findall(text) if language == "python")
    small = {
        '{"source": "my_docs"}': '{"source": "documents", "validation_fraction": 0.2, "cache_dir": "cache"},\n'
        '    tokenizer={"train_vocab_size": 1000}, rows={"max_length": 64}, export={"verify": False},\n'
        '    checkpoint={"resume": "never"}',
        "3 epochs": "2 steps",
    }
    for written, replacement in small.items():
        assert written in script
        script = script.replace(written, replacement)
    return str(script)


def try_all(names: list[str], folder: Path, programs: Path, package: Path) -> None:
    """Run commands in a folder, one after the other, with the package of another folder."""
    # The home folder of this machine's user is not used, except for the operators that DeepSpeed compiled.
    extensions = os.environ.get("TORCH_EXTENSIONS_DIR", os.path.expanduser("~/.cache/torch_extensions"))
    environment: dict[str, Any] = {
        "PATH": os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(package),
        "HOME": str(folder / "home"),
        "TORCH_EXTENSIONS_DIR": extensions,
        "SLURM_JOB_NODELIST": "here",
        "GIT_DIR": str(folder / ".git"),  # not the repository of the tests
    }
    imported = launching.run(
        ["python", "-c", "import mlm_dist; print(mlm_dist.__path__[0])"], cwd=folder, **environment
    )
    assert imported.stdout.strip() == str(package / "mlm_dist"), imported.output
    failed = []
    for name in names:
        command = f"set -euo pipefail; {on_this_machine(name)}{COMMANDS[name].more}"
        ended = launching.run(["bash", "-c", command], cwd=folder, timeout=900, **environment)
        if ended.returncode != 0:
            failed.append(f"{name}\n{command}\n{ended.output}")
    assert not failed, "\n\n".join(failed)


def test_quick_commands_run_in_a_clone(checkout: Path) -> None:
    try_all([name for name in COMMANDS if COMMANDS[name].is_quick], checkout, checkout / ".git/programs", checkout)
    generated = Path("docs", "configuration.md")  # `make docs` is one of the commands
    assert (checkout / generated).read_bytes() == (ROOT / generated).read_bytes(), f"{generated} is old; run: make docs"
    assert (checkout / "runs/mine/report.html").exists()


@pytest.mark.slow
def test_all_commands_run_in_a_clone(checkout: Path) -> None:
    try_all([name for name in COMMANDS if not COMMANDS[name].not_run], checkout, checkout / ".git/programs", checkout)


@pytest.mark.slow
def test_all_commands_of_an_installed_package_run_anywhere(scratch: Path, installed: Path) -> None:
    """All commands of `mlm-dist` except those that name a file of the repository."""
    names = [name for name in COMMANDS if "mlm-dist " in name and "configs/" not in name]
    try_all([name for name in names if not COMMANDS[name].not_run], scratch, installed / "bin", installed)


def test_reference_lists_every_key_and_the_readme_only_existing_ones() -> None:
    rows = re.compile(r"^\| (`[^|]*`) \|", re.MULTILINE)
    reference = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    assert {row.strip("`") for row in rows.findall(reference)} == set(keys())
    section = (ROOT / "README.md").read_text("utf-8").split("## Configuration")[1].split("\n## ")[0]
    named = {key for row in rows.findall(section) for key in re.findall(r"`([^`]+)`", row)}
    assert named and named <= set(keys())


def test_the_page_on_phases_shows_the_preset() -> None:
    shown = dict(FENCE.findall((ROOT / "docs" / "phases.md").read_text("utf-8")))["yaml"]
    assert shown == (ROOT / "configs" / "runs" / "phases.yaml").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", re.sub(r"``.+?``|`[^`]+`", "", FENCE.sub("", text))):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:mlm_dist|configs|launch|benchmarks|tests|docs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
