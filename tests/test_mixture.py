"""Replay of a second corpus: its share of the stream, its rows, and its validation set."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import made_up_prose
from specs import completed, spec_of
from test_invariance import GLOBAL_SIZE, STEPS, losses
from test_resume import check_schedule_resumes

from mlm_dist.batches.mixture import MixedOrder
from mlm_dist.batches.order import SampleOrder
from mlm_dist.config import Config, parse
from mlm_dist.corpora import Corpora, load_or_prepare
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Two corpora with packed rows and stored word starts."""
    root = tmp_path_factory.mktemp("mixture")
    for name, first, count in (("main", 0, 40), ("other", 100, 15)):
        (root / name).mkdir()
        for i in range(first, first + count):
            (root / name / f"{i}.txt").write_text(made_up_prose(i, 6 + i % 7), "utf-8")
    return parse(
        [
            *(f"--corpus.source={root / 'main'}", f"--corpus.cache_dir={root / 'cache'}", "--rows.max_length=48"),
            *("--rows.mode=pack", "--masking.unit=word", "--tokenizer.train_vocab_size=300"),
            *(f"--corpus.replay_source={root / 'other'}", "--corpus.replay_share=0.25"),
            *("--corpus.validation_fraction=0.3", "--corpus.deduplicate=none"),
        ]
    )


@pytest.fixture(scope="module")
def corpora(config: Config) -> Corpora:
    return load_or_prepare(spec_of(config))


@pytest.fixture(scope="module")
def corpus(corpora: Corpora) -> PreparedCorpus:
    return corpora.main


@settings(deadline=None, max_examples=30)
@given(st.integers(100, 600), st.integers(100, 600), st.floats(0.01, 0.99), st.integers(0, 10**9), st.integers(1, 300))
def test_stream_mixes_both_orders_in_the_requested_share(
    main: int, other: int, share: float, start: int, count: int
) -> None:
    orders = SampleOrder(main, 3), SampleOrder(other, 3)
    order = MixedOrder(*orders, share)
    epochs, samples = order.between(start, start + count)
    is_replayed = samples >= main
    assert abs(int(is_replayed.sum()) - count * share) <= 1, "not evenly spread"
    replayed = int(np.floor(start * share))
    for where, one, first, offset in (
        (is_replayed, orders[1], replayed, main),
        (~is_replayed, orders[0], start - replayed, 0),
    ):
        expected = one.at(np.arange(first, first + int(where.sum())))
        np.testing.assert_array_equal([epochs[where], samples[where] - offset], expected)
    apart = [order.between(p, p + 1) for p in range(start, start + count)]
    np.testing.assert_array_equal(np.concatenate(apart, axis=1), [epochs, samples])


def test_rows_come_from_both_tables(corpora: Corpora) -> None:
    assert corpora.replay is not None
    rows, _ = corpora.training_rows(next(iter(corpora.of_rows)), 0, 0.25)
    main, other = corpora.main.rows("train"), corpora.replay.rows("train")
    assert len(rows) == len(main) + len(other) and corpora.replay.digest != corpora.main.digest
    # In any order, and from one table only.
    for indices in (
        np.arange(len(rows))[::-1],
        np.arange(3),
        np.arange(len(main), len(rows)),
        np.array([len(main), 0]),
    ):
        tables = [(main, int(i)) if i < len(main) else (other, int(i) - len(main)) for i in indices]
        taken = [table.take(np.array([i])) for table, i in tables]
        np.testing.assert_array_equal(rows.take(indices), np.concatenate(taken))
        np.testing.assert_array_equal(
            rows.word_starts(indices), np.concatenate([table.word_starts(np.array([i])) for table, i in tables])
        )
        lengths, counts = rows.chunks(indices)
        apart = [table.chunks(np.array([i])) for table, i in tables]
        np.testing.assert_array_equal(lengths, np.concatenate([one for one, _ in apart]))
        np.testing.assert_array_equal(counts, np.concatenate([one for _, one in apart]))
    assert int(counts.max()) > 1 or int(rows.chunks(np.arange(len(rows)))[1].max()) > 1, "no row holds several chunks"


def test_epochs_count_the_main_corpus(config: Config, corpora: Corpora) -> None:
    num_rows = len(corpora.main.rows("train"))
    length = completed(spec_of(config), corpora.main).phases[0].length
    samples = round(8 * num_rows / 0.75)
    assert (length.samples, length.steps) == (samples, -(-samples // 16))
    _, order = corpora.training_rows(next(iter(corpora.of_rows)), 0, 0.25)
    _, stream = order.between(0, samples)
    seen = np.bincount(stream, minlength=num_rows)
    assert abs(seen[:num_rows].sum() - 8 * num_rows) <= 1 and abs(seen[:num_rows] - 8).max() <= 1


def test_validation_rows_are_not_replayed(config: Config) -> None:
    source = config.corpus.replay_source
    same = dataclasses.replace(config, validation=dataclasses.replace(config.validation, second_source=source))
    corpora = load_or_prepare(spec_of(same))
    assert corpora.second is not None
    second, split = corpora.second
    validated, (trained_on, _) = second.rows(split), corpora.training_rows(next(iter(corpora.of_rows)), 0, 0.25)
    seen = {row.tobytes() for row in trained_on.take(np.arange(len(trained_on)))}
    assert len(validated)
    assert not seen & {row.tobytes() for row in validated.take(np.arange(len(validated)))}


def test_impossible_replays_are_refused(config: Config, tmp_path: Path) -> None:
    def of(source: str) -> Config:
        return dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, replay_source=source))

    with pytest.raises(ConfigError, match=r"corpus\.replay_source: \./nowhere does not exist"):
        spec_of(of("./nowhere"))
    with pytest.raises(ConfigError, match=r"corpus\.replay_source: no file in .*"):
        load_or_prepare(spec_of(of(str(tmp_path))))
    with pytest.raises(ConfigError, match=r"corpus\.replay_share"):
        parse(["--corpus.replay_share=1.0"])


def replaying(cache: Path) -> tuple[str, ...]:
    """Flags of a run that replays a second corpus."""
    other = cache / "replayed"
    other.mkdir(exist_ok=True)
    for i in range(12):
        (other / f"{i}.txt").write_text(made_up_prose(500 + i, 30), "utf-8")
    return (f"--corpus.replay_source={other}", "--corpus.replay_share=0.3")


@pytest.mark.slow
def test_losses_with_a_replay_do_not_depend_on_the_topology(tmp_path: Path, small: tuple[Path, int]) -> None:
    # At the default learning rate, ten times as high, AdamW amplifies rounding differences to just over 1e-5 here.
    plain = (f"--optim.duration={STEPS} steps", "--optim.lr=3e-4")
    flags, samples = (*replaying(tmp_path), *plain), STEPS * GLOBAL_SIZE
    expected = losses(tmp_path / "one", small, 1, 4, "plain", *flags, samples=samples)
    assert expected != losses(tmp_path / "without", small, 1, 4, "plain", *plain, samples=samples)
    for processes, micro, kind in ((2, 2, "plain"), (3, 4, "zero2")):
        found = losses(tmp_path / f"{processes}", small, processes, micro, kind, *flags, samples=samples)
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_run_with_a_replay_resumes(tmp_path: Path, prepared_cache: Path) -> None:
    change, named = "--corpus.replay_share=0.2", "corpus.replay_source"
    check_schedule_resumes(tmp_path, prepared_cache, replaying(tmp_path), change, named, "two", "one")
