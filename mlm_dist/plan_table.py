"""The table of the plan job: what a run will be and need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import TypeAlias

from rich.table import Table

from mlm_dist.batches.mixture import samples_per_epoch
from mlm_dist.checkpoint.save import disk_needed, size_of_checkpoint
from mlm_dist.corpus import summary
from mlm_dist.corpus.sources import without_credentials
from mlm_dist.corpus.store import SPLITS, PreparedCorpus
from mlm_dist.engine import memory
from mlm_dist.model.architecture import added_positions
from mlm_dist.spec import Spec
from mlm_dist.training import time_estimate

_Rows: TypeAlias = dict[str, dict[str, int]]  # {split: {source: rows}}
BYTES_PER_TOKEN = 4.2  # of English text with a WordPiece vocabulary of 30,000


def plan_table(spec: Spec, corpus: PreparedCorpus | None, sizes: Mapping[str, int] | None) -> Table:
    """The plan of a run: model, hardware, corpus, schedule, time, memory and disk.

    Args:
        spec: The run.
        corpus: Its corpus, if it is prepared.
        sizes: {source: bytes of its files}, if they are on this disk.
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
    rows = _rows(spec, corpus, sizes)
    _add_corpus(table, spec, corpus, rows, sum((sizes or {}).values()))
    table.add_row("rows", _describe_rows(spec))
    table.add_row("batch", batch.describe())
    table.add_row("learning rate", _describe_rate(spec))
    table.add_row("optimizer", _describe_optimizer(spec))
    if rows is not None:
        steps, samples = _length(spec, samples_per_epoch(rows["train"], spec.mix))
        table.add_row("steps", _describe_steps(spec, steps, samples))
        _add_sources(table, spec, rows, None if steps is None else samples)
        _add_time(table, spec, samples / batch.global_size, sum(rows["validation"].values()))
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
    return f"{optim.name}, weight decay {optim.weight_decay:g}, {clipping}"


def _rows(spec: Spec, corpus: PreparedCorpus | None, sizes: Mapping[str, int] | None) -> _Rows | None:
    """The rows of each source: exact if the corpus is prepared, else an estimate or unknown."""
    if corpus is not None:
        return {split: {name: len(one) for name, one in corpus.source_rows(split).items()} for split in SPLITS}
    if sizes is None or spec.corpus.rows.mode == "truncate":
        return None
    fractions, each = spec.corpus.documents.validation_fractions(), BYTES_PER_TOKEN * spec.corpus.rows.max_length
    held_out = {name: round(size * fractions[name] / each) for name, size in sizes.items()}
    rows = {name: round(size * (1 - fractions[name]) / each) for name, size in sizes.items()}
    first = next(iter(spec.mix or rows))
    return {"train": rows | {first: max(rows[first], spec.batch.global_size)}, "validation": held_out}


def _add_corpus(table: Table, spec: Spec, corpus: PreparedCorpus | None, rows: _Rows | None, num_bytes: int) -> None:
    """Add the documents, the size of an epoch and that of the validation set."""
    num_rows = 0.0 if rows is None else samples_per_epoch(rows["train"], spec.mix)
    of_first = f", one pass over {next(iter(spec.mix))}" if spec.mix else ""
    if corpus is not None and rows is not None:
        manifest, held_out = corpus.manifest, rows["validation"]
        mean = manifest["tokens"]["kept"] / max(1, sum(manifest["rows"].values()))
        table.add_row("corpus", f"{summary.locations(manifest)}, prepared as {corpus.digest}")
        table.add_row("epoch", f"{num_rows:,.0f} rows, about {num_rows * mean:,.0f} tokens{of_first}")
        counted = sum(held_out[name] for name in spec.mix) or sum(held_out.values())
        table.add_row("validation", _validation(spec, counted))
        if manifest["tokens"]["unknown"]:
            table.add_row("", f"{summary.percent_unknown(manifest)} of the tokens are unknown to the tokenizer")
        return
    names = ", ".join(without_credentials(source.config.source) for source in spec.corpus.sources)
    table.add_row("corpus", f"{names}, not prepared yet")
    if rows is None:
        table.add_row("epoch", "unknown until the corpus is prepared (mlm-dist prepare)")
    else:
        estimate = f"roughly {num_rows:,.0f} rows{of_first}, estimated from {_size(num_bytes)} of files"
        table.add_row("epoch", f"{estimate}; prepare the corpus for the exact number")


def _add_sources(table: Table, spec: Spec, rows: _Rows, samples: float | None) -> None:
    """Add the share, the rows and the epochs of each source, if there are several."""
    train = rows["train"]
    shares = spec.mix or {name: count / sum(train.values()) for name, count in train.items() if count}
    for i, (name, num_rows) in enumerate(train.items() if len(train) > 1 else ()):
        held_out = rows["validation"][name]
        text = f"validation only, {held_out:,} rows"
        if name in shares:
            share = shares[name] / sum(shares.values())
            epochs = "" if samples is None else f", {samples * share / num_rows:,.3g} epochs"
            text = f"{share:.1%}, {num_rows:,} rows{epochs}, {held_out:,} for validation"
        table.add_row("" if i else "sources", f"{name}: {text}")


def _validation(spec: Spec, num_rows: int) -> str:
    most = spec.validation.max_rows
    if most is None or num_rows <= most:
        return f"{num_rows:,} rows"
    return f"{most:,} of {num_rows:,} rows, evenly spaced (validation.max_rows)"


def _length(spec: Spec, num_rows: float) -> tuple[int | None, float]:
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
            samples = duration.value * num_rows
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
    needed = spec.memory.total if is_alone else memory.unsharded(spec.memory, spec.shape)
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
        pinned = f"at most {_size(size_of_checkpoint(spec.shape.parameters))} of pinned host memory on rank 0"
        table.add_row("", f"and {pinned}, through which checkpoints are written")


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
