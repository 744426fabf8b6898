"""A mix of sources: shares and orders of the stream, its rows, its length, and what a resume needs."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import made_up_prose
from specs import completed, phase, prepare, spec_of
from test_invariance import GLOBAL_SIZE, STEPS, losses
from test_resume import check_schedule_resumes

from mlm_dist.batches.mixture import Order, mixed_order
from mlm_dist.batches.order import SampleOrder
from mlm_dist.checkpoint import format, same_run
from mlm_dist.checkpoint.state import TrainState
from mlm_dist.config import Config, parse
from mlm_dist.corpora import Corpora, load_or_prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import CheckpointError, ConfigError
from mlm_dist.training.identity import identity

MIX = {"main": 0.75, "other": 0.25}
NAMES = "abcdef"


def write(folder: Path, first: int, count: int) -> Path:
    """A folder of made-up documents."""
    folder.mkdir(exist_ok=True)
    for i in range(first, first + count):
        (folder / f"{i}.txt").write_text(made_up_prose(i, 6 + i % 7), "utf-8")
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two sources with packed rows and stored word starts, and a third that is only validated on."""
    root = tmp_path_factory.mktemp("mixture")
    folders = [write(root / "held", 300, 6), write(root / "main", 0, 40), write(root / "other", 100, 15)]
    return parse(
        [
            *(f"--corpus.sources.{folder.name}.source={folder}" for folder in folders),
            *(f"--corpus.cache_dir={root / 'cache'}", "--corpus.mix", "{main: 0.75, other: 0.25}"),
            *("--corpus.sources.held.validation_fraction=1", "--rows.mode=pack", "--masking.unit=word"),
            *("--tokenizer.train_vocab_size=300", "--corpus.validation_fraction=0.3", "--corpus.deduplicate=none"),
            "--rows.max_length=48",
        ]
    )


@pytest.fixture(scope="module")
def corpora(config: Config) -> Corpora:
    return load_or_prepare(spec_of(config))


@pytest.fixture(scope="module")
def corpus(corpora: Corpora) -> PreparedCorpus:
    return corpora.main


# --- the stream ---


@st.composite
def mixes(draw: st.DrawFn) -> tuple[dict[str, range], dict[str, float], dict[str, int]]:
    """Rows of sources, the shares of some of them, and the samples that were taken before."""
    sizes = draw(st.lists(st.integers(1, 600), min_size=1, max_size=len(NAMES)))
    stops = np.cumsum(sizes).tolist()
    parts = {name: range(stop - size, stop) for name, size, stop in zip(NAMES, sizes, stops, strict=False)}
    named = draw(st.lists(st.sampled_from(list(parts)), min_size=1, unique=True))
    weights = draw(st.lists(st.floats(0.001, 1), min_size=len(named), max_size=len(named)))
    taken = draw(st.dictionaries(st.sampled_from(list(parts)), st.integers(0, 2000)))
    return parts, {name: one / sum(weights) for name, one in zip(named, weights, strict=True)}, taken


def by_source(order: Order, parts: dict[str, range], start: int, stop: int) -> dict[str, np.ndarray]:
    """{source: [2, n] epochs and samples}, numbered from the start of the source's rows."""
    epochs, samples = order.between(start, stop)
    found = {}
    for name, rows in parts.items():
        here = (samples >= rows.start) & (samples < rows.stop)
        found[name] = np.stack([epochs[here], samples[here] - rows.start])
    return found


@settings(deadline=None, max_examples=30)
@given(mixes(), st.integers(0, 10**9), st.integers(1, 300))
def test_each_source_comes_in_its_own_order_without_gap_or_repetition(
    mix: tuple[dict[str, range], dict[str, float], dict[str, int]], start: int, count: int
) -> None:
    parts, shares, taken = mix
    order = mixed_order(parts, shares, 3, taken)
    before, after = order.counts(start), order.counts(start + count)
    assert before.keys() == shares.keys() and sum(before.values()) == start and sum(after.values()) == start + count
    found = by_source(order, parts, start, start + count)
    for name, rows in parts.items():
        first = taken.get(name, 0) + before.get(name, 0)
        expected = SampleOrder(len(rows), 3).at(np.arange(first, first + after.get(name, 0) - before.get(name, 0)))
        np.testing.assert_array_equal(found[name], expected)


@settings(deadline=None, max_examples=60)
@given(mixes(), st.integers(0, 10**9))
def test_shares_hold_at_every_position(
    mix: tuple[dict[str, range], dict[str, float], dict[str, int]], position: int
) -> None:
    parts, shares, _ = mix
    for at in (position, position % 1000):
        counts = mixed_order(parts, shares, 3).counts(at)
        most = 1 if len(shares) <= 3 else 2
        assert max(abs(counts[name] - share * at) for name, share in shares.items()) <= most + 1e-5


@settings(deadline=None, max_examples=15)
@given(mixes(), st.integers(0, 10**6), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_any_part_of_the_stream_can_be_computed_alone(
    mix: tuple[dict[str, range], dict[str, float], dict[str, int]], start: int, sizes: list[int]
) -> None:
    order = mixed_order(mix[0], mix[1], 3, mix[2])
    stops = (start + np.cumsum([0, *sizes])).tolist()
    apart = [order.between(a, b) for a, b in pairwise(stops)]
    np.testing.assert_array_equal(np.concatenate(apart, axis=1), order.between(start, stops[-1]))


def test_order_in_which_a_mix_names_sources_makes_no_difference() -> None:
    parts = {"a": range(50), "b": range(50, 80), "c": range(80, 90)}
    one, two = (mixed_order(parts, dict.fromkeys(names, 1 / 3), 3).between(0, 500) for names in ("abc", "cba"))
    np.testing.assert_array_equal(one, two)


def test_stream_without_a_mix_is_one_order_over_all_rows(corpora: Corpora) -> None:
    rows = corpora.main.rows("train")
    order = mixed_order(corpora.main.source_rows("train"), {}, 5)
    np.testing.assert_array_equal(order.between(3, 900), SampleOrder(len(rows), 5).between(3, 900))


# --- the rows ---


def test_rows_of_the_stream_are_training_rows_of_the_mix(corpora: Corpora, corpus: PreparedCorpus) -> None:
    order = mixed_order(corpus.source_rows("train"), MIX, 0)
    parts = corpus.source_rows("train")
    assert len(parts["held"]) == 0 and len(corpus.source_rows("validation")["held"]) > 0
    samples = order.between(0, 4 * (len(parts["main"]) + len(parts["other"])))[1]
    assert {*samples.tolist()} == {*parts["main"], *parts["other"]}


def test_epochs_count_the_source_that_is_named_first(config: Config, corpora: Corpora, corpus: PreparedCorpus) -> None:
    num_rows, epochs = len(corpus.source_rows("train")["main"]), 8
    length = completed(spec_of(config), corpus).phases[0].length
    samples = round(epochs * num_rows / 0.75)
    assert (length.samples, length.steps) == (samples, -(-samples // 16))
    order = mixed_order(corpus.source_rows("train"), MIX, 0)
    seen = by_source(order, corpus.source_rows("train"), 0, samples)["main"][1]
    counts = np.bincount(seen, minlength=num_rows)
    assert abs(len(seen) - epochs * num_rows) <= 1 and abs(counts - epochs).max() <= 1
    other = dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, mix={"other": 0.25, "main": 0.75}))
    expected = round(epochs * len(corpus.source_rows("train")["other"]) / 0.25)
    assert completed(spec_of(other), corpus).phases[0].length.samples == expected


def test_duration_in_tokens_counts_those_of_the_mix(config: Config, corpora: Corpora, corpus: PreparedCorpus) -> None:
    optim = dataclasses.replace(config.optim, duration="200k tokens")
    length = completed(spec_of(dataclasses.replace(config, optim=optim)), corpus).phases[0].length
    rows, order = corpus.rows("train"), mixed_order(corpus.source_rows("train"), MIX, 0)
    assert length.samples is not None
    lengths, _ = rows.chunks(order.between(0, length.samples)[1])
    assert int(lengths.sum()) == pytest.approx(200_000, rel=0.01)


def test_source_of_the_mix_without_training_rows_is_refused(config: Config, corpus: PreparedCorpus) -> None:
    spec = spec_of(config)
    phases = (dataclasses.replace(spec.phases[0], mix={"main": 0.5, "held": 0.5}),)
    with pytest.raises(ConfigError, match=r"^corpus\.mix\.held: the source has no training rows"):
        completed(dataclasses.replace(spec, phases=phases), corpus)


# --- the identity of a run ---


@pytest.fixture
def growing(tmp_path: Path) -> dict[str, Any]:
    """A corpus of two sources with a named tokenizer, as keys of a config."""
    folders = write(tmp_path / "b", 0, 20), write(tmp_path / "c", 100, 12)
    sources = {folder.name: {"source": str(folder)} for folder in folders}
    plain = parse(
        [f"--corpus.source={folders[0]}", f"--corpus.cache_dir={tmp_path}", "--tokenizer.train_vocab_size=300"]
    )
    named = {"path": str(prepare(plain).folder / "tokenizer")}
    mix = {"b": 0.6, "c": 0.4}
    corpus = {"sources": sources, "mix": mix, "cache_dir": str(tmp_path)}
    return {"corpus": corpus, "tokenizer": named, "rows": {"max_length": 32}}


def checkpoint_of(values: dict[str, Any], folder: Path) -> Path:
    """A folder with the part of a checkpoint that names the run."""
    folder.mkdir()
    format.write_state(folder, TrainState.new(torch.device("cpu")).to_json(), identity_of(values), 8)
    return folder


def identity_of(values: dict[str, Any]) -> dict[str, Any]:
    spec = spec_of(Config(**values))
    return identity(spec, load_or_prepare(spec), spec.architecture)


def require_same(folder: Path, identity: dict[str, Any]) -> None:
    same_run.require_same(folder, identity, [phase("100 steps")])


def changed(values: dict[str, Any], **corpus: Any) -> dict[str, Any]:
    return values | {"corpus": values["corpus"] | corpus}


def test_source_can_be_added_to_a_run_with_a_mix(growing: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(growing, tmp_path / "step")
    sources = growing["corpus"]["sources"] | {"d": {"source": str(write(tmp_path / "d", 500, 9))}}
    require_same(checkpoint, identity_of(changed(growing, sources=sources)))
    held_out = sources | {"d": sources["d"] | {"validation_fraction": 1}}
    require_same(checkpoint, identity_of(changed(growing, sources=held_out)))
    other_mix = changed(growing, sources=sources, mix={"b": 0.6, "c": 0.3, "d": 0.1})
    with pytest.raises(CheckpointError, match=r"^corpus\.mix: .*'c': 0\.4.*'d': 0\.1"):
        require_same(checkpoint, identity_of(other_mix))
    without = checkpoint_of(changed(growing, mix={}), tmp_path / "without")
    with pytest.raises(CheckpointError, match=r"^corpus\.sources: .*made with \['b', 'c'\]"):
        require_same(without, identity_of(changed(growing, sources=sources, mix={})))
    fewer = {"b": growing["corpus"]["sources"]["b"]}
    with pytest.raises(CheckpointError, match=r"^corpus\.sources: .* \['b', 'c'\], now it is \['b'\]"):
        require_same(without, identity_of(changed(growing, sources=fewer, mix={})))


@pytest.mark.parametrize("name", ["b", "c"])
def test_resume_is_refused_by_the_name_of_the_source_that_changed(
    name: str, growing: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(growing, tmp_path / "step")
    require_same(checkpoint, identity_of(growing))
    path = next(path for path in sorted((tmp_path / name).iterdir()) if is_trained_on(growing, path))
    # A word of the same length: the number of rows and all other documents stay as they are.
    path.write_text(path.read_text("utf-8").replace("keys", "rows").replace("values", "indexs") + " Pages.", "utf-8")
    with pytest.raises(CheckpointError, match=rf"^corpus\.sources\.{name}: .*, now it is rows "):
        require_same(checkpoint, identity_of(growing))


def is_trained_on(values: dict[str, Any], path: Path) -> bool:
    corpus = load_or_prepare(spec_of(Config(**values))).main
    return f"{path.parent.name}/{path.name}" in {id_ for id_, _, _ in corpus.documents("train")}


def test_tokenizer_that_is_trained_on_all_sources_is_named(growing: dict[str, Any], tmp_path: Path) -> None:
    trained = growing | {"tokenizer": {"train_vocab_size": 300}}
    checkpoint = checkpoint_of(trained, tmp_path / "step")
    write(tmp_path / "c", 200, 12)
    with pytest.raises(CheckpointError, match=r"^tokenizer\.train_vocab_size: .* trained on the documents"):
        require_same(checkpoint, identity_of(trained))


# --- runs ---


def mixing(cache: Path, documents: Path) -> tuple[str, ...]:
    """Flags of a run on a mix of some documents and others."""
    other = cache / "others"
    other.mkdir(exist_ok=True)
    for i in range(12):
        (other / f"{i}.txt").write_text(made_up_prose(500 + i, 30), "utf-8")
    return (
        "--corpus.source=python-docs",  # the default, in place of what the test names
        *(f"--corpus.sources.own.source={documents}", f"--corpus.sources.other.source={other}"),
        *("--corpus.mix.own=0.7", "--corpus.mix.other=0.3"),
    )


@pytest.mark.slow
def test_losses_with_a_mix_do_not_depend_on_the_topology(tmp_path: Path, small: tuple[Path, int]) -> None:
    # At the default learning rate, ten times as high, AdamW amplifies rounding differences to just over 1e-5 here.
    plain = (f"--optim.duration={STEPS} steps", "--optim.lr=3e-4")
    flags, samples = (*mixing(tmp_path, small[0] / "documents"), *plain), STEPS * GLOBAL_SIZE
    expected = losses(tmp_path / "one", small, 1, 4, "plain", *flags, samples=samples)
    assert expected != losses(tmp_path / "without", small, 1, 4, "plain", *plain, samples=samples)
    for processes, micro, kind in ((2, 2, "plain"), (3, 4, "zero2")):
        found = losses(tmp_path / f"{processes}", small, processes, micro, kind, *flags, samples=samples)
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_run_with_a_mix_resumes(tmp_path: Path, prepared_cache: Path) -> None:
    documents = write(tmp_path / "own", 700, 30)
    change, named = "--corpus.mix={own: 0.6, other: 0.4}", "corpus.mix"
    check_schedule_resumes(tmp_path, prepared_cache, mixing(tmp_path, documents), change, named, "two", "one")
