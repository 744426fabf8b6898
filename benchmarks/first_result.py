"""The first result: what a small model learns from few documents in the time of the quickstart, three seeds.

    python benchmarks/first_result.py                                   # all variants of the quickstart
    python benchmarks/first_result.py --variants modernbert-tiny --source my_docs

Each variant trains as `mlm-dist train` does without arguments, except for its own flags. Steps and batches are the
same, so the load of the machine changes only the seconds. Prints the validation accuracy, the words of the report's
examples that are among the first five, and the seconds of training; writes results/first_result.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import common
from common import console
from rich.table import Table

from mlm_dist import train
from mlm_dist.config import parse
from mlm_dist.evaluation.fill_mask import predict
from mlm_dist.pages.examples import num_in_top
from mlm_dist.pages.starting_point import StartingPoint
from mlm_dist.run_dir import RunDir
from mlm_dist.trained_model import load_exported

VARIANTS = {
    "modernbert-tiny": [],
    "bert-tiny": ["--model.name_or_path=bert-tiny"],
    "bert-tiny with Muon": ["--model.name_or_path=bert-tiny", "--optim.name=muon"],
    "Muon": ["--optim.name=muon"],
    "both layers local": ["--model.overrides={layer_types: [sliding_attention, sliding_attention]}"],
    "window of 16": ["--model.overrides={local_attention: 16}"],
    "window of 128": ["--model.overrides={local_attention: 128}"],
    "3 layers": ["--model.overrides={num_hidden_layers: 3}"],
    "8 rows per step": ["--batch.global_size=8"],
    "twice the rate": ["--optim.lr=0.006"],
}


def main() -> None:
    """Train each variant with each seed."""
    arguments = _arguments()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.variants}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            for name in arguments.variants:
                flags = [*_flags(arguments), *VARIANTS[name], f"--seed={seed}"]
                found = first_result(flags, RunDir(Path(folder) / "run"))
                console.print(f"{name}, seed {seed}: {found}")
                results[name].append(found)
                common.write(arguments.output, source=Path(arguments.source).name, variants=results)
    table = Table("variant", "accuracy", "loss", "words among the first five", "seconds")
    for name, seeds in results.items():
        words = f"{', '.join(str(one['words']) for one in seeds)} of {seeds[0]['examples']}"
        accuracy, loss, seconds = (
            str(common.spread([one[key] for one in seeds])) for key in ("accuracy", "loss", "seconds")
        )
        table.add_row(name, accuracy, loss, words, seconds)
    console.print(table)


def first_result(flags: list[str], run_dir: RunDir) -> dict[str, float]:
    """Accuracy, loss, words and seconds of a run."""
    began = time.perf_counter()
    result = train.run(parse([*flags, f"--output_dir={run_dir.path}", "--checkpoint.resume=never"]))
    seconds = time.perf_counter() - began
    start = StartingPoint.load(run_dir.start_of_report)
    last: Mapping[str, Any] = result.validation[max(result.validation)]
    return {
        "accuracy": last["accuracy"],
        "loss": last["loss"],
        "words": num_in_top(predict(*load_exported(run_dir.model), start.examples)),
        "examples": len(start.examples),
        "seconds": round(seconds, 1),
    }


def _flags(arguments: argparse.Namespace) -> list[str]:
    return [
        *(f"--corpus.source={arguments.source}", f"--corpus.cache_dir={arguments.cache}", "--rows.max_length=128"),
        *(f"--optim.duration={arguments.duration}", "--export.verify=false", "--tracking.trackers=[]"),
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--variants", type=lambda text: text.split(","), default=list(VARIANTS), help=", ".join(VARIANTS))
    add("--source", default="python-docs", help="documents, as corpus.source")
    add("--duration", default="8 epochs", help="as optim.duration")
    add("--seeds", type=int, default=3)
    add("--cache", default="~/.cache/mlm_dist", help="where prepared rows are kept")
    add("--output", type=Path, default=common.RESULTS / "first_result.json")
    arguments = parser.parse_args()
    common.require_known(parser, "--variants", arguments.variants, VARIANTS)
    return arguments


if __name__ == "__main__":
    main()
