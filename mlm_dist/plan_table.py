"""The table of the plan job: what a run will be and need."""

from __future__ import annotations

import shutil

from rich.table import Table

from mlm_dist.checkpoint.save import disk_needed, size_of_checkpoint
from mlm_dist.corpus import summary
from mlm_dist.corpus.sources import without_credentials
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.engine import memory
from mlm_dist.model.architecture import added_positions
from mlm_dist.spec import Spec
from mlm_dist.training import time_estimate

BYTES_PER_TOKEN = 4.2  # of English text with a WordPiece vocabulary of 30,000


def plan_table(spec: Spec, corpus: PreparedCorpus | None, num_bytes: int | None) -> Table:
    """The plan of a run: model, hardware, corpus, schedule, time, memory and disk.

    Args:
        spec: The run.
        corpus: Its corpus, if it is prepared.
        num_bytes: Bytes of the files of its source, if they are on this disk.
    """
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
    num_rows = _add_corpus(table, spec, corpus, num_bytes)
    table.add_row("rows", _describe_rows(spec))
    table.add_row("batch", batch.describe())
    table.add_row("learning rate", _describe_rate(spec))
    table.add_row("optimizer", _describe_optimizer(spec))
    if num_rows is not None:
        steps, samples = _length(spec, num_rows)
        table.add_row("steps", _describe_steps(spec, steps, samples))
        fraction = spec.corpus.documents.validation_fraction
        estimated = round(num_rows * fraction / (1 - fraction))
        num_validation = estimated if corpus is None else int(corpus.manifest["rows"]["validation"])
        _add_time(table, spec, samples / batch.global_size, num_validation)
    _add_memory(table, spec)
    _add_disk(table, spec)
    return table


def _describe_rows(spec: Spec) -> str:
    rows, is_open = spec.corpus.rows, spec.written["rows"]["mode"] is None
    what = {
        "pack": "several chunks of documents",
        "chunk": "one chunk of a document",
        "truncate": "the beginning of a document",
    }[rows.mode]
    decided = " (by a trial of the architecture)" if is_open else ""
    return f"mode {rows.mode}{decided}: {what} in each row of {rows.max_length:,} tokens"


def _describe_rate(spec: Spec) -> str:
    optim, steps = spec.optim, spec.length.warmup_steps
    if steps is not None:
        warmup = f"after {steps:,} warm-up steps"
    elif optim.warmup < 1:
        warmup = f"after a warm-up of {optim.warmup:.3g} of all steps"
    else:
        warmup = f"after {optim.warmup:,.0f} warm-up steps"
    after = {
        "linear": "falls to 0 linearly",
        "cosine": "falls to 0 as a cosine",
        "constant": "stays",
        "wsd": "stays, and falls to 0 over the last fifth",
    }[optim.schedule]
    is_default = " (the default for this start)" if spec.written["optim"]["lr"] is None else ""
    return f"peak {optim.lr:.3g}{is_default} {warmup if optim.warmup else 'without warm-up'}, then {after}"


def _describe_optimizer(spec: Spec) -> str:
    optim = spec.optim
    clipping = "no clipping" if optim.max_grad_norm is None else f"gradient norm at most {optim.max_grad_norm:g}"
    average = "" if optim.ema_decay is None else f", average of the weights with decay {optim.ema_decay:g}"
    return f"{optim.name}, weight decay {optim.weight_decay:g}, {clipping}{average}"


def _add_corpus(table: Table, spec: Spec, corpus: PreparedCorpus | None, num_bytes: int | None) -> int | None:
    """Add the size of an epoch; returns its rows: exact if the corpus is prepared, else an estimate or unknown."""
    rows, length = spec.corpus.rows, spec.corpus.rows.max_length
    if corpus is not None:
        manifest = corpus.manifest
        num_rows = int(manifest["rows"]["train"])
        fraction = num_rows / max(1, sum(manifest["rows"].values()))
        table.add_row("corpus", f"{summary.locations(manifest)}, prepared as {corpus.digest}")
        num_tokens = manifest["tokens"]["kept"] * fraction
        table.add_row("epoch", f"{num_rows:,} rows, about {num_tokens:,.0f} tokens")
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
    estimate = f"roughly {num_rows:,} rows, estimated from {_size(num_bytes)} of files"
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
    return f"{steps:,} for {samples:,.0f} rows ({spec.optim.duration})"


def _add_time(table: Table, spec: Spec, num_steps: float, num_validation: int) -> None:
    """Add the time of the run, where it goes, and that on all devices of this machine if one is used."""
    launch = spec.launch
    is_alone = launch.world_size == 1 and not launch.is_sharded
    needed = (
        spec.memory.total
        if is_alone
        else memory.unsharded(spec.memory, spec.shape, ema=spec.optim.ema_decay is not None)
    )
    if needed > memory.available(launch):
        where = "" if is_alone else " of one process without sharding"
        table.add_row("time", f"not measured: it may not fit the memory{where}")
        return
    found = time_estimate.estimate(spec, num_steps, num_validation)
    each = f"{found.step:.3g} s per step, measured on random tokens"
    if found.sent is not None:
        each = (
            f"{found.step + found.exchange:.3g} s per step, an estimate: {found.step:.3g} s measured on one process, "
            f"and at most {found.exchange:.3g} s to exchange {_size(found.sent.num_bytes)} at an assumed "
            f"{found.sent.bandwidth / 1e9:.3g} GB/s"
        )
    if spec.model.compile != "none":
        each += ", not compiled"
    duration = spec.optim.duration
    if duration.unit == "hours":
        steps = 3600 * duration.value / (found.step + found.exchange)
        table.add_row("time", f"{duration}, so at most {steps:,.0f} steps: {each}")
        return
    table.add_row("time", f"about {_duration(found.total)}: {each}")
    parts = ", ".join(f"{name} {share:.0%}" for name, share in found.shares().items())
    times = f" ({found.validations:,} times {found.rows:,} rows, estimated)" if found.validations else ""
    table.add_row("", f"{parts}{times}; plus preparation, checkpoints and export")
    count = launch.device.count
    if is_alone and count > 1 and spec.batch.global_size % count == 0:
        several = _duration(found.on_processes(spec, count).total)
        table.add_row("", f"with --topology ddp --num_processes {count}: about {several}, an estimate")


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
        pinned = _size(size_of_checkpoint(spec.shape.parameters, ema=spec.optim.ema_decay is not None))
        table.add_row(
            "", f"and at most {pinned} of pinned host memory on rank 0, through which checkpoints are written"
        )


def _add_disk(table: Table, spec: Spec) -> None:
    num_kept = spec.checkpoint.num_kept
    needed = disk_needed(spec.shape.parameters, num_kept, ema=spec.optim.ema_decay is not None)
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
