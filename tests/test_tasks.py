"""Tasks of the validate job: retrieval, queries of a file, and classification of texts and words."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler

from mlm_dist import validate
from mlm_dist.config import parse, parse_of_run
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation import label_splits, search_documents
from mlm_dist.evaluation.bootstrap import Interval
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.evaluation.label_counts import LabelCounts
from mlm_dist.evaluation.linear_classifier import LinearClassifier
from mlm_dist.evaluation.passage_ranks import METRICS
from mlm_dist.evaluation.task_files import read_labels, read_queries
from mlm_dist.evaluation.task_result import TaskResult
from mlm_dist.evaluation.tasks import TaskFiles, Tasks
from mlm_dist.hf_model.task_section import tasks_of

SUBJECTS = ("river", "copper", "harbour", "violin", "orchard", "glacier")
SENTENCE = "The {} is described here at length, with all that belongs to it and what one may do about it."


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> PreparedCorpus:
    """Documents with titles, sections and links."""
    root = tmp_path_factory.mktemp("tasks")
    (root / "docs").mkdir()
    for i in range(36):
        subject, other = SUBJECTS[i % 6], (i + 6) % 36
        paragraph = f"{SENTENCE.format(subject)} Number {i} of the {subject} is the one that matters. " * 2
        sections = "".join(f"## Part {word} of {subject} {i}\n\n{paragraph} {word}\n\n" for word in ("one", "two"))
        link = f"See [all about number {other} there]({other:02d}.md).\n\n"
        (root / "docs" / f"{i:02d}.md").write_text(f"# Page {i} about the {subject}\n\n{paragraph}\n\n{link}{sections}")
    flags = (f"--corpus.source={root / 'docs'}", f"--corpus.cache_dir={root / 'cache'}", "--corpus.deduplicate=none")
    prepared = launching.here("prepare", *flags, "--corpus.validation_fraction=0.4", *launching.TINY).result
    assert isinstance(prepared, PreparedCorpus)
    return prepared


def ids(corpus: PreparedCorpus, split: str) -> list[str]:
    return sorted(id_ for id_, _, _ in corpus.outlines(split))


def word_vectors(corpus: PreparedCorpus, *, are_equal: bool = False, positions: int = 512) -> Any:
    """A model whose states are vectors of words; `are_equal` gives all words the same one."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 0, "num_attention_heads": 2, "max_position_embeddings": positions}
    model = BertForMaskedLM(BertConfig(vocab_size=len(corpus.tokenizer), **shape))
    with torch.no_grad():
        embeddings = model.bert.embeddings
        embeddings.position_embeddings.weight.zero_()
        embeddings.token_type_embeddings.weight.zero_()
        if are_equal:
            embeddings.word_embeddings.weight[:] = embeddings.word_embeddings.weight[5]
    return model


def lines(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


def measured(corpus: PreparedCorpus, *names: str, files: TaskFiles | None = None) -> dict[str, TaskResult]:
    """The results of a model of word vectors, `trained`, and one without any, `start`."""
    tasks = Tasks(names, files or TaskFiles(), corpus)
    tasks.measure({"start": word_vectors(corpus, are_equal=True), "trained": word_vectors(corpus)})
    return {one.name: one for one in tasks.results()}


# --- retrieval ---


def test_retrieval_measures_all_kinds_of_pairs_and_baselines(corpus: PreparedCorpus) -> None:
    results = measured(corpus, "retrieval")
    assert set(results) == {"title", "heading", "half", "link"}
    count = len(ids(corpus, "validation"))
    assert results["title"].about["queries"] == results["title"].about["passages"] == count
    assert results["heading"].about["queries"] == 2 * count
    for result in results.values():
        assert set(result.models) == {"bm25", "token_overlap", "start", "trained"}
        assert all(tuple(figures) == METRICS for figures in result.models.values())
    title = results["title"]
    assert title.models["bm25"]["recall_at_1"].mean > 0.9, "numbers are words that only one document has"
    assert title.models["trained"]["mrr"].mean > 3 * title.models["start"]["mrr"].mean
    difference = title.trained_minus["start"]["mrr"]
    assert difference.mean == pytest.approx(title.models["trained"]["mrr"].mean - title.models["start"]["mrr"].mean)
    assert difference.excludes_zero
    assert set(title.trained_minus) == {"start", "bm25"}


def test_results_are_the_same_again_and_do_not_depend_on_other_tasks(corpus: PreparedCorpus, tmp_path: Path) -> None:
    queries = read_queries(lines(tmp_path / "q", [{"query": "a violin", "relevant": ids(corpus, "validation")[:1]}]))
    first = measured(corpus, "retrieval")
    again = measured(corpus, "retrieval", "queries", files=TaskFiles(tmp_path / "q", queries))
    assert {name: again[name].models["bm25"] for name in first} == {
        name: one.models["bm25"] for name, one in first.items()
    }
    assert first["half"].models["trained"]["mrr"] == pytest.approx(again["half"].models["trained"]["mrr"])


def test_few_documents_are_searched_always_the_same(corpus: PreparedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = search_documents.held_out(corpus)
    assert [one.id for one in everything] == ids(corpus, "validation")
    monkeypatch.setattr(search_documents, "MAX_DOCUMENTS", 4)
    few = {one.id for one in search_documents.held_out(corpus)}
    assert len(few) == 4
    other = next(id_ for id_ in ids(corpus, "validation") if id_ not in few)
    assert {one.id for one in search_documents.held_out(corpus, [other])} == {*few, other}
    monkeypatch.setattr(search_documents, "DOCUMENT_CHARS", 150)
    short = search_documents.held_out(corpus)
    assert {len(one.text) for one in short} == {150}
    assert all(heading.stop <= 150 for one in short for heading in one.outline.headings)


@pytest.mark.parametrize(("positions", "expected"), [(512, 256), (100, 100)])
def test_texts_are_read_up_to_256_tokens_if_the_model_can(
    corpus: PreparedCorpus, positions: int, expected: int
) -> None:
    tasks = Tasks(["retrieval"], TaskFiles(), corpus)
    tasks.measure({"start": word_vectors(corpus), "trained": word_vectors(corpus, positions=positions)})
    assert tasks.to_json([])["max_tokens"] == expected


def test_corpus_without_pairs_is_named(prose: Path, tmp_path: Path) -> None:
    flags = (f"--corpus.source={prose}", f"--corpus.cache_dir={prose.parent / 'prose-cache'}", *launching.TINY)
    few = launching.here("prepare", *flags, "--corpus.validation_fraction=0").result
    with pytest.raises(ConfigError, match=r"validation\.tasks: retrieval needs at least two held-out documents"):
        Tasks(["retrieval"], TaskFiles(), few)


# --- queries of a file ---


def test_queries_search_held_out_documents_and_those_they_name(corpus: PreparedCorpus, tmp_path: Path) -> None:
    held_out, trained_on = ids(corpus, "validation"), ids(corpus, "train")
    records = [{"query": f"number {int(id_[:2])}", "relevant": [id_, id_]} for id_ in [*held_out[:5], trained_on[0]]]
    path = lines(tmp_path / "queries.jsonl", records)
    result = measured(corpus, "queries", files=TaskFiles.read(str(path), None))["queries"]
    assert (result.about["queries"], result.about["passages"]) == (6, len(held_out) + 1)
    assert (result.about["relevant_training_documents"], result.about["training_documents"]) == (1, trained_on[:1])
    assert result.models["bm25"]["recall_at_1"].mean == 1
    assert set(result.trained_minus) == {"start", "bm25"}


def test_id_of_no_document_is_named_with_its_line(corpus: PreparedCorpus, tmp_path: Path) -> None:
    good = ids(corpus, "validation")[0]
    path = lines(tmp_path / "queries.jsonl", [{"query": "a", "relevant": [good]}, {"query": "b", "relevant": ["x.md"]}])
    with pytest.raises(
        ConfigError, match=r"validation\.queries: line 2 of .*queries\.jsonl names 'x\.md'.*ids are such as"
    ):
        Tasks(["queries"], TaskFiles.read(str(path), None), corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no lines"),
        ("\n{", "line 2 of .* is not JSON"),
        ("[1]", "line 1 of .* is no JSON object"),
        ('{"relevant": ["a"]}', 'has no text in "query"'),
        ('{"query": " ", "relevant": ["a"]}', 'has no text in "query"'),
        ('{"query": "a", "relevant": []}', 'needs a list of ids of documents in "relevant"'),
        ('{"query": "a", "relevant": "b"}', 'needs a list of ids of documents in "relevant"'),
        ('{"query": "a", "relevant": ["b"]}\n' * 2, "line 2 of .* has the query of line 1"),
    ],
)
def test_wrong_queries_are_named_by_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(ConfigError, match=rf"^validation\.queries: .*{message}"):
        read_queries(tmp_path / "q.jsonl")
    with pytest.raises(ConfigError, match=r"validation\.queries: cannot read"):
        read_queries(tmp_path / "none")


# --- classification ---


def test_labels_that_words_tell_are_learnt(corpus: PreparedCorpus, tmp_path: Path) -> None:
    records = [
        {"text": f"{SENTENCE.format(SUBJECTS[i % 3])} {SUBJECTS[3 + i % 2]} {i}", "label": SUBJECTS[i % 3]}
        for i in range(45)
    ]
    path = lines(tmp_path / "labels.jsonl", records)
    results = measured(corpus, "classification", files=TaskFiles.read(None, str(path)))
    assert set(results) == {"classification", "few_shot"}
    whole, few = results["classification"], results["few_shot"]
    assert whole.about == {"texts": 45, "labels": 3}
    assert whole.models["trained"]["accuracy"].mean > 0.95
    assert few.models["trained"]["macro_f1"].mean > 0.8
    assert whole.models["start"]["accuracy"].mean < 0.6, "equal vectors tell nothing"
    assert whole.models["majority"]["accuracy"].mean == pytest.approx(1 / 3)
    assert whole.models["majority"]["macro_f1"].mean == pytest.approx(1 / 6)
    assert whole.trained_minus["start"]["accuracy"].excludes_zero


def test_few_examples_are_not_drawn_of_labels_that_have_no_more(corpus: PreparedCorpus, tmp_path: Path) -> None:
    path = lines(tmp_path / "labels", [{"text": f"text {i}", "label": str(i % 2)} for i in range(16)])
    assert set(measured(corpus, "classification", files=TaskFiles.read(None, str(path)))) == {"classification"}


def test_labels_of_words_are_learnt(corpus: PreparedCorpus, tmp_path: Path) -> None:
    labels = {"river": "WATER", "glacier": "WATER", "copper": "METAL"}
    texts = [f"the {SUBJECTS[i % 6]} of the {SUBJECTS[(i + 1 + i // 6) % 6]} number {i}".split() for i in range(30)]
    texts.append(["the"] * 300)
    records = [{"tokens": words, "labels": [labels.get(word, "O") for word in words]} for words in texts]
    files = TaskFiles.read(None, str(lines(tmp_path / "words.jsonl", records)))
    result = measured(corpus, "classification", files=files)["token_classification"]
    assert result.about == {"lines": 31, "words": 30 * 7 + 254, "words_not_read": 46, "labels": 3}
    assert result.models["trained"]["macro_f1"].mean == 1
    assert result.models["start"]["macro_f1"].mean < 0.5


def test_state_of_a_word_is_that_of_its_first_token(corpus: PreparedCorpus) -> None:
    model = word_vectors(corpus).eval()
    words = ["The", "harbourglacier", "2020", "copper,"]
    ((indices, states),) = TextEncoder(model, corpus.tokenizer, 32).word_states([words])
    assert indices == [0, 1, 2, 3]
    encoded = corpus.tokenizer(words, is_split_into_words=True)
    first = [encoded.word_ids().index(i) for i in range(4)]
    assert len(encoded.input_ids) > 2 + 4 + 2, "words of one token each show nothing"
    with torch.no_grad():
        hidden = model.base_model(torch.tensor([encoded.input_ids]))[0][0]
    np.testing.assert_allclose(states, hidden[first].numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "a"}], 'line 1 of .* needs texts in "text" and "label"'),
        ([{"text": "a", "label": "x"}] * 4 + [{"text": "b", "label": "y"}] * 5, "too few texts of the label 'x', 4"),
        ([{"text": "a", "label": "x"}] * 9, "all texts of .* have one label"),
        ([{"text": "a", "label": str(i % 2)} for i in range(10_001)], "has 10,001 texts; give a sample"),
        ([{"tokens": ["a"], "labels": ["b", "c"]}], "line 1 of .* has 1 tokens and 2 labels"),
        ([{"tokens": ["a"], "labels": "b"}], 'needs a list of texts in "labels"'),
        ([{"tokens": ["a"], "labels": ["b"]}], "has 1 lines of words"),
    ],
)
def test_wrong_labels_are_named(records: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^validation\.labels: .*{message}"):
        read_labels(lines(tmp_path / "labels.jsonl", records))


def test_classifier_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 200)
    features = (draw.normal(size=(3, 12))[labels] + 2 * draw.normal(size=(200, 12))) * draw.random(12) + 5
    found = LinearClassifier.fit(features.astype(np.float32), labels, 4)
    scaler = StandardScaler().fit(features)
    expected = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(scaler.transform(features), labels)
    np.testing.assert_allclose(found.weights[:3], expected.coef_, atol=1e-3)
    assert (found.predict(features) == expected.predict(scaler.transform(features))).all()
    assert found.bias[3] == -np.inf, "a label without examples is never predicted"


def test_accuracy_and_macro_f1_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(1)
    labels, groups = draw.integers(0, 4, 300), np.repeat(np.arange(60), 5)
    predicted = np.where(draw.random((2, 300)) < 0.6, labels, draw.integers(0, 4, (2, 300)))
    predicted[1, :50] = -1
    found = LabelCounts.of(labels, predicted, groups, 5).figures()
    tested = [predicted[0] >= 0, predicted[1] >= 0]
    accuracy = np.mean([accuracy_score(labels[k], one[k]) for one, k in zip(predicted, tested, strict=True)])
    f1 = np.mean([f1_score(labels[k], one[k], average="macro") for one, k in zip(predicted, tested, strict=True)])
    assert found["accuracy"].mean == pytest.approx(accuracy)
    assert found["macro_f1"].mean == pytest.approx(f1)
    error = 1.96 * np.std([(predicted[0] == labels)[groups == i].mean() for i in range(60)]) / np.sqrt(60)
    assert found["accuracy"].high - found["accuracy"].low == pytest.approx(2 * error, rel=0.25)


def test_difference_of_equal_predictions_is_0_and_of_better_ones_is_not() -> None:
    labels = np.arange(100) % 2
    worse = np.where(np.arange(100) < 20, 1 - labels, labels)
    counts, others = (LabelCounts.of(labels, one[None], np.arange(100), 2) for one in (labels, worse))
    assert counts.minus(counts)["macro_f1"] == (0, 0, 0)
    assert not counts.minus(counts)["macro_f1"].excludes_zero
    assert counts.minus(others)["accuracy"].mean == pytest.approx(0.2)
    assert counts.minus(others)["accuracy"].excludes_zero


def test_each_label_is_spread_over_the_folds() -> None:
    labels = np.array([0] * 30 + [1] * 13 + [2] * 5)
    for splits in label_splits.cross_validation(np.arange(48), labels):
        assert sorted(np.concatenate([tested for _, tested in splits])) == list(range(48))
        for fitted, tested in splits:
            assert not {*fitted} & {*tested}
            assert Counter(labels[tested])[2] == 1
            assert 2 <= Counter(labels[tested])[1] <= 3
    drawn = [label_splits.few_of_each(labels, seed) for seed in range(2)]
    assert [Counter(labels[one]) for one in drawn] == [{0: 8, 1: 8, 2: 5}] * 2
    assert (drawn[0] != drawn[1]).any()


# --- keys ---


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--validation.tasks=queries"], r"validation\.queries: the task queries needs a file"),
        (["--validation.tasks=classification"], r"validation\.labels: the task classification needs a file"),
        (["--validation.queries=q"], r"validation\.tasks: queries is not among them, but validation\.queries is set"),
        (["--validation.labels=q", "--validation.tasks=retrieval"], r"validation\.tasks: classification is not among"),
        (["--validation.tasks=retrieval,retrieval"], r"validation\.tasks: must name each task once"),
        (["--validation.tasks=search"], r"validation\.tasks: expected a list of retrieval, queries, classification"),
        (["--validation.probe=true"], r"validation\.probe was replaced; write validation\.tasks: \[retrieval\]"),
    ],
)
def test_keys_are_checked(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(flags)


# --- the job ---


def test_job_compares_the_starting_and_the_trained_model(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mlm_dist")
    labels = lines(
        copy / "labels.jsonl", [{"text": f"{SUBJECTS[i % 2]} {i}", "label": SUBJECTS[i % 2]} for i in range(20)]
    )
    flags = [f"--output_dir={copy}", "--validation.sentences=0", "--validation.tasks=retrieval,classification"]
    flags.append(f"--validation.labels={labels}")
    validate.run(parse_of_run([*flags, "--validation.model=checkpoint"], prog="validate.py"))
    found = json.loads((copy / "tasks.json").read_text("utf-8"))
    assert (found["kind"], found["step"], found["average"], found["max_tokens"]) == ("tasks", 12, None, 256)
    assert set(found["tasks"]) == {"half", "classification", "few_shot"}
    half = found["tasks"]["half"]
    assert half["queries"] >= 5
    assert set(half["models"]) == {"bm25", "token_overlap", "start", "trained"}
    assert "half, trained: nDCG@10 " in caplog.text
    assert "pseudo_log_likelihood" not in json.loads((copy / "validation.json").read_text("utf-8"))
    validate.run(parse_of_run([*flags, "--validation.model=start"], prog="validate.py"))
    again = json.loads((copy / "tasks.json").read_text("utf-8"))["tasks"]["half"]
    assert set(again["models"]) == {"bm25", "token_overlap", "start"}
    assert again["trained_minus"] == {}
    for metric, figure in half["models"]["start"].items():
        assert again["models"]["start"][metric] == pytest.approx(figure), "not the model that a run starts with"


def test_tasks_need_one_process(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config = parse_of_run([f"--output_dir={copy}", "--validation.tasks=retrieval"], prog="validate.py")
    with pytest.raises(ConfigError, match=r"validation\.tasks needs one process"):
        validate.run(config)


def test_card_has_the_tasks_of_its_weights_only(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    figure = {"mean": 0.5, "low": 0.25, "high": 0.75}
    models = {"start": {"mrr": figure}, "trained": {"mrr": figure}}
    differences = {"start": {"mrr": figure | {"excludes_zero": True}}}
    task = {"queries": 9, "passages": 20, "models": models, "trained_minus": differences}
    tasks = {"model": "m", "step": 12, "average": None, "max_tokens": 256, "tasks": {"title": task}}
    (copy / "tasks.json").write_text(json.dumps(tasks), "utf-8")
    launching.here("export", f"--output_dir={copy}", of_a_run=True)
    card = (copy / "model" / "README.md").read_text("utf-8")
    assert "\n## Tasks\n" in card
    assert "on the weights of step 12" in card
    assert "find the body of a document by its title, 9 queries, 20 passages" in card
    assert "| MRR | 0.500 (0.250 to 0.750) | 0.500 (0.250 to 0.750) | +0.500 (+0.250 to +0.750) * |" in card

    def found(step: int, average: Any = None) -> Any:
        return tasks_of(copy / "tasks.json", copy / "model", step, average)

    assert found(12) == tasks
    assert found(6) is None and found(12, "ema") is None
    (copy / "tasks.json").write_text(json.dumps(tasks | {"model": str(copy / "model"), "step": None}), "utf-8")
    assert found(6) is not None, "the model that was exported before"
    (copy / "tasks.json").write_text('{"model": "m"}', "utf-8")
    with caplog.at_level(logging.WARNING, "mlm_dist"):
        assert found(12) is None
    assert "tasks.json cannot be read" in caplog.text


def test_lines_fit_a_terminal() -> None:
    figures = {metric: Interval(0.5, 0.25, 0.75) for metric in METRICS}
    result = TaskResult(
        "heading", {}, {"token_overlap": figures, "trained": figures}, {"start": figures, "bm25": figures}
    )
    assert result.describe()[0] == (
        "heading, token overlap: nDCG@10 0.500 (0.250 to 0.750), recall@1 0.500, recall@10 0.500, MRR 0.500"
    )
    assert result.describe()[-1] == (
        "heading, trained: nDCG@10 +0.500 (+0.250 to +0.750) over start, +0.500 (+0.250 to +0.750) over bm25"
    )
    assert max(map(len, result.describe())) <= 100
