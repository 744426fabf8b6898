"""What --help prints: a screen for each job, with the keys most people need."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from mlm_dist.config import Config, parse, parse_of_run, parse_search_model, reference, value_of
from mlm_dist.config.presets import PRESETS, summary
from mlm_dist.engine.topologies import TOPOLOGIES

WIDTH = 80

_TRAINING = {
    "output_dir": "run directory",
    "model.name_or_path": "checkpoint, or architecture from scratch",
    "optim.duration": 'or "1000 steps", "2 hours", "1B tokens"',
    "optim.lr": "peak learning rate; null: suits the model",
    "batch.global_size": "rows per step, over all processes",
    "rows.max_length": "tokens per row",
    "masking.probability": "probability of each token to be predicted",
    "corpus.text": "fields of a record that hold its text",
    "validation.every": "steps between validations",
    "tracking.trackers": "tensorboard, wandb, mlflow, trackio, ...",
}
_PREPARATION = {
    "model.name_or_path": "model whose tokenizer is used",
    "tokenizer.train_vocab_size": "train a tokenizer with this many tokens",
    "rows.max_length": "tokens per row",
    "rows.mode": "pack, chunk or truncate; null decides by the model",
    "corpus.text": "fields of a record that hold its text",
    "corpus.deduplicate": "near, exact or none",
    "corpus.min_chars": "characters under which a document is dropped",
    "corpus.validation_fraction": "fraction of documents held out",
    "corpus.export": "file to write the kept documents to",
    "corpus.cache_dir": "folder of prepared corpora",
}
_SEARCH = {
    "output_dir": "run directory; of a run, its own with -search",
    "model.name_or_path": "encoder to begin from; of a run, its model",
    "optim.duration": 'or "1000 steps", "2 hours"',
    "batch.global_size": "pairs per step, over all processes",
    "rows.max_length": "tokens of a query and its passage",
    "contrastive.temperature": "similarities are divided by it",
    "validation.every": "steps between validations",
}
_VALIDATION = {
    "validation.model": "model, checkpoint, start, or a folder",
    "validation.sentences": "sentences for the pseudo-log-likelihood",
    "validation.tasks": "retrieval, queries, classification",
}
_EXPORT = {
    "export.checkpoint": "newest, best or the folder of a checkpoint",
    "export.dtype": "float32, bfloat16 or float16",
    "export.format": "safetensors, or onnx as well",
    "export.push_to_hub": "repository to upload to",
}


class Job(NamedTuple):
    """A job.

    Args:
        help: What it does, in a few words.
        of_a_run: Whether it is about an existing run, whose config is read before files and flags.
        of_documents_or_run: Whether it is about documents, or begins from a run, see `config.parse_search_model`.
        examples: Command lines, without the program.
        keys: The keys most people need, and their meaning in a few words.
    """

    help: str
    of_a_run: bool = False
    of_documents_or_run: bool = False
    examples: tuple[str, ...] = ()
    keys: Mapping[str, str] = MappingProxyType({})

    @property
    def read(self) -> Callable[..., Config]:
        """Reads its flags."""
        if self.of_documents_or_run:
            return parse_search_model
        return parse_of_run if self.of_a_run else parse


JOBS = {
    "plan": Job(
        "dry run: size, time and memory of a run",
        examples=("plan my_docs", "plan my_docs --preset continue", "plan my_docs --topology zero2 --num_processes 4"),
        keys=_TRAINING,
    ),
    "prepare": Job(
        "turn documents into rows of tokens",
        examples=("prepare my_docs", "prepare my_docs --topology cpu_2", "prepare my_docs --corpus.patterns '**/*.md'"),
        keys=_PREPARATION,
    ),
    "train": Job(
        "prepare if necessary, train, validate and export",
        examples=(
            "train my_docs",
            "train my_docs --preset continue --output_dir runs/mine",
            'train my_docs --optim.duration "2 hours" --output_dir runs/mine',
            "train my_docs --topology ddp --num_processes 4",
        ),
        keys=_TRAINING,
    ),
    "embed": Job(
        "train a search model on titles, headings and sections",
        of_documents_or_run=True,
        examples=("embed runs/mine", "embed my_docs --model.name_or_path bert-base-uncased"),
        keys=_SEARCH,
    ),
    "validate": Job(
        "evaluate a model or a checkpoint on the validation set",
        of_a_run=True,
        examples=("validate runs/mine", "validate runs/mine --validation.model start"),
        keys=_VALIDATION,
    ),
    "export": Job(
        "write a checkpoint as a Hugging Face model",
        of_a_run=True,
        examples=("export runs/mine", "export runs/mine --export.checkpoint best --export.dtype bfloat16"),
        keys=_EXPORT,
    ),
    "report": Job("show a run in one HTML file", of_a_run=True, examples=("report runs/mine",)),
}


def text(prog: str, description: str | None = None) -> str:
    """What --help prints for a job.

    Args:
        prog: How it was called: `mlm-dist train`, or the name of its file.
        description: What it does, with examples; by default those of `JOBS`.
    """
    name = prog.rsplit(maxsplit=1)[-1].removesuffix(".py")
    job = JOBS.get(name, Job(name))
    about = (
        "RUN   run directory; its config is read before other files and flags"
        if job.of_a_run
        else "RUN   run directory, whose documents and model are used; or a folder of documents"
        if job.of_documents_or_run
        else "DOCS  folder, file, git address, or owner/name of a dataset on the Hub; without it, the documentation "
        "that comes with Python"
    )
    parts = [
        f"Usage: {prog} [{about[:4].strip()}] [--KEY VALUE ...]",
        description.strip() if description else job.help.capitalize() + ".",
        textwrap.fill(about, WIDTH, initial_indent="  ", subsequent_indent=" " * 8),
        "" if description else "Examples:\n" + "\n".join(f"  mlm-dist {one}" for one in job.examples),
        "Keys most people need, and their defaults:\n" + _table(_keys(job.keys)) if job.keys else "",
        "Options:\n" + _table(_options()),
        "All keys: mlm-dist keys. Those of a section: mlm-dist keys optim.",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _keys(meanings: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    defaults = Config()
    for key, meaning in meanings.items():
        value = reference.as_yaml(value_of(defaults, key))
        yield f"--{key} " + (f'"{value}"' if " " in value else value), meaning


def _options() -> Iterable[tuple[str, str]]:
    yield "--preset NAME", f"start from a packaged config: {', '.join(PRESETS)}"
    yield "--config FILE", "YAML file with any keys; preset < file < flag"
    yield "--from CHECKPOINT", "begin from a checkpoint of another run, moments included; see docs/phases.md"
    topologies = ", ".join(TOPOLOGIES.names())
    yield "--topology NAME", f"launch through accelerate, with its flags: {topologies}, or a file of your own"
    yield "--debug", "show the traceback of an error"
    yield "--print_config", "print all keys as YAML and exit"
    yield "-h, --help", "show this text and exit"


def presets() -> str:
    """The presets, one a line, with the first sentence of each."""
    return _table((name, summary(name)) for name in PRESETS)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    found = list(rows)
    width = max(len(left) for left, _ in found) + 2
    return "\n".join(
        textwrap.fill(
            right,
            WIDTH,
            initial_indent=f"  {left:<{width}}",
            subsequent_indent=" " * (width + 2),
            break_on_hyphens=False,
        )
        for left, right in found
    )
