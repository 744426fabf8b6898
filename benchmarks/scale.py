"""What each stage of a preparation costs in time and memory, fitted on corpora of this machine, and extrapolated.

    python benchmarks/scale.py                      # up to 10^6 short documents and 10^5 long ones, 1 GB
    python benchmarks/scale.py --check 10000000     # and 10^7 short documents, compared with the model
    python benchmarks/scale.py --quick              # a tenth of all, for the order of magnitude

Prints tables and writes results/scale.json. The documents are pieces of real ones of which every fourth word is
shuffled; a tenth are copies, and another tenth are near-duplicates. Each stage runs in processes of its own, one or two
where a stage can be divided. Memory is the peak of the anonymous memory of one process, imports included.

The time of each stage is modelled by a constant, an amount per document and an amount per MB, without negative terms,
with the least squares of relative errors, from corpora that one process prepared. With w processes, a stage that can be
divided is taken to cost 1 / (w * efficiency) of that; the efficiency is measured with two. All corpora have more text
than the 100 million characters that a tokenizer is trained on at most, so that its cost is a constant.

The memory of one process is modelled by a line through the two corpora with the most documents, --check included. What
depends on the amount of text is a shard or less, and shards stop growing at 16 MB of text.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import common
import synthetic_documents
from common import console
from cost_model import Amount, CostModel, fit
from rich.table import Table
from scale_stages import PARALLEL

RESULTS = common.RESULTS / "scale.json"
STAGES = ("files", "documents", "selection", "rows", "publish", "restart")
MEASURED = ("files", "documents", "tokenizer", "selection", "rows", "publish", "restart")
SHORT, LONG = 60, 1500  # words: about 400 bytes and 10 KB
FILE_DOCUMENTS = 100_000
TARGETS = {"10^9 documents, 10 TB": Amount(1e9, 1e7), "10^9 documents, 400 GB": Amount(1e9, 4e5)}


def write_corpus(texts: Sequence[str], count: int, num_words: int, folder: Path) -> int:
    """Write documents as .jsonl files of 100,000 each; returns their bytes."""
    folder.mkdir()
    documents = synthetic_documents.short(texts, count, num_words)
    size = 0
    for i in range(-(-count // FILE_DOCUMENTS)):
        some = (
            text for _, text in zip(range(min(FILE_DOCUMENTS, count - i * FILE_DOCUMENTS)), documents, strict=False)
        )
        size += synthetic_documents.write_jsonl(some, folder / f"{i:05d}.jsonl")
    return size


def run_stage(flags: Sequence[str], stage: str, workers: int) -> dict[str, dict[str, float]]:
    """Run a stage in new processes; the figures are the largest of all."""
    tasks = [{"flags": list(flags), "stage": stage, "rank": rank, "workers": workers} for rank in range(workers)]
    program = Path(__file__).with_name("scale_stages.py")
    children = [
        subprocess.Popen([sys.executable, str(program), json.dumps(task)], stdout=subprocess.PIPE, text=True)
        for task in tasks
    ]
    outputs = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"error: stage {stage} failed, see above")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {name: {key: max(one[name][key] for one in found) for key in found[0][name]} for name in found[0]}


def measure(texts: Sequence[str], count: int, num_words: int, workers: int, scratch: Path) -> dict[str, Any]:
    """Prepare a corpus stage by stage."""
    folder, cache = scratch / "corpus", scratch / "cache"
    size = write_corpus(texts, count, num_words, folder)
    flags = (f"--corpus.source={folder}", f"--corpus.cache_dir={cache}", "--rows.max_length=128")
    stages: dict[str, dict[str, float]] = {}
    for name in STAGES:
        stages |= run_stage(flags, name, workers if name in PARALLEL else 1)
    disk = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    shutil.rmtree(cache)
    case = {"documents": count, "words": num_words, "workers": workers, "bytes": size, "disk": disk, "stages": stages}
    show_case(case)
    return case


def show_case(case: dict[str, Any]) -> None:
    """Print the figures of one corpus."""
    cells = [f"{name} {one['seconds']:.1f} s, {one['memory'] / 1e6:,.0f} MB" for name, one in case["stages"].items()]
    title = f"{case['documents']:,} documents, {case['bytes'] / 1e6:,.0f} MB, {case['workers']} workers"
    console.print(f"{title}: {'; '.join(cells)}", soft_wrap=True)


def amount_of(case: dict[str, Any]) -> Amount:
    """The size of a corpus that was measured."""
    return Amount(case["documents"], case["bytes"] / 1e6)


def time_models(cases: Sequence[dict[str, Any]]) -> dict[str, CostModel]:
    """The seconds of every stage, from the corpora that one worker prepared."""
    alone = [case for case in cases if case["workers"] == 1]
    return {
        name: fit([*map(amount_of, alone)], [max(case["stages"][name]["seconds"], 1e-3) for case in alone])
        for name in MEASURED
    }


def memory_models(cases: Sequence[dict[str, Any]]) -> dict[str, CostModel]:
    """The bytes of one process in every stage, from the two corpora with the most documents."""
    of_counts = {case["documents"]: case for case in cases}
    less, more = sorted(of_counts)[-2:]
    found = {}
    for name in MEASURED:
        low, high = (of_counts[count]["stages"][name]["memory"] for count in (less, more))
        per_document = max(0.0, (high - low) / (more - less))
        found[name] = CostModel(high - per_document * more, per_document, 0.0)
    return found


def efficiency(cases: Sequence[dict[str, Any]], stage: str) -> float:
    """Half the speedup with two workers, of the largest corpus that both prepared."""
    pairs = [
        (one, two)
        for one in cases
        for two in cases
        if (one["workers"], two["workers"]) == (1, 2) and amount_of(one) == amount_of(two)
    ]
    one, two = max(pairs, key=lambda pair: pair[0]["stages"][stage]["seconds"])
    return float(one["stages"][stage]["seconds"] / two["stages"][stage]["seconds"] / 2)


def show_models(seconds: dict[str, CostModel], memory: dict[str, CostModel], speed: dict[str, float]) -> None:
    """Print the formulas."""
    table = Table("stage", "seconds", "bytes of one process", "efficiency with 2", title="Models", title_justify="left")
    for name in MEASURED:
        time, size = seconds[name], memory[name]
        table.add_row(
            name,
            f"{time.constant:.2f} + {1e6 * time.per_document:.1f}e-6 n + {time.per_megabyte:.4f} MB",
            f"{size.constant / 1e6:.0f}e6 + {size.per_document:.1f} n",
            f"{speed[name]:.2f}" if name in speed else "",
        )
    console.print(table)
    console.print("n: documents. MB: megabytes of text.")


def gain(stage: str, workers: int, speed: dict[str, float]) -> float:
    """How many times faster a stage is with several workers than with one."""
    return workers * speed[stage] if stage in speed and workers > 1 else 1.0


def compare(case: dict[str, Any], seconds: dict[str, CostModel], speed: dict[str, float]) -> dict[str, float]:
    """Print the figures of a corpus that is not in the model of the time, and what that predicts."""
    title = f"{case['documents']:,} documents, {case['workers']} workers: measured and model"
    table = Table("stage", "seconds", "model", "MB of one process", title=title, title_justify="left")
    predicted = {}
    for name in MEASURED:
        found = case["stages"][name]
        predicted[name] = seconds[name](amount_of(case)) / gain(name, case["workers"], speed)
        values = found["seconds"], predicted[name], found["memory"] / 1e6
        table.add_row(name, *(f"{value:,.1f}" for value in values))
    console.print(table)
    return predicted


def extrapolate(
    seconds: dict[str, CostModel], memory: dict[str, CostModel], speed: dict[str, float], workers: Sequence[int]
) -> dict[str, Any]:
    """Print what larger corpora would cost."""
    results: dict[str, Any] = {}
    for target, amount in TARGETS.items():
        columns = [f"hours, {count:,} workers" for count in workers]
        table = Table("stage", *columns, "GB of one process", title=f"{target}, model", title_justify="left")
        results[target] = {}
        for name in MEASURED:
            time = seconds[name](amount)
            hours = [time / 3600 / gain(name, count, speed) for count in workers]
            size = memory[name](amount)
            results[target][name] = {"hours": dict(zip(map(str, workers), hours, strict=True)), "bytes": size}
            table.add_row(name, *(f"{value:,.2f}" for value in hours), f"{size / 1e9:,.1f}")
        console.print(table)
    return results


def main() -> None:
    """Measure, fit, and extrapolate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--source", type=Path, help="a folder of documents; by default those that come with Python")
    add("--short", type=int, nargs="+", default=[300_000, 1_000_000], help="numbers of documents of 60 words")
    add("--long", type=int, nargs="+", default=[15_000, 100_000], help="numbers of documents of 1,500 words")
    add("--check", type=int, help="number of documents of 60 words that are compared with the model, with two workers")
    add("--quick", action="store_true", help="a tenth of --short and --long")
    add("--extrapolate", type=int, nargs="+", default=[1, 100, 1000], help="numbers of workers")
    add("--folder", type=Path, help="where to write; by default a temporary folder")
    add("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    factor = 10 if arguments.quick else 1
    corpora = [(count // factor, SHORT) for count in arguments.short]
    corpora += [(count // factor, LONG) for count in arguments.long]
    if len(corpora) < 3 or not (arguments.short and arguments.long):
        parser.error("--short and --long: name at least three numbers together, and one each")
    texts = synthetic_documents.read(arguments.source)
    scratch = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        cases = [measure(texts, *corpus, 1, scratch) for corpus in corpora]
        cases += [measure(texts, *max(some), 2, scratch) for some in _by_length(corpora)]
        seconds, speed = time_models(cases), {name: efficiency(cases, name) for name in PARALLEL}
        check = None
        if arguments.check is not None:
            case = measure(texts, arguments.check, SHORT, 2, scratch)
            check = {"measured": case, "model": compare(case, seconds, speed)}
        memory = memory_models(cases if check is None else [*cases, check["measured"]])
        show_models(seconds, memory, speed)
        common.write(
            arguments.output,
            command=shlex.join(["python", "benchmarks/scale.py", *common.without_folders(sys.argv[1:])]),
            cases=cases,
            seconds={name: asdict(one) for name, one in seconds.items()},
            memory={name: asdict(one) for name, one in memory.items()},
            efficiency=speed,
            check=check,
            extrapolated=extrapolate(seconds, memory, speed, arguments.extrapolate),
        )
    finally:
        shutil.rmtree(scratch)


def _by_length(corpora: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [[one for one in corpora if one[1] == words] for words in (SHORT, LONG)]


if __name__ == "__main__":
    main()
