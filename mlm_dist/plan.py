"""Show what a run will be, before it fetches, prepares or launches anything, and refuse what cannot work.

    python mlm_dist/plan.py --config configs/runs/azure_docs.yaml
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/plan.py --config configs/runs/azure_docs.yaml

Of a model on the hub it reads the configuration and the tokenizer. Sizes are from formulas (training/memory.py); the
time is measured on random tokens, where one process trains. Under a launcher the main process alone looks and talks.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mlm_dist import prepare, runtime, second_corpus
from mlm_dist.batches.global_batch import BatchPlan, batch_plan, num_updates
from mlm_dist.checkpoint import best, save
from mlm_dist.config import Config, Duration
from mlm_dist.corpus.sources import git
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine import conflicts, distributed, memory, topology
from mlm_dist.engine.memory import Memory, Shape
from mlm_dist.engine.topology import Topology
from mlm_dist.interim import architecture
from mlm_dist.model.architecture import starts_from_scratch, tokenizer_source
from mlm_dist.optim.schedule import warmup_steps
from mlm_dist.training import step_time

BYTES_PER_TOKEN = 4.2  # of English text under a WordPiece vocabulary of 30,000


@dataclass(frozen=True)
class Foreseen:
    """What follows from the config and the launch alone.

    Args:
        topology: The launch.
        architecture: The model's transformers configuration.
        shape: What memory depends on in it.
        batch: How the global batch is spread.
        memory: What an update takes on each device.
    """

    topology: Topology
    architecture: Any
    shape: Shape
    batch: BatchPlan
    memory: Memory


def main(config: Config) -> None:
    """Show the plan of a run on one screen."""
    if runtime.is_main_process():
        runtime.show(_table(config, foresee(config)))


def foresee(config: Config) -> Foreseen:
    """See what can be seen before any work is done, and refuse what cannot work.

    Raises:
        ConfigError: The batch does not divide, or run config, accelerate file, DeepSpeed JSON and machine contradict
            each other.
        ModelError: There is no such model or tokenizer, or they do not fit each other.
    """
    _, num_processes = runtime.rank_and_world_size()
    distributed.check(config, batch_plan(config, num_processes))
    second_corpus.check(config)
    path = tokenizer_source(config.model, config.tokenizer)
    found = architecture(config, None if path is None else loading.load(*path))
    if path is None:
        sizes = config.model.overrides.get("vocab_size"), config.tokenizer.train_vocab_size, loading.DEFAULT_VOCAB_SIZE
        found.vocab_size = next(size for size in sizes if size is not None)
    launch = topology.read()
    shape = memory.shape_of(found, on_cpu=launch.device.kind == "cpu")
    batch = batch_plan(config, num_processes, memory.most_rows(config, shape, launch))
    conflicts.check(config, batch, launch)  # of the micro-batch that the memory allows
    return Foreseen(launch, found, shape, batch, memory.estimate(config, shape, launch, batch.micro_size))


def _hours(config: Config) -> float:
    duration = Duration.parse(config.optim.duration)
    return duration.value if duration.unit == "hours" else None  # type: ignore[return-value]


def _table(config: Config, seen: Foreseen) -> Table:
    shown = Table(title=f"Plan of {config.output_dir}", title_justify="left", show_header=False)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    launch, device = seen.topology, seen.topology.device
    origin = "random weights" if starts_from_scratch(config.model) else "its checkpoint"
    shown.add_row("model", f"{config.model.name_or_path} from {origin}, {seen.shape.parameters:,} parameters")
    shown.add_row("processes", launch.describe())
    shown.add_row("devices", f"{device.count} x {device.name}, {_size(device.memory)} of memory")
    shown.add_row("batch", seen.batch.describe())
    num_rows = _corpus(config, shown)
    if num_rows is not None:
        updates, samples = num_updates(config, num_rows)
        warmup = warmup_steps(config.optim.warmup, updates)
        many = f"{updates:,} of {samples:,} rows, {warmup:,} of them to warm up"
        shown.add_row("updates", many if _hours(config) is None else f"as many as {_hours(config):g} h hold")
        shown.add_row("time", _time(config, seen, samples / config.batch.global_size))
    _memory(seen, shown)
    _disk(config, seen, shown)
    return shown


def _corpus(config: Config, shown: Table) -> int | None:
    """Show what an epoch is, and return its rows: exact where the corpus is prepared, else estimated or unknown."""
    corpus, size = prepare.find(config)
    if corpus is not None:
        made, source = corpus.manifest, corpus.manifest["source"]
        num_rows = int(made["rows"]["train"])
        share = num_rows / max(1, sum(made["rows"].values()))
        at = f" at {source['commit']}" if source["commit"] else ""
        shown.add_row("corpus", f"{source['location']}{at}, prepared as {corpus.digest}")
        shown.add_row("epoch", f"{num_rows:,} rows, about {made['tokens']['kept'] * share:,.0f} tokens")
        return num_rows
    shown.add_row("corpus", f"{git.without_credentials(config.corpus.source)}, not prepared yet")
    if size is None or config.rows.mode == "truncate":
        shown.add_row("epoch", "unknown until the corpus is prepared (mlm-dist prepare)")
        return None
    num_tokens = size * (1 - config.corpus.validation_fraction) / BYTES_PER_TOKEN
    num_rows = max(config.batch.global_size, round(num_tokens / config.rows.max_length))
    shown.add_row("epoch", f"roughly {num_rows:,} rows, guessed from {_size(size)} of files; prepare to know")
    return num_rows


def _time(config: Config, seen: Foreseen, updates: float) -> str:
    if seen.topology.num_processes > 1 or seen.topology.sharding != "none":
        return "not measured: several processes, or a sharded model"
    if seen.memory.total > memory.available(seen.topology):
        return "not measured: it may not fit the memory"
    seconds = step_time.seconds_per_update(config, seen.architecture, seen.batch)
    each = f"{seconds:.3g} s per update, measured on random tokens"
    if config.model.compile != "none":
        each += " and not compiled"
    if _hours(config) is not None:
        return f"{_hours(config):g} h, so at most {3600 * _hours(config) / seconds:,.0f} updates: {each}"
    return f"about {_duration(seconds * updates)}: {each}; validation and saving come on top"


def _memory(seen: Foreseen, shown: Table) -> None:
    found, there = seen.memory, memory.available(seen.topology)
    parts = ("weights", "gradients", "moments", "activations")
    shown.add_row("memory", ", ".join(f"{name} {_size(getattr(found, name))}" for name in parts))
    verdict = "fits" if found.total <= there else "[red]may not fit[/red]"
    whose = "each device" if seen.topology.device.kind != "cpu" else "each process"
    shown.add_row("", f"{verdict}: about {_size(found.total)} of the {_size(there)} that {whose} can fill")
    if found.host:
        shown.add_row("", f"and {_size(found.host)} of host memory per process, offloaded")


def _disk(config: Config, seen: Foreseen, shown: Table) -> None:
    needed = save.disk_needed(seen.shape.parameters, best.num_kept(config))
    place = Path(config.output_dir).expanduser().absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    verdict = "fits" if needed <= free else "[red]does not fit[/red]"
    count = best.num_kept(config) + 1
    shown.add_row("disk", f"{verdict}: {count} checkpoints and the model take {_size(needed)}, {_size(free)} are free")


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:,.1f} TiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


if __name__ == "__main__":
    runtime.run(main, prog="plan.py", description=__doc__)
