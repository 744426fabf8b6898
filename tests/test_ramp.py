"""Batches that grow: which samples each step consumes, how rows are cut, on any topology and after a resume."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import launching
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_invariance import losses, prepared
from test_packing import SPECIAL, batch_of, model_for
from test_resume import check_schedule_resumes
from torch.nn import functional as F

from mlm_dist.batches.global_batch import spread
from mlm_dist.batches.loader import Stream, Target, TrainingBatches
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.micro_batch import Samples, assemble
from mlm_dist.batches.mixture import mixed_order
from mlm_dist.batches.ramp import Ramp
from mlm_dist.config import BatchConfig, MaskingConfig, parse
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.errors import ConfigError
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.spec import BatchSpec

LENGTH = 64


def growing(*, size: int = 8, first: int = 2, length: int = 16, ramp: int = 10_000) -> BatchSpec:
    """A batch that grows from `first` rows of `length` tokens to `size` rows of 64."""
    return spread(BatchConfig(size, None, first, length, ramp), LENGTH, 1)


def ramp_of(**changes: int) -> Ramp:
    return Ramp(growing(**changes), LENGTH)


def test_sizes_and_lengths_grow_over_the_requested_tokens() -> None:
    ramp = ramp_of(size=40, first=4, ramp=64 * 1000)
    end = ramp.steps(1000)
    sizes, pieces = [ramp.size(step) for step in range(end + 5)], [ramp.pieces(step) for step in range(end + 5)]
    assert sizes[0] == 4 and sizes == sorted(sizes) and set(sizes[end:]) == {40}
    assert len(set(sizes)) == 17, "sixteen sizes before the last"
    assert sizes[end - 1] < 40, "the ramp ends early"
    assert pieces[0] == 4 and pieces == sorted(pieces, reverse=True) and set(pieces[end:]) == {1}
    half = ramp.steps(500)
    assert pieces[half - 1] == 4 and pieces[half + 1] == 2
    # Each stage takes as many tokens as the others, to a whole step.
    samples = {size: size * sizes[:end].count(size) for size in set(sizes[:end])}
    assert all(abs(count - 1000 / 16) <= 2 * 40 for count in samples.values())


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 10**6), st.integers(1, 10**5))
def test_every_sample_belongs_to_one_step(first: int, more: int, ramp_tokens: int, num_samples: int) -> None:
    ramp = ramp_of(size=first + more, first=first, ramp=ramp_tokens)
    last = ramp.steps(num_samples)
    assert ramp.samples_before(last - 1) < num_samples <= ramp.samples_before(last)
    for step in {0, 1, last // 2, last - 1, last, last + 7}:
        assert ramp.samples_before(step + 1) - ramp.samples_before(step) == ramp.size(step)
        assert ramp.steps(ramp.samples_before(step) + 1) == step + 1


def test_without_a_ramp_all_steps_have_the_same_batch() -> None:
    ramp = Ramp(spread(BatchConfig(24), LENGTH, 1), LENGTH)
    assert [(ramp.size(k), ramp.pieces(k), ramp.samples_before(k)) for k in (0, 9)] == [(24, 1, 0), (24, 1, 216)]
    assert ramp.steps(200) == 9


def test_ramp_takes_more_steps_for_the_same_samples() -> None:
    ramp = ramp_of(size=40, first=4, ramp=64 * 1000)
    steps = ramp.steps(4000)
    assert steps > 100
    assert ramp.samples_before(steps) >= 4000 > ramp.samples_before(steps - 1)


def test_samples_follow_the_order_on_any_topology(small: tuple[Path, int]) -> None:
    corpus = prepared(small)
    rows, special = corpus.rows("train"), loading.special_tokens(corpus.tokenizer)
    masker = Masker(MaskingConfig(), 7, special.mask, special.all, len(corpus.tokenizer))
    grown, order = growing(size=12, first=3, ramp=64 * 150), mixed_order({"": range(len(rows))}, {}, seed=7)
    ramp, num_samples = Ramp(grown, LENGTH), 300
    num_steps = ramp.steps(num_samples)
    found = []
    for processes, micro in ((1, 12), (2, 3), (3, 4)):
        batch = dataclasses.replace(
            grown, micro_size=micro, accumulation=12 // processes // micro, world_size=processes
        )
        stream = Stream(rows, order, num_samples)
        ranks = [TrainingBatches(stream, masker, batch, ramp, Target(rank)) for rank in range(processes)]
        seen = []
        for step in range(num_steps):
            by_rank = [batches[step] for batches in ranks]
            assert len({len(micro_batches) for micro_batches in by_rank}) == 1, "processes would wait for each other"
            assert len(by_rank[0]) <= batch.accumulation
            found_here = [one for micro_batches in by_rank for one in micro_batches]
            assert {one.input_ids.shape[1] for one in found_here} == {LENGTH // ramp.pieces(step)}
            seen.append((sum(one.num_predicted for one in found_here), sum(one.num_tokens for one in found_here)))
        samples = [sample for step in range(num_steps) for sample in ranks[0].samples(step)]
        assert samples == order.between(0, num_samples)[1].tolist()
        assert len(ranks[0].samples(0)) == 3
        found.append(seen)
        for one in ranks:
            one.close()
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["bert", pytest.param("modernbert", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [pytest.param("chunk", marks=pytest.mark.slow), "pack"])
@torch.no_grad()
def test_pieces_are_separate_rows(name: str, mode: str, tmp_path: Path) -> None:
    """The loss of cut rows is that of each piece alone, computed by the library's own model."""
    whole, table = batch_of(tmp_path, mode)
    masker = Masker(MaskingConfig(), 0, SPECIAL.mask, SPECIAL.all, 120)
    samples = np.arange(len(table))
    cut = assemble(table, masker, Samples(np.zeros_like(samples), samples), len(table), pieces=3)
    assert torch.equal(cut.input_ids.reshape(-1), whole.input_ids.reshape(-1)), "the masks changed"
    assert torch.equal(cut.positions, whole.positions) and cut.num_tokens == whole.num_tokens
    model = model_for(name)
    wrapped = MaskedLanguageModel(model, masked_head=True, packed=mode == "pack").eval()
    found = wrapped(*cut.inputs).loss_sum.item()

    lengths, counts = table.chunks(samples)
    labels = torch.full((whole.input_ids.numel(),), -100)
    real = whole.labels >= 0
    labels[whole.positions[real]] = whole.labels[real]
    expected, left = 0.0, iter(lengths.tolist())
    for row, count in enumerate(counts.tolist()):
        begin = row * 24
        for _ in range(count):
            end = begin + next(left)
            edges = [begin, *(edge for edge in range(row * 24, row * 24 + 24, 8) if begin < edge < end), end]
            for start, stop in itertools.pairwise(edges):
                logits = model(input_ids=whole.input_ids.reshape(1, -1)[:, start:stop]).logits[0]
                expected += F.cross_entropy(logits, labels[start:stop], ignore_index=-100, reduction="sum").item()
            begin = end
    assert found == pytest.approx(expected, rel=1e-4)


def test_pieces_have_separate_dropouts(tmp_path: Path) -> None:
    _, table = batch_of(tmp_path, "chunk")
    masker, samples = Masker(MaskingConfig(), 0, SPECIAL.mask, SPECIAL.all, 120), np.arange(2)
    keys = np.array([5, 6], np.uint64)
    batch = assemble(table, masker, Samples(np.zeros(2, np.int64), samples, keys), 2, pieces=3)
    assert batch.row_keys is not None and len(set(batch.row_keys.tolist())) == 6


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch.initial_size=4"], "batch.initial_size needs the number of tokens over which it grows"),
        (["--batch.ramp_tokens=4"], "batch.ramp_tokens has no effect"),
        (["--batch.initial_size=17", "--batch.ramp_tokens=9"], "batch.initial_size: .*from 1 to batch.global_size"),
        (["--batch.initial_length=48", "--batch.ramp_tokens=9"], "batch.initial_length: .*one of 128, 64, 32, 16, 8"),
        (["--batch.initial_length=32", "--batch.ramp_tokens=0"], "batch.ramp_tokens: .*at least 1"),
    ],
)
def test_impossible_ramp_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(flags)


GROWS = ("--batch.initial_size=3", "--batch.initial_length=16", "--batch.ramp_tokens=20000")
KINDS = [(2, 2, "plain"), (2, 3, "zero2"), (2, 3, "zero3"), (3, 4, "zero1")]


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [(), ("--rows.mode=pack",)], ids=["chunk", "pack"])
def test_losses_with_a_ramp_do_not_depend_on_the_topology(
    arguments: tuple[str, ...], tmp_path: Path, small: tuple[Path, int]
) -> None:
    flags = ("--optim.duration=60 steps", *GROWS, *arguments)
    samples = ramp_of(size=12, first=3, length=16, ramp=20_000).samples_before(60)
    expected = losses(tmp_path / "one", small, 1, 4, "plain", *flags, samples=samples)
    rows = [line["samples"] for line in launching.metrics(tmp_path / "one", "train")]
    assert rows[0] == 3 and rows[-1] - rows[-2] == 12
    for processes, micro, kind in KINDS if not arguments else KINDS[:2]:
        found = losses(tmp_path / f"{processes}-{kind}", small, processes, micro, kind, *flags, samples=samples)
        assert found == pytest.approx(expected, rel=1e-5), (processes, micro, kind)


@pytest.mark.slow
def test_run_with_a_ramp_resumes(tmp_path: Path, prepared_cache: Path) -> None:
    grows = ("--batch.initial_size=2", "--batch.initial_length=32", "--batch.ramp_tokens=2000")
    change, named = "--batch.ramp_tokens=4000", "batch.ramp_tokens"
    check_schedule_resumes(tmp_path, prepared_cache, grows, change, named, "one", "zero2")
