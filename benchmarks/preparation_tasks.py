"""The preparation of a corpus as tasks in processes of their own: by this project, and as in the notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

LENGTH = 128
Task = dict[str, Any]  # see `notebook_task` and `mlm_dist_task`


def notebook_task(source: Path, tokenizer: Path, scratch: Path) -> Task:
    """The notebook's preparation of a folder of .md files with a saved tokenizer."""
    return {"system": "notebook", "source": str(source), "tokenizer": str(tokenizer), "scratch": str(scratch)}


def mlm_dist_task(source: Path, scratch: Path, flags: Sequence[str] = (), *, fast: bool = True) -> Task:
    """This project's preparation of a source; without `fast` as if nanotoken were not installed."""
    return {"system": "mlm-dist", "source": str(source), "scratch": str(scratch), "flags": list(flags), "fast": fast}


def run(task: Task, num_processes: int = 1) -> dict[str, Any]:
    """Run a task in new processes; returns the largest seconds and memory of a process, and `wall`, the time of all."""
    with tempfile.TemporaryDirectory(dir=task["scratch"]) as out:
        launch = {"WORLD_SIZE": str(num_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(common.free_port())}
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "true"}
        command = [sys.executable, __file__, json.dumps(task | {"out": f"{out}/out"})]
        os.sync()  # earlier writes must not slow down later ones
        started = time.perf_counter()
        children = [
            subprocess.Popen(
                command, env=os.environ | offline | launch | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True
            )
            for rank in range(num_processes)
        ]
        outputs = [child.communicate()[0] for child in children]
        wall = time.perf_counter() - started
    if any(child.returncode for child in children):
        raise SystemExit("error: a process failed, see above")
    results: list[dict[str, Any]] = [json.loads(output.splitlines()[-1]) for output in outputs]
    return results[0] | {
        "seconds": max(one["seconds"] for one in results),
        "memory": max(one["memory"] for one in results),
        "wall": wall,
    }


def alternate(tasks: dict[str, Task], num_rounds: int, **num_processes: int) -> dict[str, list[dict[str, Any]]]:
    """Run all tasks in every round; each round reverses the order, and the first one is not counted."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in tasks}
    for i in range(num_rounds + 1):
        for name in list(tasks)[:: 1 if i % 2 else -1]:
            result = run(tasks[name], num_processes.get(name, 1))
            if i:
                results[name].append(result)
    return results


def prepare_as_notebook(folder: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    """Prepare as most notebooks do, and save the rows."""
    from datasets import Dataset
    from transformers import AutoTokenizer  # here, because it imports half of the library

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


def prepare_as_mlm_dist(source: Path, flags: Sequence[str], cache: Path) -> dict[str, Any]:
    """Prepare with this project."""
    from datasets import Dataset  # noqa: F401  # before the clock starts, as for the notebook
    from transformers import AutoTokenizer  # noqa: F401

    from mlm_dist import ranks
    from mlm_dist.config import parse
    from mlm_dist.corpus import pipeline
    from mlm_dist.resolve import corpus_spec

    config = parse([f"--corpus.source={source}", f"--corpus.cache_dir={cache}", f"--rows.max_length={LENGTH}", *flags])
    started = time.perf_counter()
    corpus = pipeline.prepare(corpus_spec(config), ranks.rank(), ranks.world_size())
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "tokens": corpus.manifest["tokens"]["kept"], "documents": corpus.manifest["documents"]}


def main(task: Task) -> None:
    """Run a task in this process, and print its result."""
    source, out = Path(task["source"]), Path(task["out"])
    if task["system"] == "notebook":
        result = prepare_as_notebook(source, Path(task["tokenizer"]), out)
    else:
        if not task["fast"]:
            sys.modules["nanotoken"] = None  # type: ignore[assignment]
        result = prepare_as_mlm_dist(source, task["flags"], out)
    print(json.dumps(result | {"memory": common.peak_memory()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
