"""Validation: each figure against a plain computation of it, on real rows and a real tiny model."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from making import made_up_prose, made_up_text
from models import architecture, build
from specs import cpu_engine, prepare, spec_of

from mlm_dist.batches.loader import validation_batches
from mlm_dist.batches.shapes import Rows
from mlm_dist.checkpoint.state import Best
from mlm_dist.config import Config, parse
from mlm_dist.corpora import Corpora, load_or_prepare
from mlm_dist.corpus import sentences
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.engine.protocol import Engine
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation.embeddings import mean_states
from mlm_dist.evaluation.pseudo_likelihood import one_by_one
from mlm_dist.evaluation.retrieval import token_overlap
from mlm_dist.evaluation.validation import evaluate, unigram_baseline
from mlm_dist.evaluation.validation_set import ChosenRows, ValidationSet, evenly_spaced
from mlm_dist.model.masked_lm import MaskedLanguageModel
from mlm_dist.objectives.figures import Validation, sources_of
from mlm_dist.objectives.frequency_bands import by_frequency
from mlm_dist.objectives.masked_lm import MaskedLM
from mlm_dist.training.due import Due


def jargon(seed: int, num_sentences: int) -> str:
    """Prose with words in it that a small tokenizer cuts into pieces."""
    draw, words = random.Random(seed), made_up_text(0, 150).replace(".", "").split()
    return re.sub("keys|rows|values|pages", lambda _: draw.choice(words), made_up_prose(seed, num_sentences))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on titled documents with words added to the tokenizer, and a source that is only validated on."""
    root = tmp_path_factory.mktemp("validation")
    (root / "own").mkdir()
    (root / "other").mkdir()
    for i in range(40):
        title = f"How number {i} works" if i % 4 else "What they have in common"
        (root / "own" / f"{i:02d}.md").write_text(f"# {title}\n\n{jargon(i, 20)}\n", "utf-8")
    for i in range(30):
        (root / "other" / f"{i:02d}.txt").write_text(jargon(100 + i, 20), "utf-8")
    return parse(
        [
            *(
                f"--corpus.sources.own.source={root / 'own'}",
                f"--corpus.sources.other.source={root / 'other'}",
                "--corpus.sources.other.validation_fraction=1",
                "--corpus.mix.own=1",
                f"--corpus.cache_dir={root / 'cache'}",
                "--model.name_or_path=bert-tiny",
                "--rows.max_length=32",
                "--rows.mode=chunk",
            ),
            *("--corpus.validation_fraction=0.3",),
            *("--tokenizer.train_vocab_size=300", "--tokenizer.add_domain_tokens=40"),
        ]
    )


@pytest.fixture(scope="module")
def corpora(config: Config) -> Corpora:
    return load_or_prepare(spec_of(config))


@pytest.fixture(scope="module")
def corpus(corpora: Corpora) -> PreparedCorpus:
    return corpora.main


@pytest.fixture(scope="module")
def validation_set(corpora: Corpora) -> ValidationSet:
    return ValidationSet(corpora.main, ["own"])


def rows_of(corpus: PreparedCorpus, name: str, most: int | None = None) -> ChosenRows:
    """The validation rows of a source, or some of them, evenly spaced."""
    part = corpus.source_rows("validation")[name]
    return ChosenRows(corpus.rows("validation"), evenly_spaced([part], len(part) if most is None else most))


@pytest.fixture(scope="module")
def objective(config: Config, corpus: PreparedCorpus) -> MaskedLM:
    return MaskedLM.with_masks(config.masking, 9, corpus)


@pytest.fixture(scope="module")
def model(config: Config, corpus: PreparedCorpus) -> MaskedLanguageModel:
    """Random weights, large enough that context matters; it mostly predicts the token that it sees."""
    found = build(config, architecture(config, corpus.tokenizer, len(corpus.domain_tokens)))
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
        found.cls.predictions.transform.dense.weight.copy_(torch.eye(found.config.hidden_size))
    return MaskedLanguageModel(found).eval()


@pytest.fixture
def engine(model: MaskedLanguageModel) -> Iterator[Engine]:
    with cpu_engine() as started:
        started.model = model
        yield started


# --- bands ---


def plain_bands(corpus: PreparedCorpus) -> dict[int, str]:
    """The band of each token in the training rows, computed without arrays."""
    rows, special = corpus.rows("train"), set(corpus.tokenizer.all_special_ids)
    counts = Counter(int(i) for i in rows.take(np.arange(len(rows))).reshape(-1) if int(i) not in special)
    total, before, found = sum(counts.values()), 0, {}
    for token, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        found[token] = ("frequent", "common", "uncommon", "rare")[min(3, math.floor(4 * (before + count / 2) / total))]
        before += count
    return found


def test_each_band_has_a_quarter_of_the_text(corpus: PreparedCorpus) -> None:
    bands, expected = by_frequency(corpus.token_counts, corpus.domain_tokens), plain_bands(corpus)
    assert bands.names == ("frequent", "common", "uncommon", "rare", "domain")
    for token in range(len(corpus.tokenizer)):
        inside = [name for name, member in zip(bands.names, bands.membership[token], strict=True) if member]
        added = ["domain"] if token in corpus.domain_tokens else []
        assert inside == [expected.get(token, "rare"), *added]
    shares = (corpus.token_counts @ bands.membership[:, :4]) / corpus.token_counts.sum()
    assert shares == pytest.approx([0.25] * 4, abs=0.1)
    assert by_frequency(corpus.token_counts).names == bands.names[:4], "no words were added"


def test_figures_equal_those_of_a_loop_over_the_tokens(
    corpus: PreparedCorpus,
    validation_set: ValidationSet,
    objective: MaskedLM,
    model: MaskedLanguageModel,
    engine: Engine,
) -> None:
    found = validation_set.evaluate(engine, objective, 8)
    rows = rows_of(corpus, "own")
    numbers = np.arange(len(rows))
    true = rows.take(numbers)
    shown, predicted, _ = objective.validation_corruption(true, np.zeros_like(numbers), numbers)
    lengths = rows.chunks(numbers)[0]
    band_of, losses = plain_bands(corpus), []
    right, count = Counter[str](), Counter[str]()
    model.eval()
    for ids, labels, wanted, length in zip(shown, true, predicted, lengths, strict=True):
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor(ids[:length][None].astype(np.int64))).logits[0]
        for position in np.flatnonzero(wanted).tolist():
            label = int(labels[position])
            losses.append(-float(logits[position].log_softmax(-1)[label]))
            for name in ("all", band_of.get(label, "rare"), *(["domain"] if label in corpus.domain_tokens else [])):
                count[name] += 1
                right[name] += int(logits[position].argmax()) == label
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert (found.num_masked, found.accuracy) == (count["all"], right["all"] / count["all"])
    assert {band.name: (band.num_correct, band.num_masked) for band in found.bands} == {
        name: (right[name], count[name]) for name in ("frequent", "common", "uncommon", "rare", "domain")
    }
    assert min(count.values()) > 0 and right["all"] > 0, "nothing was compared"
    line = found.figures()
    assert line["accuracy_rare"] == right["rare"] / count["rare"]
    assert line["masked_tokens_domain"] == count["domain"]
    assert line["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)


def test_figures_that_are_not_finite_are_null() -> None:
    found = Validation(math.nan, 0.0, 0, sources={"own": Validation(math.inf, 0.0, 0)}).figures()
    assert found["loss"] is None and found["source_own_loss"] is None
    assert sources_of(found) == ["own"] and "source_own_perplexity" not in found
    assert list(found)[:4] == ["loss", "perplexity", "accuracy", "masked_tokens"]


# --- sources ---


def plain(engine: Engine, objective: MaskedLM, rows: Rows) -> Validation:
    """The figures on some rows, in one pass."""
    return evaluate(engine, objective, validation_batches(rows, objective.validation_corruption, 5))


def test_source_that_is_not_trained_on_does_not_count(
    corpus: PreparedCorpus, validation_set: ValidationSet, objective: MaskedLM, engine: Engine
) -> None:
    found, own = validation_set.evaluate(engine, objective, 8), plain(engine, objective, rows_of(corpus, "own"))
    size = len(validation_set)
    other = plain(engine, objective, rows_of(corpus, "other", size))
    assert size == len(corpus.source_rows("validation")["own"]) < len(corpus.source_rows("validation")["other"])
    assert found.loss == pytest.approx(own.loss, rel=1e-6) and found.loss == found.sources["own"].loss
    assert (found.num_masked, found.accuracy) == (own.num_masked, own.accuracy)
    assert found.sources["other"].loss == pytest.approx(other.loss, rel=1e-6) != pytest.approx(own.loss, rel=1e-3)
    assert found.sources["other"].num_masked == other.num_masked
    assert list(found.figures())[-6:] == [
        f"source_{name}_{figure}" for name in ("own", "other") for figure in ("loss", "accuracy", "masked_tokens")
    ]
    facts = validation_set.baseline(objective)
    assert (facts["validation_sources"], facts["validation_only"]) == (["own"], ["other"])


@pytest.mark.parametrize(("max_rows", "expected"), [(None, 12), (5, 5)])
def test_few_rows_are_used_if_no_phase_learns_to_predict(
    max_rows: int | None, expected: int, corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlm_dist.evaluation.validation_set.SIDE_ROWS", 12)
    assert len(ValidationSet(corpus, [], max_rows, predicts=False)) == expected
    assert len(ValidationSet(corpus, [], max_rows)) == (max_rows or len(corpus.rows("validation"))) != 12


@pytest.mark.parametrize("max_rows", [None, 30])
def test_figures_of_all_sources_add_up(
    max_rows: int | None, corpus: PreparedCorpus, objective: MaskedLM, engine: Engine
) -> None:
    """Each row is evaluated once, with the mask that it has in a single pass over all rows."""
    both = ValidationSet(corpus, [], max_rows)
    whole = corpus.rows("validation")
    rows = ChosenRows(whole, evenly_spaced([range(len(whole))], max_rows or len(whole)))
    expected, found = plain(engine, objective, rows), both.evaluate(engine, objective, 8)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert (found.num_masked, found.accuracy, found.bands) == (
        expected.num_masked,
        expected.accuracy,
        expected.bands,
    )
    assert sum(one.num_masked for one in found.sources.values()) == found.num_masked
    assert sum(one.num_masked * one.loss for one in found.sources.values()) == pytest.approx(
        found.num_masked * found.loss, rel=1e-6
    )
    assert both.apart == () and "validation_only" not in both.baseline(objective)


def test_all_sources_count_if_those_of_the_mix_have_no_validation_rows(
    corpus: PreparedCorpus, objective: MaskedLM
) -> None:
    assert len(ValidationSet(corpus, ["none of them"])) == len(corpus.rows("validation"))


def test_validation_of_one_source_has_no_figures_by_source(config: Config, engine: Engine) -> None:
    alone: dict[str, Any] = {
        "corpus": {"source": config.corpus.sources["own"]["source"], "cache_dir": config.corpus.cache_dir},
        "tokenizer": {"path": str(prepare(config).folder / "tokenizer")},
        "rows": {"max_length": 32, "mode": "chunk"},
    }
    corpus = prepare(Config(**alone))
    found = ValidationSet(corpus).evaluate(engine, MaskedLM.with_masks(config.masking, 9, corpus), 8)
    assert found.num_masked and found.sources == {}


# --- max_rows ---


def test_validation_uses_at_most_max_rows_evenly_spaced(
    corpora: Corpora, validation_set: ValidationSet, objective: MaskedLM, engine: Engine
) -> None:
    rows, corruption = rows_of(corpora.main, "own"), objective.validation_corruption
    assert len(validation_set) == validation_set.total == len(rows) > 20
    some = ValidationSet(corpora.main, ["own"], 20)
    chosen = np.array([i * len(rows) // 20 for i in range(20)])
    assert (len(some), some.total) == (20, len(rows))
    found = some.evaluate(engine, objective, 8)
    expected = evaluate(engine, objective, validation_batches(rows_of(corpora.main, "own", 20), corruption, 20))
    assert np.array_equal(rows_of(corpora.main, "own", 20).take(np.arange(20)), rows.take(chosen))
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.num_masked == expected.num_masked
    assert found.num_masked < validation_set.evaluate(engine, objective, 8).num_masked
    other = plain(engine, objective, rows_of(corpora.main, "other", 20))
    assert found.sources["other"].num_masked == other.num_masked, "it is limited to as many rows"
    facts, whole = some.baseline(objective), validation_set.baseline(objective)
    assert (facts["validation_rows"], facts["validation_rows_total"]) == (20, len(rows))
    batches = validation_batches(rows_of(corpora.main, "own", 20), corruption, 3)
    assert facts["unigram_loss"] == pytest.approx(unigram_baseline(corpora.main.token_counts, batches))
    assert facts["unigram_loss"] != whole["unigram_loss"]
    assert some.pseudo_likelihood(engine, objective, 3, 7) is not None


@pytest.mark.parametrize("max_rows", [None, 10**6])
def test_a_small_validation_set_is_used_as_it_is(
    max_rows: int | None,
    corpora: Corpora,
    validation_set: ValidationSet,
    objective: MaskedLM,
    engine: Engine,
) -> None:
    found = ValidationSet(corpora.main, ["own"], max_rows).evaluate(engine, objective, 8)
    assert found == validation_set.evaluate(engine, objective, 8)


def test_max_rows_is_2048_by_default_and_must_be_positive(config: Config) -> None:
    assert spec_of(config).validation.max_rows == 2048
    assert spec_of(parse(["--validation.max_rows=null"])).validation.max_rows is None
    with pytest.raises(ConfigError, match=r"^validation\.max_rows: must be at least 1"):
        parse(["--validation.max_rows=0"])


# --- sentences ---


def test_pseudo_likelihood_masks_one_token_at_a_time(
    corpus: PreparedCorpus,
    validation_set: ValidationSet,
    objective: MaskedLM,
    model: MaskedLanguageModel,
    engine: Engine,
) -> None:
    found = validation_set.pseudo_likelihood(engine, objective, 5, 7)
    assert found is not None
    texts = [text for id_, split, text in corpus.documents() if split == "validation" and id_.startswith("own/")]
    chosen = sentences.sample(texts, 5)
    assert chosen == sentences.sample(reversed(texts), 5)
    total, count = 0.0, 0
    model.eval()
    for sentence in chosen:
        ids = corpus.tokenizer(sentence)["input_ids"]
        for position in range(1, len(ids) - 1):
            masked = torch.tensor([ids])
            masked[0, position] = corpus.tokenizer.mask_token_id
            with torch.no_grad():
                logits = model.model(input_ids=masked).logits[0, position]
            total += float(logits.log_softmax(-1)[ids[position]])
            count += 1
    assert (found.num_sentences, found.num_tokens) == (5, count)
    assert found.per_token == pytest.approx(total / count, rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(-total / count), rel=1e-4)
    assert validation_set.pseudo_likelihood(engine, objective, 0, 7) is None


def test_processes_share_the_masked_sentences() -> None:
    texts = [[1, 5, 6, 7, 2], [1, 8, 2], [1, 9, 9, 9, 9, 2]]
    special = loading.SpecialTokens(prefix=(1,), suffix=(2,), pad=0, mask=3, all=(0, 1, 2, 3))
    seen = []
    for rank in range(2):
        batches = list(one_by_one(texts, special, 3, rank, 2))
        assert len(batches) == 2, "a process waits for another"
        for batch in batches:
            assert batch.input_ids.shape[0] == 3
            for position, label in zip(batch.positions.tolist(), batch.labels.tolist(), strict=True):
                if label >= 0:
                    row, column = divmod(position, batch.input_ids.shape[1])
                    ids = batch.input_ids[row].tolist()
                    assert ids[column] == 3 and ids.count(3) == 1
                    ids[column] = label
                    seen.append(([i for i in ids if i], column))
    assert sorted(seen) == sorted((ids, column) for ids in texts for column in range(1, len(ids) - 1))


# --- the best ---


def test_best_is_the_lowest_loss_and_patience_counts_from_it() -> None:
    patient = spec_of(parse(["--validation.patience=2", "--checkpoint.every=1000"]))
    plain = spec_of(parse(["--checkpoint.every=1000"]))
    losses = {0: 1.0, 5: 4.0, 10: 3.0, 15: math.nan, 20: 2.5, 25: 2.5, 30: math.inf}
    best, found = Best(), []
    for step, loss in losses.items():
        best = best.after(step, loss)
        saves = Due(patient, step, 10_000).checkpoint(best) if step else False
        found.append((best.step, best.since, best.ends_training(2), saves))
        assert not step or not Due(plain, step, 10_000).checkpoint(best)
    assert found == [
        (None, 0, False, False),  # the starting model is no result of training
        (5, 0, False, True),
        (10, 0, False, True),
        (10, 1, False, False),
        (20, 0, False, True),
        (20, 1, False, False),
        (20, 2, True, True),
    ]
    assert not best.ends_training(None)
    assert best == Best(2.5, 20, 2)


@pytest.mark.parametrize(
    ("flags", "exported"),
    [
        ([], False),
        (["--validation.patience=1"], True),
        (["--validation.patience=1", "--export.checkpoint=newest"], False),
        (["--export.checkpoint=best"], True),
        (["--export.checkpoint=runs/mine/checkpoints/step-00000500"], False),
    ],
)
def test_best_checkpoint_is_kept_if_it_is_exported(flags: list[str], exported: bool) -> None:
    spec = spec_of(parse(flags))
    assert spec.checkpoint.keep_best == exported
    assert spec.checkpoint.num_kept == spec.checkpoint.keep_last + exported
    assert (spec.export.checkpoint == "best") == exported


# --- similarities and states ---


def test_token_overlap_is_tf_idf() -> None:
    targets, queries = [[1, 1, 2], [2, 3], [4]], [[1, 3], [2, 9], [4, 4]]

    def weight(token: int) -> float:
        return math.log(4 / (1 + sum(token in one for one in targets))) + 1

    def vector(ids: list[int]) -> dict[int, float]:
        found = {token: count * weight(token) for token, count in Counter(ids).items()}
        norm = math.sqrt(sum(value**2 for value in found.values()))
        return {token: value / norm for token, value in found.items()}

    expected = [
        [sum(value * vector(target).get(token, 0.0) for token, value in vector(query).items()) for target in targets]
        for query in queries
    ]
    similarity = token_overlap([np.array(one) for one in queries], [np.array(one) for one in targets])
    assert similarity == pytest.approx(np.array(expected))


def test_mean_states_of_a_text_do_not_depend_on_others(corpus: PreparedCorpus, model: MaskedLanguageModel) -> None:
    special = loading.special_tokens(corpus.tokenizer)
    texts = [np.array(ids) for ids in ([9, 10, 11, 12, 13], [14], [15, 16, 17])]
    states = mean_states(model.model, texts, special)
    for ids, vector in zip(texts, states, strict=True):
        row = torch.tensor([[*special.prefix, *ids.tolist(), *special.suffix]])
        with torch.no_grad():
            hidden = model.model.base_model(input_ids=row).last_hidden_state[0, 1:-1]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), rtol=1e-4, atol=1e-5)
