"""The input alone: rows to masked batches, against DataLoader with DataCollatorForLanguageModeling on the same rows.

    python benchmarks/loader.py                                # rows of 128 and 512 tokens, batches of 32: ~3 minutes
    python benchmarks/loader.py --batch 512 --lengths 128

No model runs. mlm-dist is what `train.py` takes its batches from. The other is tried as one writes it, with workers,
and with the special tokens marked beforehand, which spares its collator a loop in Python. The contenders take turns.
Prints a table and writes results/loader.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import contenders
import workload
from common import say
from rich.table import Table


def ours(corpus: Path, batch: int, num_batches: int) -> Callable[[], None]:
    """A turn of this project: assemble so many batches, one ahead of the other, as in training."""
    from mlm_dist.batches.global_batch import BatchPlan
    from mlm_dist.batches.loader import TrainingBatches
    from mlm_dist.batches.masking import Masker
    from mlm_dist.batches.order import SampleOrder
    from mlm_dist.batches.ramp import Ramp
    from mlm_dist.config import MaskingConfig, parse
    from mlm_dist.corpus.store import PreparedCorpus
    from mlm_dist.corpus.tokenizer import loading

    prepared = PreparedCorpus(corpus)
    special = loading.special_tokens(prepared.tokenizer)
    masker = Masker(MaskingConfig(), 0, special.mask, special.all, len(prepared.tokenizer))
    plan = BatchPlan(batch, batch, 1, 1)
    rows, ramp = prepared.rows("train"), Ramp(parse([f"--batch.global_size={batch}"]))
    batches = TrainingBatches(rows, masker, plan, ramp, SampleOrder(len(rows), 0), 10**12, 0)
    step = 0

    def turn() -> None:
        nonlocal step
        for step in range(step + 1, step + num_batches + 1):  # noqa: B020
            batches.window(step)

    return turn


def theirs(corpus: Path, batch: int, num_batches: int, *, workers: int, lean: bool) -> Callable[[], None]:
    """A turn of DataLoader and collator."""
    from torch.utils.data import DataLoader
    from transformers import DataCollatorForLanguageModeling

    tokenizer = contenders.tokenizer_of(corpus)
    if lean:
        tokenizer.model_input_names = ["input_ids"]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=workload.MASKED)
    loader = DataLoader(
        contenders.rows_of(corpus, tokenizer, lean=lean),
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
    next(batches)  # the workers start

    def turn() -> None:
        for _ in range(num_batches):
            next(batches)

    return turn


def measure(corpus: Path, length: int, batch: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Tokens per second of all, by name; each round gives every one of them `tokens` tokens, this project ten times."""
    num_batches = max(1, tokens // (batch * length))
    turns = {"mlm-dist": (ours(corpus, batch, 10 * num_batches), 10 * num_batches)}
    for workers in (0, 1, 2):
        for lean in (False, True):
            name = f"DataLoader, {workers} workers" + (", special tokens marked" if lean else "")
            turns[name] = (theirs(corpus, batch, num_batches, workers=workers, lean=lean), num_batches)
    speeds: dict[str, list[float]] = {name: [] for name in turns}
    for i in range(rounds + 1):
        for name, (turn, count) in turns.items():
            time.sleep(0.2)  # workers fill their queues in their own time, not in the next one's
            began = time.perf_counter()
            turn()
            if i:
                speeds[name].append(count * batch * length / (time.perf_counter() - began))
    return {
        name: {"tokens_per_second": common.spread(those), "times_faster": common.ratios(speeds["mlm-dist"], those)}
        for name, those in speeds.items()
    }


def main() -> None:
    """Measure all lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lengths", type=lambda text: [int(word) for word in text.split(",")], default=[128, 512])
    add("--batch", type=int, default=32, help="rows")
    add("--tokens", type=int, default=200_000, help="of each contender and round")
    add("--rounds", type=int, default=5)
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--vocabulary", type=int, default=workload.VOCABULARY)
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "loader.json")
    arguments = parser.parse_args()
    cases = []
    for length in arguments.lengths:
        _, corpus, _ = workload.full_rows(arguments.source, arguments.vocabulary, length, arguments.cache)
        found = measure(corpus, length, arguments.batch, arguments.tokens, arguments.rounds)
        cases.append({"length": length, "batch": arguments.batch, "contenders": found})
        table = Table("", "tokens/s", "mlm-dist is faster", title=f"batches of {arguments.batch} rows of {length}")
        for name, one in found.items():
            table.add_row(name, f"{one['tokens_per_second'].median:,.0f}", str(one["times_faster"]))
        say(table)
    common.write(arguments.output, source=arguments.source, cases=cases)


if __name__ == "__main__":
    main()
