"""Dry run: show what a run will be and need, without fetching, preparing or launching anything.

    python mlm_dist/plan.py docs/
    accelerate launch --config_file configs/accelerate/zero2.yaml mlm_dist/plan.py --preset azure_docs

It prints every value as it is decided, then a table: size, time and memory. Of a model on the Hub it reads the
configuration and the tokenizer. Sizes are from formulas (engine/memory.py); the time is measured on random tokens if
one process trains, and that of several is estimated with what they exchange (engine/communication.py). Under a launcher
only rank 0 prints.
"""

from __future__ import annotations

from mlm_dist import interruption

if __name__ == "__main__":
    interruption.watch()  # the imports below take seconds

import logging
import shutil

from rich.table import Table

from mlm_dist import environment, runtime, system_errors
from mlm_dist.checkpoint.save import disk_needed, size_of_checkpoint
from mlm_dist.config import Config
from mlm_dist.console import text_of
from mlm_dist.corpus import pipeline, summary
from mlm_dist.corpus.sources import without_credentials
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine import communication, memory
from mlm_dist.engine.launch import Launch
from mlm_dist.model.architecture import added_positions
from mlm_dist.resolve import complete, resolve
from mlm_dist.spec import Spec
from mlm_dist.training import step_time

logger = logging.getLogger("mlm_dist.plan")  # __name__ is __main__ if this file is launched

BYTES_PER_TOKEN = 4.2  # of English text with a WordPiece vocabulary of 30,000


@environment.restored()
@system_errors.explained()
def run(config: Config) -> Spec:
    """Show the plan of a run on one screen; returns the spec, with its length if the corpus is prepared.

    Raises:
        ConfigError: Keys contradict each other, the accelerate file, the DeepSpeed JSON or this machine.
        ModelError: The model or the tokenizer does not exist, or they do not fit each other.
    """
    spec = resolve(config, Launch.read())
    if spec.launch.is_main:
        corpus, num_bytes = pipeline.find(spec.corpus)
        if corpus is not None:
            spec = complete(spec, corpus)
            summary.warn_of_unknown(corpus.manifest)
        logger.info("%s", spec.to_yaml())
        logger.info("%s", text_of(_table(spec, corpus, num_bytes)))
    return spec


def _table(spec: Spec, corpus: PreparedCorpus | None, num_bytes: int | None) -> Table:
    table = Table(title=f"Plan of {spec.output_dir}", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    launch, device, batch = spec.launch, spec.launch.device, spec.batch
    start = "its checkpoint" if spec.model.init_from is None else f"the weights of {spec.model.init_from}"
    origin = "random weights" if spec.model.from_scratch else start
    table.add_row("model", f"{spec.model.name_or_path} from {origin}, {spec.shape.parameters:,} parameters")
    if added := added_positions(spec.model, spec.corpus.rows.max_length):
        table.add_row("", added)
    table.add_row("processes", launch.describe())
    table.add_row("devices", f"{device.count} x {device.name}, {_size(device.memory)} of memory")
    table.add_row("batch", batch.describe())
    num_rows = _add_corpus(table, spec, corpus, num_bytes)
    if num_rows is not None:
        steps, samples = _length(spec, num_rows)
        table.add_row("steps", _describe_steps(spec, steps, samples))
        table.add_row("time", _time(spec, samples / batch.global_size))
    optim = spec.optim
    table.add_row("optimizer", f"{optim.name}, peak learning rate {optim.lr:.3g}, schedule {optim.schedule}")
    _add_memory(table, spec)
    _add_disk(table, spec)
    return table


def _add_corpus(table: Table, spec: Spec, corpus: PreparedCorpus | None, num_bytes: int | None) -> int | None:
    """Add the size of an epoch; returns its rows: exact if the corpus is prepared, else an estimate or unknown."""
    rows, length = spec.corpus.rows, spec.corpus.rows.max_length
    if corpus is not None:
        manifest = corpus.manifest
        num_rows = int(manifest["rows"]["train"])
        fraction = num_rows / max(1, sum(manifest["rows"].values()))
        table.add_row("corpus", f"{summary.locations(manifest)}, prepared as {corpus.digest}")
        num_tokens = manifest["tokens"]["kept"] * fraction
        table.add_row("epoch", f"{num_rows:,} rows (mode {rows.mode}), about {num_tokens:,.0f} tokens")
        table.add_row("validation", _validation(spec, int(manifest["rows"]["validation"])))
        if manifest["tokens"]["unknown"]:
            table.add_row("", f"{summary.percent_unknown(manifest)} of the tokens are unknown to the tokenizer")
        return num_rows
    names = ", ".join(without_credentials(source.config.source) for source in spec.corpus.sources)
    table.add_row("corpus", f"{names}, not prepared yet")
    if num_bytes is None or rows.mode == "truncate":
        table.add_row("epoch", "unknown until the corpus is prepared (mlm-dist prepare)")
        return None
    num_tokens = num_bytes * (1 - spec.corpus.documents.validation_fraction) / BYTES_PER_TOKEN
    num_rows = max(spec.batch.global_size, round(num_tokens / length))
    estimate = f"roughly {num_rows:,} rows (mode {rows.mode}), estimated from {_size(num_bytes)} of files"
    table.add_row("epoch", f"{estimate}; prepare the corpus for the exact number")
    return num_rows


def _validation(spec: Spec, num_rows: int) -> str:
    most = spec.validation.max_rows
    if most is None or num_rows <= most:
        return f"{num_rows:,} rows"
    return f"{most:,} of {num_rows:,} rows, evenly spaced (validation.max_rows)"


def _length(spec: Spec, num_rows: int) -> tuple[int | None, float]:
    """Steps and samples: known, estimated from a number of rows, or for a duration in hours those of one epoch."""
    if spec.length.steps is not None:
        return spec.length.steps, float(spec.length.samples or 0)
    duration, size = spec.optim.duration, spec.batch.global_size
    match duration.unit:
        case "hours":
            return None, num_rows
        case "steps":
            return int(duration.value), duration.value * size
        case "epochs":
            samples = duration.value * num_rows / (1 - spec.replay_share)
        case "tokens":
            samples = duration.value / spec.corpus.rows.max_length
    return max(1, round(samples / size)), samples


def _describe_steps(spec: Spec, steps: int | None, samples: float) -> str:
    if steps is None:
        return f"as many as fit into {spec.optim.duration}"
    warmup = "" if spec.length.warmup_steps is None else f", {spec.length.warmup_steps:,} of them warm-up"
    return f"{steps:,} for {samples:,.0f} rows ({spec.optim.duration}){warmup}"


def _time(spec: Spec, num_steps: float) -> str:
    launch = spec.launch
    is_alone = launch.world_size == 1 and not launch.is_sharded
    needed = spec.memory.total if is_alone else memory.unsharded(spec.memory, spec.shape)
    if needed > memory.available(launch):
        return "not measured: it may not fit the memory" + ("" if is_alone else " of one process without sharding")
    seconds = step_time.seconds_per_step(spec)
    each = f"{seconds:.3g} s per step, measured on random tokens"
    if not is_alone:
        sent = communication.communication(launch, spec.shape.parameters, spec.batch.accumulation)
        each = (
            f"{seconds + sent.seconds:.3g} s per step, an estimate: {seconds:.3g} s measured on one process, "
            f"and at most {sent.seconds:.3g} s to exchange {_size(sent.num_bytes)} at an assumed "
            f"{sent.bandwidth / 1e9:.3g} GB/s"
        )
        seconds += sent.seconds
    if spec.model.compile != "none":
        each += ", not compiled"
    duration = spec.optim.duration
    if duration.unit == "hours":
        return f"{duration}, so at most {3600 * duration.value / seconds:,.0f} steps: {each}"
    return f"about {_duration(seconds * num_steps)}: {each}; plus validations and checkpoints"


def _add_memory(table: Table, spec: Spec) -> None:
    needed, available = spec.memory, memory.available(spec.launch)
    parts = ("weights", "gradients", "moments", "activations", *(("libraries",) if needed.libraries else ()))
    table.add_row("memory, estimated", ", ".join(f"{name} {_size(getattr(needed, name))}" for name in parts))
    verdict = "fits" if needed.total <= available else "[red]may not fit[/red]"
    unit = "each device" if spec.launch.device.kind != "cpu" else "each process"
    table.add_row("", f"{verdict}: about {_size(needed.total)} of the {_size(available)} that {unit} can fill")
    if needed.total > available >= needed.total_if_checkpointed:
        table.add_row("", f"--model.checkpointing layers needs about {_size(needed.total_if_checkpointed)}, which fits")
    if needed.host:
        table.add_row("", f"and {_size(needed.host)} of host memory per process, offloaded")
    if spec.launch.device.kind == "cuda":
        pinned = _size(size_of_checkpoint(spec.shape.parameters))
        table.add_row(
            "", f"and at most {pinned} of pinned host memory on rank 0, through which checkpoints are written"
        )


def _add_disk(table: Table, spec: Spec) -> None:
    num_kept = spec.checkpoint.num_kept
    needed = disk_needed(spec.shape.parameters, num_kept)
    folder = spec.output_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    verdict = "fits" if needed <= free else "[red]does not fit[/red]"
    count = num_kept + 1
    table.add_row("disk", f"{verdict}: {count} checkpoints and the model need {_size(needed)}, {_size(free)} are free")


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
    runtime.main(run, prog="plan.py", description=__doc__)
