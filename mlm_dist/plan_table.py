"""The table of the plan job: what a run will be and need."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from rich.table import Table

from mlm_dist import plan_phases
from mlm_dist.batches.mixture import samples_per_epoch
from mlm_dist.checkpoint.save import disk_needed, size_of_checkpoint
from mlm_dist.corpus import summary
from mlm_dist.corpus.sources import without_credentials
from mlm_dist.corpus.store import SPLITS, PreparedCorpus
from mlm_dist.engine import memory
from mlm_dist.model.architecture import added_positions
from mlm_dist.plan_advice import advice
from mlm_dist.spec import Spec
from mlm_dist.training import time_estimate
from mlm_dist.training.time_estimate import PhaseTime

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
    launch, device = spec.launch, spec.launch.device
    start = "its checkpoint" if spec.model.init_from is None else f"the weights of {spec.model.init_from}"
    origin = "random weights" if spec.model.from_scratch else start
    table.add_row("model", f"{spec.model.name_or_path} from {origin}, {spec.shape.parameters:,} parameters")
    if added := added_positions(spec.model, spec.corpus.longest_row):
        table.add_row("", added)
    table.add_row("processes", launch.describe())
    table.add_row("devices", f"{device.count} x {device.name}, {_size(device.memory)} of memory")
    rows = _rows(spec, corpus, sizes)
    _add_corpus(table, spec, corpus, rows, sum((sizes or {}).values()))
    if len(spec.phases) == 1:
        plan_phases.add_only_phase(table, spec)
    table.add_row("optimizer", _describe_optimizer(spec))
    if rows is not None:
        lengths = [plan_phases.length_of(phase, rows["train"], spec.corpus.rows) for phase in spec.phases]
        plan_phases.add_lengths(table, spec.phases, lengths, rows)
        samples = zip(spec.phases, lengths, strict=True)
        num_tokens = sum(count * phase.rows.max_length for phase, (_, count) in samples)
        for i, text in enumerate(advice(spec, num_tokens)):
            table.add_row("" if i else "advice", text)
        steps = [
            None if count is None else samples / phase.batch.global_size
            for phase, (count, samples) in zip(spec.phases, lengths, strict=True)
        ]
        _add_time(table, spec, steps, sum(rows["validation"].values()))
    _add_memory(table, spec)
    _add_disk(table, spec)
    return table


def _describe_optimizer(spec: Spec) -> str:
    optim = spec.optim
    clipping = "no clipping" if optim.max_grad_norm is None else f"gradient norm at most {optim.max_grad_norm:g}"
    average = "" if optim.ema_decay is None else f", average of the weights with decay {optim.ema_decay:g}"
    return f"{optim.name}, weight decay {optim.weight_decay:g}, {clipping}{average}"


def _rows(spec: Spec, corpus: PreparedCorpus | None, sizes: Mapping[str, int] | None) -> plan_phases.Rows | None:
    """The rows of each source: exact if the corpus is prepared, else an estimate or unknown."""
    if corpus is not None:
        return {split: {name: len(one) for name, one in corpus.source_rows(split).items()} for split in SPLITS}
    if sizes is None or spec.corpus.rows.mode == "truncate":
        return None
    fractions, each = spec.corpus.documents.validation_fractions(), BYTES_PER_TOKEN * spec.corpus.rows.max_length
    held_out = {name: round(size * fractions[name] / each) for name, size in sizes.items()}
    rows = {name: round(size * (1 - fractions[name]) / each) for name, size in sizes.items()}
    phase = spec.phases[0]
    first = next(iter(phase.mix or rows))
    return {"train": rows | {first: max(rows[first], phase.batch.global_size)}, "validation": held_out}


def _add_corpus(
    table: Table, spec: Spec, corpus: PreparedCorpus | None, rows: plan_phases.Rows | None, num_bytes: int
) -> None:
    """Add the documents, the size of an epoch and that of the validation set."""
    num_rows = 0.0 if rows is None else samples_per_epoch(rows["train"], spec.phases[0].mix)
    of_first = f", one pass over {next(iter(spec.phases[0].mix))}" if spec.phases[0].mix else ""
    if corpus is not None and rows is not None:
        manifest, held_out = corpus.manifest, rows["validation"]
        mean = manifest["tokens"]["kept"] / max(1, sum(manifest["rows"].values()))
        table.add_row("corpus", f"{summary.locations(manifest)}, prepared as {corpus.digest}")
        table.add_row("epoch", f"{num_rows:,.0f} rows, about {num_rows * mean:,.0f} tokens{of_first}")
        counted = sum(held_out[name] for name in spec.trained_on) or sum(held_out.values())
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


def _validation(spec: Spec, num_rows: int) -> str:
    most = spec.validation.max_rows
    if most is None or num_rows <= most:
        return f"{num_rows:,} rows"
    return f"{most:,} of {num_rows:,} rows, evenly spaced (validation.max_rows)"


def _add_time(table: Table, spec: Spec, steps: Sequence[float | None], num_validation: int) -> None:
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
    found = time_estimate.estimate(spec, steps, num_validation)
    each, only = _describe_step(spec, found.phases[0]), spec.phases[0].duration
    if only.unit == "hours" and len(spec.phases) == 1:
        table.add_row("time", f"{only}, so at most {found.phases[0].steps:,.0f} steps: {each}")
        return
    if len(spec.phases) > 1:
        each = "; ".join(map(plan_phases.describe_time, spec.phases, found.phases))
    table.add_row("time", f"about {plan_phases.duration(found.total)}: {each}")
    parts = ", ".join(f"{name} {share:.0%}" for name, share in found.shares().items())
    times = f" ({found.validations:,} times {found.rows:,} rows, estimated)" if found.validations else ""
    table.add_row("", f"{parts}{times}; plus preparation, checkpoints and export")
    count = launch.device.count
    if is_alone and count > 1 and spec.phases[0].batch.global_size % count == 0:
        several = plan_phases.duration(found.on_processes(spec, count).total)
        table.add_row("", f"with --topology ddp --num_processes {count}: about {several}, an estimate")


def _describe_step(spec: Spec, time: PhaseTime) -> str:
    each = f"{time.step:.3g} s per step, measured on random tokens"
    if time.sent is not None:
        each = (
            f"{time.step + time.exchange:.3g} s per step, an estimate: {time.step:.3g} s measured on one process, "
            f"and at most {time.exchange:.3g} s to exchange {_size(time.sent.num_bytes)} at an assumed "
            f"{time.sent.bandwidth / 1e9:.3g} GB/s"
        )
    return each + (", not compiled" if spec.model.compile != "none" else "")


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
        held = _size(size_of_checkpoint(spec.shape.parameters, ema=spec.optim.ema_decay is not None))
        pinned = f"at most {held} of pinned host memory on rank 0"
        table.add_row("", f"and {pinned}, through which checkpoints are written")


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
