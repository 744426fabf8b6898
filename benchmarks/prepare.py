"""What preparing a corpus costs, against the usual notebook, and where it ends: in size, files and memory.

    python benchmarks/prepare.py                              # this interpreter's documents, varied to 64 MB
    python benchmarks/prepare.py --source ../docs --mb 256    # any folder, the same way
    python benchmarks/prepare.py --quick                      # 8 MB, where only the order of magnitude matters
    python benchmarks/prepare.py --scale-gb 2                 # as many .md files, as one .jsonl, as one .parquet
    python benchmarks/prepare.py --tiny-files 1000000

Prints tables and writes benchmarks/results/prepare.json, each part of it when it was measured.

The notebook's path is `Dataset.from_dict` of the files' texts, `map(tokenizer, batched=True)`, `group_texts` and
`save_to_disk`. Both contenders read the same files (the system has them in memory), drop documents under 200
characters, load the same tokenizer and leave rows of 128 tokens on the disk: all this is timed. Not timed is starting
Python and importing the libraries, which both need; "whole process" has it. Cleaning and deduplication are off in both,
and nothing is held out. Every run is a process of its own, and contenders take turns. Speeds are in MB of documents.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import corpora
from rich.console import Console
from rich.table import Table

RESULTS = common.RESULTS / "prepare.json"
LENGTH = 128
LIBRARIES = ("tokenizers", "pyarrow", "datasketch", "markdown-it-py", "nanotoken")
OFF = ("--corpus.clean=none", "--corpus.deduplicate=none", "--corpus.validation_fraction=0.0", "--rows.mode=chunk")
# Each step of preparing, added to what is off in the race.
STEPS = {
    "nothing": (),
    "clean markdown": ("--corpus.clean=markdown",),
    "deduplicate exact": ("--corpus.deduplicate=exact",),
    "deduplicate near": ("--corpus.deduplicate=near",),
    "all, as by default": ("--corpus.clean=markdown", "--corpus.deduplicate=near", "--corpus.validation_fraction=0.05"),
}


def by_notebook(folder: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    """The peer: what most notebooks do, written to the disk at the end."""
    from datasets import Dataset
    from transformers import AutoTokenizer  # here, as it brings half of the library

    started = time.perf_counter()
    texts = [path.read_text("utf-8") for path in sorted(folder.rglob("*.md"))]
    texts = [text for text in texts if len(text) >= 200]
    loaded = AutoTokenizer.from_pretrained(str(tokenizer), model_max_length=int(1e30))

    def group_texts(examples: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: [token for one in lists for token in one] for name, lists in examples.items()}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        return {name: [ids[i : i + LENGTH] for i in range(0, total, LENGTH)] for name, ids in joined.items()}

    data = Dataset.from_dict({"text": texts})
    data = data.map(lambda examples: loaded(examples["text"]), batched=True, remove_columns=["text"])
    rows = data.map(group_texts, batched=True)
    rows.save_to_disk(str(out))
    return {"seconds": time.perf_counter() - started, "tokens": LENGTH * len(rows)}


def by_ours(source: Path, flags: Sequence[str], cache: Path) -> dict[str, Any]:
    """This project, through the function that `prepare.py` calls."""
    from datasets import Dataset  # noqa: F401  # before the clock starts, as in the notebook
    from transformers import AutoTokenizer  # noqa: F401

    from mlm_dist.config import parse
    from mlm_dist.prepare import prepare

    config = parse([f"--corpus.source={source}", f"--corpus.cache_dir={cache}", f"--rows.max_length={LENGTH}", *flags])
    started = time.perf_counter()
    corpus = prepare(config)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": corpus.manifest["tokens"]["kept"], "documents": corpus.manifest["documents"]}


def work(task: dict[str, Any]) -> None:
    """In a process of its own: do one task and print what came of it."""
    if not task.get("fast", True):
        sys.modules["nanotoken"] = None  # type: ignore[assignment]  # as if it were not installed
    if task["who"] == "notebook":
        found = by_notebook(Path(task["source"]), Path(task["tokenizer"]), Path(task["out"]))
    else:
        found = by_ours(Path(task["source"]), task["flags"], Path(task["out"]))
    print(json.dumps(found | {"memory": common.peak_memory()}))


def run(task: dict[str, Any], processes: int = 1) -> dict[str, Any]:
    """Do a task in so many fresh processes: the slowest one's seconds, the largest one's memory, the time of all."""
    with tempfile.TemporaryDirectory(dir=task["scratch"]) as out, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        launched = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, __file__, "--worker", json.dumps(task | {"out": f"{out}/out"})]
        os.sync()  # what was written before shall not slow down what is written now
        started = time.perf_counter()
        children = [
            subprocess.Popen(
                command, env=os.environ | offline | launched | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
            )
            for rank in range(processes)
        ]
        said = [child.communicate()[0] for child in children]
        wall = time.perf_counter() - started
    if any(child.returncode for child in children):
        raise SystemExit("error: a process failed; it says above why")
    found: list[dict[str, Any]] = [json.loads(lines.splitlines()[-1]) for lines in said]
    return found[0] | {
        "seconds": max(one["seconds"] for one in found),
        "memory": max(one["memory"] for one in found),
        "wall": wall,
    }


def alternate(tasks: dict[str, dict[str, Any]], runs: int, **processes: int) -> dict[str, list[dict[str, Any]]]:
    """Run all tasks in turns; the order of a turn is reversed each time, and the first turn is not counted."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    for turn in range(runs + 1):
        for name in list(tasks)[:: 1 if turn % 2 else -1]:
            result = run(tasks[name], processes.get(name, 1))
            if turn:
                found[name].append(result)
    return found


def shown(title: str, found: dict[str, list[dict[str, Any]]], size: int, against: str) -> dict[str, Any]:
    """Print medians of all contenders; ratios are medians of each turn's own."""
    table = Table(
        "", "seconds", "MB/s", f"x {against}", "whole process", "peak memory", title=title, title_justify="left"
    )
    measured = {}
    for name, results in found.items():
        seconds = statistics.median(one["seconds"] for one in results)
        ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(results, found[against], strict=True))
        measured[name] = {
            "seconds": [round(one["seconds"], 3) for one in results],
            "megabytes_per_second": size / 1e6 / seconds,
            "speedup": ratio,
            "whole_process_seconds": statistics.median(one["wall"] for one in results),
            "peak_memory_bytes": max(one["memory"] for one in results),
        }
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{size / 1e6 / seconds:.2f}",
            f"{ratio:.2f}",
            f"{measured[name]['whole_process_seconds']:.2f} s",
            f"{measured[name]['peak_memory_bytes'] / 2**20:,.0f} MiB",
        )
    Console(width=120).print(table)
    return {"against": against, "bytes": size, "turns": len(found[against]), "contenders": measured}


def race(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Against the notebook, step by step, and one process against two."""
    texts = corpora.documents(arguments.source)
    size = corpora.write_files(corpora.varied(texts, int(arguments.mb * 1e6)), scratch / "documents")
    tokenizer = trained(scratch / "documents", scratch)
    base = {"source": str(scratch / "documents"), "scratch": str(scratch)}
    with_it = f"--tokenizer.path={tokenizer}"

    def ours(*flags: str, fast: bool = True) -> dict[str, Any]:
        return base | {"who": "ours", "flags": [with_it, *flags], "fast": fast}

    where = f"{size / 1e6:.0f} MB of documents, {arguments.runs} alternating turns"
    contenders = {
        "notebook": base | {"who": "notebook", "tokenizer": str(tokenizer)},
        "ours": ours(*OFF, fast=False),
        "ours, fast extra": ours(*OFF),
    }
    found = alternate(contenders, arguments.runs)
    tokens = {name: results[0]["tokens"] for name, results in found.items()}
    if len({tokens["ours"], tokens["ours, fast extra"]}) != 1:
        raise SystemExit(f"error: the contenders have found different tokens: {tokens}")
    measured = {"against the notebook": shown(f"Documents to rows: {where}", found, size, "notebook")}

    steps = {name: ours(*OFF, *flags) for name, flags in STEPS.items()}
    found = alternate(steps, arguments.runs)
    measured["steps"] = shown(f"What each step adds, with the fast extra: {where}", found, size, "nothing")

    flags = STEPS["all, as by default"]
    two = {"one process": ours(*flags), "two processes": ours(*flags)}
    found = alternate(two, arguments.runs, **{"two processes": 2})
    measured["processes"] = shown(f"All steps, as by default: {where}", found, size, "one process")
    return measured


def trained(source: Path, scratch: Path) -> Path:
    """A WordPiece tokenizer of 30,522 tokens, as BERT has, trained on some of the documents."""
    flags = [f"--corpus.source={source}", f"--corpus.cache_dir={scratch / 'tokenizer'}", "--corpus.patterns=/0000/"]
    from mlm_dist.config import parse
    from mlm_dist.prepare import prepare

    return prepare(parse([*flags, *OFF, "--tokenizer.train_vocab_size=30522"])).folder / "tokenizer"


def scale(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Much text in several forms, prepared as by default: how long it takes and how much memory."""
    texts = corpora.documents(arguments.source)
    size = int(arguments.scale_gb * 1e9)
    measured = {}
    for name in arguments.forms:
        corpora.FORMS[name](corpora.varied(texts, size), scratch / name)
        task = {"who": "ours", "source": str(scratch / name), "flags": [], "scratch": str(scratch)}
        found = {f"{count} process{'es' * (count > 1)}": [run(task, processes=count)] for count in arguments.processes}
        title = f"{size / 1e9:g} GB as {name}, all steps as by default, tokenizer trained"
        measured[name] = shown(title, found, size, next(iter(found)))
        delete(scratch / name)
    return measured


def tiny(arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Very many very small files."""
    count = arguments.tiny_files
    words = " ".join(corpora.documents(arguments.source)).split()
    draw = random.Random(0)
    starts = (draw.randrange(len(words) - 60) for _ in range(count))
    size = corpora.write_files((" ".join(words[k : k + 60]) for k in starts), scratch / "tiny")
    task = {"who": "ours", "source": str(scratch / "tiny"), "flags": [], "scratch": str(scratch)}
    found = {f"{number} process{'es' * (number > 1)}": [run(task, processes=number)] for number in arguments.processes}
    measured = shown(f"{count:,} files of 60 words, all steps as by default", found, size, next(iter(found)))
    for one in measured["contenders"].values():
        one["microseconds_per_file"] = 1e6 * one["seconds"][0] / count
        Console().print(f"{one['microseconds_per_file']:.0f} microseconds a file")
    delete(scratch / "tiny")
    return measured


def delete(path: Path) -> None:
    """A file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a folder of documents; by default the interpreter's own")
    parser.add_argument("--mb", type=float, default=64, help="megabytes the documents are varied to")
    parser.add_argument("--runs", type=int, default=5, help="counted turns of the race")
    parser.add_argument("--quick", action="store_true", help="8 MB, 3 turns")
    parser.add_argument("--scale-gb", type=float, help="prepare so much text, in each of --forms, instead of the race")
    parser.add_argument("--forms", nargs="+", choices=corpora.FORMS, default=list(corpora.FORMS), help="of --scale-gb")
    parser.add_argument("--tiny-files", type=int, help="prepare so many files of 60 words instead of the race")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of the parts on scale")
    parser.add_argument("--folder", type=Path, help="where to write; by default a temporary folder")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(json.loads(arguments.worker))
        return
    if arguments.quick:
        arguments.mb, arguments.runs = 8, 3
    parts = {"scale": arguments.scale_gb, "tiny files": arguments.tiny_files}
    chosen = [name for name, value in parts.items() if value is not None] or ["race"]
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    machine = common.machine()
    scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        for name in chosen:
            measured = {"race": race, "scale": scale, "tiny files": tiny}[name](arguments, scratch)
            source = "python-docs" if arguments.source is None else arguments.source.resolve().name
            results[f"{name}, {source}"] = {
                "command": shlex.join(["python", "benchmarks/prepare.py", *_without_folders(sys.argv[1:])]),
                "date": time.strftime("%Y-%m-%d"),
                "machine": machine,
                "versions": common.versions() | {name: version(name) for name in LIBRARIES},
            } | measured
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    finally:
        shutil.rmtree(scratch)


def _without_folders(argv: Sequence[str]) -> list[str]:
    """Arguments in which a path stands by its last part alone."""
    return [os.path.basename(word) if os.sep in word else word for word in argv]


if __name__ == "__main__":
    main()
