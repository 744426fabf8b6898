"""Order, masks, dropout and losses do not depend on processes, micro-batch or sharding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import launching
import numpy as np
import pytest
import torch
from making import made_up_prose
from safetensors.torch import load_file

from mlm_dist.batches.loader import Stream, Target, TrainingBatches
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.mixture import mixed_order
from mlm_dist.batches.ramp import Ramp
from mlm_dist.config import MaskingConfig, parse
from mlm_dist.corpus.pipeline import prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.resolve import corpus_spec
from mlm_dist.spec import BatchSpec

GLOBAL_SIZE, STEPS = 12, 60
SHAPES = [(processes, micro) for processes in (1, 2, 3) for micro in (1, 2, 4) if GLOBAL_SIZE // processes % micro == 0]
MAX_LENGTH = 64
DEFAULT = MaskingConfig()
KINDS = ("plain", "zero1", "zero2", "zero3")


def prepared(small: tuple[Path, int], *arguments: str) -> PreparedCorpus:
    """The fixture's corpus, or one of the same documents."""
    cache, _ = small
    source = (f"--corpus.source={cache / 'documents'}", f"--corpus.cache_dir={cache}")
    return prepare(corpus_spec(parse([*source, *launching.TINY, *arguments])), 0, 1)


def batches_of(
    corpus: PreparedCorpus,
    processes: int,
    micro: int,
    num_samples: int,
    masking: MaskingConfig = DEFAULT,
    rank: int = 0,
) -> TrainingBatches:
    """The micro-batches of a rank."""
    batch = BatchSpec(
        GLOBAL_SIZE,
        micro,
        GLOBAL_SIZE // processes // micro,
        processes,
        initial_size=GLOBAL_SIZE,
        initial_length=MAX_LENGTH,
    )
    special = loading.special_tokens(corpus.tokenizer)
    masker = Masker(masking, 7, special.mask, special.all, len(corpus.tokenizer))
    rows = corpus.rows("train")
    stream = Stream(rows, mixed_order({"": range(len(rows))}, {}, seed=7), num_samples)
    return TrainingBatches(stream, masker, batch, Ramp(batch, MAX_LENGTH), Target(rank))


def digests(
    corpus: PreparedCorpus, processes: int, micro: int, num_samples: int, masking: MaskingConfig = DEFAULT
) -> list[str]:
    """For each step a digest of what it trains on: its rows with their masks and labels, sorted."""
    ranks = [batches_of(corpus, processes, micro, num_samples, masking, rank) for rank in range(processes)]
    found = []
    for step in range(STEPS):
        rows = []
        for batches in ranks:
            for batch in batches[step]:
                width = batch.input_ids.shape[1]
                labels = np.full(batch.input_ids.numel(), -100)
                real = batch.labels.numpy() >= 0
                labels[batch.positions.numpy()[real]] = batch.labels.numpy()[real]
                for shown, wanted in zip(batch.input_ids.numpy(), labels.reshape(-1, width), strict=True):
                    if (wanted >= 0).any():
                        rows.append(shown.tobytes() + wanted.tobytes())
        assert len(rows) == min(GLOBAL_SIZE, num_samples - step * GLOBAL_SIZE)
        found.append(hashlib.sha256(b"".join(sorted(rows))).hexdigest())
    for batches in ranks:
        batches.close()
    return found


def test_order_and_masks_are_the_same_on_any_shape(small: tuple[Path, int]) -> None:
    _, num_rows = small
    num_samples = STEPS * GLOBAL_SIZE - 5  # the last step is smaller
    assert num_samples > 2 * num_rows, "two epochs must end within the run"
    expected = digests(prepared(small), 1, 12, num_samples)
    assert len(set(expected)) == STEPS
    for processes, micro in SHAPES:
        assert digests(prepared(small), processes, micro, num_samples) == expected, (processes, micro)


@pytest.mark.parametrize("unit", ["token", "word", "span"])
@pytest.mark.parametrize("mode", ["chunk", "pack"])
def test_masks_of_every_kind_are_the_same_on_any_shape(small: tuple[Path, int], unit: str, mode: str) -> None:
    masking = MaskingConfig(probability=0.15, final_probability=0.5, unit=unit)  # type: ignore[arg-type]
    corpus = prepared(small, f"--masking.unit={unit}", f"--rows.mode={mode}")
    num_samples = STEPS * GLOBAL_SIZE - 5
    expected = digests(corpus, 1, 12, num_samples, masking)
    for processes, micro in SHAPES[1::2]:
        assert digests(corpus, processes, micro, num_samples, masking) == expected, (processes, micro)
    constant = digests(corpus, 1, 12, num_samples, MaskingConfig(unit=unit))  # type: ignore[arg-type]
    assert constant[-1] != expected[-1], "the rate does not change"


def test_every_sample_comes_once_an_epoch(small: tuple[Path, int]) -> None:
    _, num_rows = small
    batches = batches_of(prepared(small), 3, 4, 3 * num_rows)
    stream = [sample for step in range(-(-3 * num_rows // GLOBAL_SIZE)) for sample in batches.samples(step)]
    batches.close()
    for epoch in range(3):
        assert sorted(stream[epoch * num_rows : (epoch + 1) * num_rows]) == list(range(num_rows))


def losses(
    run: Path,
    small: tuple[Path, int],
    processes: int,
    micro: int,
    kind: str,
    *arguments: str,
    samples: int = STEPS * GLOBAL_SIZE - 5,
) -> list[float]:
    """The losses of all steps of a run that consumes a number of samples."""
    cache, num_rows = small[0], len(prepared(small, *arguments).rows("train"))
    topology = ("cpu" if processes == 1 else "cpu_2") if kind == "plain" else kind
    ended = launching.accelerate(
        topology,
        "train.py",
        *(f"--corpus.source={cache / 'documents'}", f"--corpus.cache_dir={cache}", f"--output_dir={run}"),
        *(f"--batch.global_size={GLOBAL_SIZE}", f"--batch.micro_size={micro}", "--logging.every=1"),
        *(f"--optim.duration={(STEPS * GLOBAL_SIZE - 5) / num_rows!r} epochs", "--validation.every=null"),
        *launching.DROPOUT,
        *launching.TINY,
        *arguments,
        launch=("--mixed_precision=no", f"--num_processes={processes}"),
    )
    assert ended.returncode == 0, ended.output
    lines = launching.metrics(run, "train")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert lines[-1]["samples"] == samples
    return [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, small: tuple[Path, int]) -> list[float]:
    return losses(tmp_path_factory.mktemp("reference") / "run", small, 1, 4, "plain")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "micro", "kind"), [(processes, micro, kind) for processes, micro in SHAPES for kind in KINDS]
)
def test_losses_do_not_depend_on_the_topology(
    reference: list[float], tmp_path: Path, small: tuple[Path, int], processes: int, micro: int, kind: str
) -> None:
    assert losses(tmp_path / "run", small, processes, micro, kind) == pytest.approx(reference, rel=1e-5)


MASKS = ("--masking.unit=span", "--masking.probability=0.3", "--masking.final_probability=0.1", "--rows.mode=pack")


@pytest.mark.slow
def test_losses_with_spans_and_a_masking_schedule_do_not_depend_on_the_topology(
    tmp_path: Path, small: tuple[Path, int]
) -> None:
    expected = losses(tmp_path / "one", small, 1, 4, "plain", *MASKS)
    num_masked = [line["masked_tokens"] / line["tokens"] for line in launching.metrics(tmp_path / "one", "train")]
    assert num_masked[0] > num_masked[-1]
    for processes, micro, kind in ((2, 2, "plain"), (3, 4, "zero2")):
        found = losses(tmp_path / f"{processes}", small, processes, micro, kind, *MASKS)
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_training_ends_early_at_the_same_step(tmp_path: Path, small: tuple[Path, int]) -> None:
    """At a learning rate that soon makes the loss worse; both processes validate on a source that is not trained on."""
    (cache, _), other = small, tmp_path / "other"
    other.mkdir()
    for i in range(8):
        (other / f"{i}.txt").write_text(made_up_prose(900 + i, 30), "utf-8")
    found = []
    for topology, processes in (("cpu_2", 2), ("cpu", 1)):
        run = tmp_path / topology
        ended = launching.accelerate(
            topology,
            "train.py",
            *(f"--corpus.sources.own.source={cache / 'documents'}", f"--corpus.sources.other.source={other}"),
            *("--corpus.sources.other.validation_fraction=1", "--corpus.mix.own=1", f"--corpus.cache_dir={cache}"),
            *(f"--output_dir={run}", f"--batch.global_size={GLOBAL_SIZE}"),
            *launching.PATIENT,
            *launching.TINY,
            launch=("--mixed_precision=no", f"--num_processes={processes}"),
        )
        assert ended.returncode == 0, ended.output
        end, lines = launching.metrics(run, "end")[0], launching.metrics(run, "validation")
        assert end["stopped_early"]
        assert end["best_loss"] == min(line["loss"] for line in lines[1:])
        assert end["best_step"] == end["step"] - 2 * 2, "two validations, one every second step"
        best = run / "checkpoints" / f"step-{end['best_step']:08d}"
        weights, exported = load_file(best / "model.safetensors"), load_file(run / "model" / "model.safetensors")
        assert all(torch.equal(value, weights[f"model.{name}"]) for name, value in exported.items())
        kept = sorted(path.name for path in best.parent.iterdir())
        assert kept == [best.name, f"step-{end['step']:08d}"]
        # At this learning rate, later steps amplify rounding.
        first = [line[name] for line in lines[:2] for name in ("loss", "source_other_loss", "accuracy_frequent")]
        found.append((end["step"], first))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
