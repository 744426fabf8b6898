"""Speed of the input: rows to masked batches, compared with DataLoader and DataCollatorForLanguageModeling.

    python benchmarks/loader.py                                # rows of 128 and 512 tokens, batches of 32: ~3 minutes
    python benchmarks/loader.py --batch 512 --lengths 128

No model runs. mlm-dist is the loader that `train.py` uses. DataLoader runs without workers, with workers, and with
special tokens marked beforehand, which saves its collator a loop in Python. All have the same rows and alternate.
Prints a table and writes results/loader.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import systems
import workload
from common import console
from rich.table import Table


def mlm_dist(corpus: Path, length: int, batch: int, num_batches: int) -> Callable[[], None]:
    """A function that makes batches with this project's loader, one step ahead as in training."""
    from mlm_dist.batches.global_batch import spread
    from mlm_dist.batches.loader import Stream, Target, TrainingBatches
    from mlm_dist.batches.mixture import mixed_order
    from mlm_dist.batches.ramp import Ramp
    from mlm_dist.config import BatchConfig, MaskingConfig
    from mlm_dist.corpus.store import PreparedCorpus
    from mlm_dist.objectives.masked_lm import MaskedLM

    prepared = PreparedCorpus(corpus)
    rows = prepared.rows("train")
    stream = Stream(rows, mixed_order({"": range(len(rows))}, {}, seed=0), num_samples=10**12)
    objective = MaskedLM.with_masks(MaskingConfig(probability=workload.MASKED), 0, prepared)
    batch_spec = spread(BatchConfig(global_size=batch, micro_size=batch), length, 1)
    batches = TrainingBatches(stream, objective.corruption, batch_spec, Ramp(batch_spec, length), Target())
    step = 0

    def run() -> None:
        nonlocal step
        for step in range(step + 1, step + num_batches + 1):  # noqa: B020
            batches[step]

    return run


def data_loader(corpus: Path, batch: int, num_batches: int, *, workers: int, lean: bool) -> Callable[[], None]:
    """A function that makes batches with DataLoader and the collator."""
    from torch.utils.data import DataLoader
    from transformers import DataCollatorForLanguageModeling

    tokenizer = systems.tokenizer_of(corpus)
    if lean:
        tokenizer.model_input_names = ["input_ids"]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=workload.MASKED)
    loader = DataLoader(
        systems.rows_of(corpus, tokenizer, lean=lean),
        batch,
        shuffle=True,
        drop_last=True,
        collate_fn=collator,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def endless() -> Iterator[Any]:
        while True:
            yield from loader

    batches = endless()
    next(batches)  # starts the workers

    def run() -> None:
        for _ in range(num_batches):
            next(batches)

    return run


def measure(corpus: Path, length: int, batch: int, tokens: int, num_rounds: int) -> dict[str, Any]:
    """{loader: tokens per second}; `tokens` tokens per round, ten times as many for this project."""
    num_batches = max(1, tokens // (batch * length))
    loaders = {"mlm-dist": (mlm_dist(corpus, length, batch, 10 * num_batches), 10 * num_batches)}
    for workers in (0, 1, 2):
        for lean in (False, True):
            name = f"DataLoader, {workers} workers" + (", special tokens marked" if lean else "")
            loaders[name] = (data_loader(corpus, batch, num_batches, workers=workers, lean=lean), num_batches)
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for i in range(num_rounds + 1):
        for name, (run, count) in loaders.items():
            time.sleep(0.2)  # workers fill their queues before the next loader is measured
            began = time.perf_counter()
            run()
            if i:
                speeds[name].append(count * batch * length / (time.perf_counter() - began))
    return {
        name: {"tokens_per_second": common.spread(values), "speedup": common.ratios(speeds["mlm-dist"], values)}
        for name, values in speeds.items()
    }


def main() -> None:
    """Measure all lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lengths", type=lambda text: [int(one) for one in text.split(",")], default=[128, 512], help="tokens per row")
    add("--batch", type=int, default=32, help="rows")
    add("--tokens", type=int, default=200_000, help="tokens per loader and round")
    add("--rounds", type=int, default=5)
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--vocabulary", type=int, default=workload.VOCABULARY)
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "loader.json")
    arguments = parser.parse_args()
    cases = []
    for length in arguments.lengths:
        _, corpus, _ = workload.full_rows(arguments.source, arguments.vocabulary, length, arguments.cache)
        result = measure(corpus, length, arguments.batch, arguments.tokens, arguments.rounds)
        cases.append({"length": length, "batch": arguments.batch, "systems": result})
        title = f"batches of {arguments.batch} rows of {length} tokens"
        table = Table("", "tokens/s", "speedup of mlm-dist", title=title)
        for name, system in result.items():
            table.add_row(name, f"{system['tokens_per_second'].median:,.0f}", str(system["speedup"]))
        console.print(table)
    common.write(arguments.output, source=Path(arguments.source).name, cases=cases)


if __name__ == "__main__":
    main()
