"""Preparation of a corpus compared with the usual notebook, and its limits in size, files and memory.

    python benchmarks/prepare.py                              # the documents that come with Python, varied to 64 MB
    python benchmarks/prepare.py --source my_docs --mb 256    # any folder
    python benchmarks/prepare.py --quick                      # 8 MB, for the order of magnitude
    python benchmarks/prepare.py --scale-gb 2                 # as .md files, as one .jsonl file, as one .parquet file
    python benchmarks/prepare.py --tiny-files 1000000

Prints tables and writes results/prepare.json, each part with the date of its measurement.

The notebook uses `Dataset.from_dict` with the texts of the files, `map(tokenizer, batched=True)`, `group_texts` and
`save_to_disk`. Both systems read the same files (which the system has in memory), drop documents under 200 characters,
load the same tokenizer and write rows of 128 tokens; all of this is timed. Starting Python and importing libraries is
not timed; "whole process" includes it. Cleaning, deduplication and validation split are off in both. Each run is a
process of its own, and the systems alternate. Speeds are in MB of documents.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import synthetic_documents
import workload
from common import console
from preparation_tasks import alternate, mlm_dist_task, notebook_task, run
from rich.table import Table

RESULTS = common.RESULTS / "prepare.json"
LIBRARIES = ("tokenizers", "pyarrow", "datasketch", "markdown-it-py", "nanotoken")
OFF = ("--corpus.clean=none", "--corpus.deduplicate=none", "--corpus.validation_fraction=0.0", "--rows.mode=chunk")
# Stages that are off in the comparison with the notebook.
STAGES = {
    "nothing": (),
    "clean markdown": ("--corpus.clean=markdown",),
    "deduplicate exact": ("--corpus.deduplicate=exact",),
    "deduplicate near": ("--corpus.deduplicate=near",),
    "all, as by default": ("--corpus.clean=markdown", "--corpus.deduplicate=near", "--corpus.validation_fraction=0.05"),
}


def show(title: str, results: dict[str, list[dict[str, Any]]], size: int, baseline: str) -> dict[str, Any]:
    """Print medians of all systems; ratios are medians over rounds."""
    table = Table(
        "", "seconds", "MB/s", f"x {baseline}", "whole process", "peak memory", title=title, title_justify="left"
    )
    figures = {}
    for name, rounds in results.items():
        seconds = statistics.median(one["seconds"] for one in rounds)
        ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(rounds, results[baseline], strict=True))
        figures[name] = {
            "seconds": [round(one["seconds"], 3) for one in rounds],
            "megabytes_per_second": size / 1e6 / seconds,
            "speedup": ratio,
            "whole_process_seconds": statistics.median(one["wall"] for one in rounds),
            "peak_memory_bytes": max(one["memory"] for one in rounds),
        }
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{size / 1e6 / seconds:.2f}",
            f"{ratio:.2f}",
            f"{figures[name]['whole_process_seconds']:.2f} s",
            f"{figures[name]['peak_memory_bytes'] / 2**20:,.0f} MiB",
        )
    console.print(table)
    return {"baseline": baseline, "bytes": size, "rounds": len(results[baseline]), "systems": figures}


def compare(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Compare with the notebook, stage by stage, and one process with two."""
    texts = synthetic_documents.read(arguments.source)
    documents = scratch / "documents"
    size = synthetic_documents.write_files(synthetic_documents.varied(texts, int(arguments.mb * 1e6)), documents)
    tokenizer = train_tokenizer(documents, scratch)

    def task(*flags: str, fast: bool = True) -> dict[str, Any]:
        return mlm_dist_task(documents, scratch, [f"--tokenizer.path={tokenizer}", *flags], fast=fast)

    amount = f"{size / 1e6:.0f} MB of documents, {arguments.runs} alternating rounds"
    systems = {
        "notebook": notebook_task(documents, tokenizer, scratch),
        "mlm-dist": task(*OFF, fast=False),
        "mlm-dist, fast extra": task(*OFF),
    }
    results = alternate(systems, arguments.runs)
    tokens = {name: rounds[0]["tokens"] for name, rounds in results.items() if name != "notebook"}
    if len(set(tokens.values())) != 1:
        raise SystemExit(f"error: the numbers of tokens differ: {tokens}")
    figures = {"notebook": show(f"Documents to rows: {amount}", results, size, "notebook")}

    results = alternate({name: task(*OFF, *flags) for name, flags in STAGES.items()}, arguments.runs)
    figures["stages"] = show(f"Stages, with the fast extra: {amount}", results, size, "nothing")

    flags = STAGES["all, as by default"]
    one_and_two = {"one process": task(*flags), "two processes": task(*flags)}
    results = alternate(one_and_two, arguments.runs, **{"two processes": 2})
    figures["processes"] = show(f"All stages, as by default: {amount}", results, size, "one process")
    return figures


def train_tokenizer(source: Path, scratch: Path) -> Path:
    """A WordPiece tokenizer of 30,522 tokens, as BERT has, trained on some of the documents."""
    flags = [f"--corpus.source={source}", f"--corpus.cache_dir={scratch / 'tokenizer'}", "--corpus.patterns=/0000/"]
    folder: Path = workload.prepared([*flags, *OFF, f"--tokenizer.train_vocab_size={workload.VOCABULARY}"]).folder
    return folder / "tokenizer"


def measure_scale(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time and memory for much text in several forms, with default settings."""
    texts = synthetic_documents.read(arguments.source)
    size = int(arguments.scale_gb * 1e9)
    figures = {}
    for name in arguments.forms:
        path = scratch / name
        synthetic_documents.FORMS[name](synthetic_documents.varied(texts, size), path)
        results = _by_processes(arguments.processes, path, scratch)
        title = f"{size / 1e9:g} GB as {name}, all stages as by default, tokenizer trained"
        figures[name] = show(title, results, size, next(iter(results)))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return figures


def measure_small_files(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time and memory for very many small files."""
    count, path = arguments.tiny_files, scratch / "files"
    words = " ".join(synthetic_documents.read(arguments.source)).split()
    random_numbers = random.Random(0)
    starts = (random_numbers.randrange(len(words) - 60) for _ in range(count))
    size = synthetic_documents.write_files((" ".join(words[k : k + 60]) for k in starts), path)
    results = _by_processes(arguments.processes, path, scratch)
    figures = show(f"{count:,} files of 60 words, all stages as by default", results, size, next(iter(results)))
    for one in figures["systems"].values():
        one["microseconds_per_file"] = 1e6 * one["seconds"][0] / count
        console.print(f"{one['microseconds_per_file']:.0f} microseconds per file")
    shutil.rmtree(path)
    return figures


def _by_processes(counts: Sequence[int], source: Path, scratch: Path) -> dict[str, list[dict[str, Any]]]:
    task = mlm_dist_task(source, scratch)
    return {f"{count} process{'es' * (count > 1)}": [run(task, count)] for count in counts}


def main() -> None:
    """Measure the parts that the flags select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    forms = synthetic_documents.FORMS
    add("--source", type=Path, help="a folder of documents; by default those that come with Python")
    add("--mb", type=float, default=64, help="megabytes that the documents are varied to")
    add("--runs", type=int, default=5, help="rounds of the comparison that count")
    add("--quick", action="store_true", help="8 MB, 3 rounds")
    add("--scale-gb", type=float, help="instead of the comparison: this much text in each of --forms")
    add("--forms", nargs="+", choices=forms, default=list(forms), help="with --scale-gb")
    add("--tiny-files", type=int, help="instead of the comparison: this many files of 60 words")
    add("--processes", type=int, nargs="+", default=[1, 2], help="with --scale-gb and --tiny-files")
    add("--folder", type=Path, help="where to write; by default a temporary folder")
    add("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.mb, arguments.runs = 8, 3
    parts = {"scale": arguments.scale_gb, "small files": arguments.tiny_files}
    chosen = [name for name, value in parts.items() if value is not None] or ["comparison"]
    output: Path = arguments.output
    results = json.loads(output.read_text("utf-8")) if output.is_file() else {}
    machine = common.machine()
    scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
    measure = {"comparison": compare, "scale": measure_scale, "small files": measure_small_files}
    try:
        for name in chosen:
            figures = measure[name](arguments, scratch)
            source = "python-docs" if arguments.source is None else arguments.source.resolve().name
            results[f"{name}, {source}"] = {
                "command": shlex.join(["python", "benchmarks/prepare.py", *common.without_folders(sys.argv[1:])]),
                "date": time.strftime("%Y-%m-%d"),
                "machine": machine,
                "versions": common.versions() | {name: version(name) for name in LIBRARIES},
            } | figures
            output.parent.mkdir(exist_ok=True)
            output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
