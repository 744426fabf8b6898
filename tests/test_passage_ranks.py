"""Figures of retrieval: how scores rank the passages that answer a query, and how sure the figures are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score
from transformers import AutoConfig, AutoModelForMaskedLM

from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.evaluation import bm25, bootstrap
from mlm_dist.evaluation.embeddings import mean_states
from mlm_dist.evaluation.passage_ranks import METRICS, ranking_metrics

# --- metrics of one query ---


@pytest.mark.parametrize(
    ("scores", "relevant", "expected"),
    [
        ([3, 2, 1], [0], (1, 1, 1, 1)),
        ([3, 2, 1], [2], (1 / math.log2(4), 0, 1, 1 / 3)),
        ([3, 2, 1], [0, 2], ((1 + 1 / 2) / (1 + 1 / math.log2(3)), 1 / 2, 1, 1)),
        ([3, 2, 1], [0, 1, 2], (1, 1 / 3, 1, 1)),
        ([1, 1, 1], [0], (1 / 2, 0, 1, 1 / 3)),  # of equal scores, the relevant one ranks last
        ([*range(20)], [9], (0, 0, 0, 1 / 11)),
        ([*range(20)], [10], (1 / math.log2(11), 0, 1, 1 / 10)),
        ([*range(20)], [0, 19], (1 / (1 + 1 / math.log2(3)), 1 / 2, 1 / 2, 1)),
        ([*range(20)], [*range(20)], (1, 1 / 20, 1 / 2, 1)),
    ],
)
def test_metrics_by_hand(scores: list[float], relevant: list[int], expected: tuple[float, ...]) -> None:
    found = ranking_metrics(np.array([scores], float), [relevant])
    assert [found[name][0] for name in METRICS] == pytest.approx(expected, abs=1e-12)


def test_each_query_has_its_own_values() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    assert ranking_metrics(scores, [[0], [1]])["mrr"].tolist() == [1, 1 / 2]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_metrics_are_those_of_other_implementations(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 30))
    scores = np.array(data.draw(st.permutations(range(count))), float)
    relevant = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count, unique=True))
    found = {name: values[0] for name, values in ranking_metrics(scores[None], [relevant]).items()}
    gains = np.isin(np.arange(count), relevant)
    assert found["ndcg_at_10"] == pytest.approx(ndcg_score(gains[None].astype(float), scores[None], k=10))
    order = np.argsort(-scores)
    assert found["recall_at_1"] == gains[order[:1]].sum() / len(relevant)
    assert found["recall_at_10"] == gains[order[:10]].sum() / len(relevant)
    assert found["mrr"] == 1 / (1 + np.flatnonzero(gains[order])[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        ranking_metrics(np.array([[0.0, value]]), [[0]])


# --- intervals ---


def test_interval_is_that_of_the_normal_distribution_for_many_queries() -> None:
    values = np.random.default_rng(1).normal(3, 2, 2000)
    mean, low, high = bootstrap.mean_interval(values)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert mean == pytest.approx(values.mean(), abs=1e-12)
    assert (mean - low, high - mean) == pytest.approx((error, error), rel=0.1)


def test_interval_holds_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(2)
    held = 0
    for _ in range(80):
        _, low, high = bootstrap.mean_interval((draw.random(60) < 0.3).astype(float))
        held += low <= 0.3 <= high
    assert 70 <= held <= 79


def test_paired_interval_is_narrower_than_those_of_both() -> None:
    draw = np.random.default_rng(3)
    hard = draw.random(300)
    first, second = hard + 0.02 + 0.01 * draw.random(300), hard
    difference = bootstrap.paired_interval(first, second)
    assert difference == bootstrap.mean_interval(first - second)
    assert 0.02 < difference.low < difference.mean < difference.high < 0.03
    assert bootstrap.mean_interval(first).low < bootstrap.mean_interval(second).high


def test_intervals_are_the_same_again_and_differ_by_seed() -> None:
    values = np.random.default_rng(4).random(50)
    assert bootstrap.mean_interval(values) == bootstrap.mean_interval(values.copy())
    assert bootstrap.mean_interval(values) != bootstrap.mean_interval(values, seed=1)
    assert bootstrap.mean_interval(np.ones(5)) == (1, 1, 1)


def test_other_queries_are_not_paired() -> None:
    with pytest.raises(ValueError, match="3 and 1 queries"):
        bootstrap.paired_interval(np.ones(3), np.ones(1))


# --- BM25 ---


def test_words() -> None:
    assert bm25.words("The Key-Vault's 2 keys, Übung") == ["the", "key", "vault", "s", "2", "keys", "übung"]
    assert bm25.words("安装Vue 3") == ["安", "装", "vue", "3"]


def test_bm25_scores_are_those_of_the_formula() -> None:
    pytest.importorskip("bm25s")
    passages = ["the cat and the dog", "a dog", "birds sing in the morning", "!"]
    queries = ["the DOG", "the the", "", "unknown words", "sing"]
    texts = [bm25.words(passage) for passage in passages]
    mean = sum(map(len, texts)) / len(texts)

    def score(query: str, text: list[str]) -> float:
        total = 0.0
        for word in bm25.words(query):
            holding = sum(word in one for one in texts)
            count = text.count(word)
            norm = bm25.K1 * (1 - bm25.B + bm25.B * len(text) / mean)
            total += math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5)) * count / (count + norm)
        return total

    expected = np.array([[score(query, text) for text in texts] for query in queries])
    np.testing.assert_allclose(bm25.bm25_scores(queries, passages), expected, rtol=1e-5)


# --- embeddings ---


def test_means_over_all_tokens_or_those_of_the_text() -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert", vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = AutoModelForMaskedLM.from_config(config).eval()
    texts = [np.array([5, 6, 7]), np.array([8]), np.array([9, 10])]
    special = SpecialTokens(prefix=(2,), suffix=(3,), pad=0, mask=4, all=(0, 2, 3, 4))
    for pools_special in (False, True):
        found = mean_states(model, texts, special, pools_special=pools_special)
        for row, ids in zip(found, texts, strict=True):
            with torch.no_grad():  # alone, without padding
                hidden = model.base_model(torch.tensor([[2, *ids.tolist(), 3]]))[0][0]
            expected = hidden.mean(0) if pools_special else hidden[1:-1].mean(0)
            np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-6)
