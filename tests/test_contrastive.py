"""Contrastive learning: pairs from documents, the loss of sentence-transformers, and steps of any micro-batches."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import specs
import torch
from making import made_up_prose
from torch.nn import functional

from mlm_dist.batches.block_order import Blocks
from mlm_dist.batches.micro_batch import MicroBatch, Samples, assemble
from mlm_dist.batches.mixture import mixed_order
from mlm_dist.batches.order import SampleOrder
from mlm_dist.config import parse
from mlm_dist.corpora import load_or_prepare
from mlm_dist.corpus import packing
from mlm_dist.corpus.outline import Heading, Outline, Span
from mlm_dist.corpus.passages import OutlinedDocument
from mlm_dist.corpus.store import PAIRS_TOGETHER, PreparedCorpus
from mlm_dist.corpus.text_pairs import text_pairs
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.evaluation.pair_validation import evaluate_pairs
from mlm_dist.evaluation.validation_set import SIDE_ROWS
from mlm_dist.model.pooling import mean_of_spans
from mlm_dist.objectives import OBJECTIVES
from mlm_dist.objectives.contrastive import Contrastive, alike, pair_losses
from mlm_dist.objectives.protocol import Objective
from mlm_dist.optim.optimizers import build_optimizer
from mlm_dist.training import step_time, time_estimate
from mlm_dist.training.step import StepResult, train_step

FLAGS = ("--objective=contrastive", *launching.SHORT)
SPECIAL = SpecialTokens(prefix=(2,), suffix=(3,), pad=0, mask=4, all=(0, 1, 2, 3, 4), unknown=1)


def sections(seed: int, title: str, count: int = 3) -> str:
    """A Markdown document with a title and some headings."""
    parts = [f"# {title}\n"]
    for i in range(count):
        parts.append(f"## Part {'abcdefgh'[i]} about {title.lower()}\n\n{made_up_prose(seed * 10 + i, 6)}\n")
    return "\n".join(parts)


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents with headings; two are near-duplicates."""
    folder = tmp_path_factory.mktemp("manual") / "docs"
    folder.mkdir()
    for i in range(24):
        (folder / f"{i:02d}.md").write_text(sections(i, f"Guide {i} of things"), "utf-8")
    (folder / "copy.md").write_text(sections(3, "Guide 3 of things") + "\nOne sentence more.\n", "utf-8")
    return folder


def tiny_bert(vocab_size: int, dropout: float = 0.0) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropouts = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertForMaskedLM(BertConfig(vocab_size=vocab_size, max_position_embeddings=64, **sizes, **dropouts))


def spec_of(manual: Path, *flags: str) -> Any:
    corpus = f"--corpus.source={manual}", f"--corpus.cache_dir={manual.parent / 'cache'}"
    model = "--model.name_or_path=bert-tiny", "--corpus.validation_fraction=0.2"
    return specs.spec_of(parse([*corpus, *model, *launching.TINY, "--objective=contrastive", *flags]))


def pairs_of(manual: Path, *flags: str) -> PreparedCorpus:
    corpus = load_or_prepare(spec_of(manual, *flags)).pairs
    assert corpus is not None
    return corpus


def texts_of(corpus: PreparedCorpus, split: str) -> list[tuple[str, str]]:
    """The texts in the rows of a split, decoded."""
    rows = corpus.rows(split)
    indices = np.arange(len(rows))
    tokens, (lengths, num_chunks) = rows.take(indices), rows.chunks(indices)
    assert set(num_chunks.tolist()) == {2}
    decode = corpus.tokenizer.decode
    return [
        (decode(row[:first], skip_special_tokens=True), decode(row[first : first + second], skip_special_tokens=True))
        for row, (first, second) in zip(tokens.tolist(), lengths.reshape(-1, 2).tolist(), strict=True)
    ]


# --- pairs ---


def test_pairs_follow_the_structure_of_a_document() -> None:
    intro, one, two = (made_up_prose(i, 5) for i in range(3))
    text = f"Keys of a vault\n\n{intro}\n\nHow keys turn\n\n{one}\n\nOverview\n\n{two}\n\nShort part\n\nToo short."
    spots = {name: text.index(name) for name in ("How keys turn", "Overview", "Short part")}
    headings = tuple(Heading(start, start + len(name), 2) for name, start in spots.items())
    found = text_pairs(OutlinedDocument("a", text, Outline(Span(0, 15), headings)))
    body = text[text.index(intro) :]
    assert found.headings == [("How keys turn", one)], "the heading of the next section says too little"
    assert found.others[:4] == [
        ("Keys of a vault", body),
        ("Keys of a vault", one),
        ("Keys of a vault", two),
        (one, two),
    ]
    first, second = found.others[4]
    assert body.startswith(first) and body.endswith(second) and len(found.others) == 5


def test_plain_text_gives_its_halves_only() -> None:
    text = made_up_prose(3, 20)
    ((), ((first, second),)) = text_pairs(OutlinedDocument("a", text, Outline()))
    assert text.startswith(first) and text.endswith(second) and len(first) + len(second) in (len(text) - 2, len(text))


def test_rows_hold_a_query_and_a_passage() -> None:
    ids = np.arange(10, 10 + 3 + 4 + 30 + 40 + 0 + 5, dtype=np.int32)
    block, is_kept = packing.make_pair_rows(ids, np.array([3, 4, 30, 40, 0, 5]), 16, SPECIAL)
    assert is_kept.tolist() == [True, True, False] and block.num_chunks.tolist() == [2, 2]
    assert block.lengths.tolist() == [5, 6, 8, 8]
    assert block.input_ids[0].tolist() == [2, 10, 11, 12, 3, 2, 13, 14, 15, 16, 3, 0, 0, 0, 0, 0]
    assert block.input_ids[1].tolist() == [2, *range(17, 23), 3, 2, *range(47, 53), 3]
    assert block.num_dropped == 24 + 34 + 5


def test_rows_of_a_corpus_are_the_pairs_of_its_documents(manual: Path) -> None:
    corpus = pairs_of(manual)
    tokenizer = corpus.tokenizer
    for split in ("train", "validation"):
        expected = [
            tuple(tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) for text in pair)
            for id_, text, outline in corpus.outlines(split)
            for pairs in text_pairs(OutlinedDocument(id_, text, outline))
            for pair in pairs
        ]
        found = texts_of(corpus, split)
        assert len(found) == len(expected) > 10
        for one, other in zip(found, expected, strict=True):
            assert all(long.startswith(short) for short, long in zip(one, other, strict=True))
    assert len({*corpus.groups("train")[:, 0].tolist()}) == corpus.manifest["documents"]["train"]


def test_rows_of_headings_are_known(manual: Path) -> None:
    corpus = pairs_of(manual)
    kinds = [
        (i, len(pairs.headings), len(pairs.others))
        for i, document in enumerate(corpus.outlines("train"), 1)
        for pairs in [text_pairs(OutlinedDocument(*document))]
    ]
    expected = [number for i, headings, others in kinds for number in [i] * headings + [0] * others]
    assert corpus.groups("train")[:, 1].tolist() == expected and len({*expected}) > 10


def test_pairs_of_a_document_are_trained_on_close_to_each_other(manual: Path) -> None:
    corpus = pairs_of(manual)
    pieces, groups = corpus.pairs_together("train"), corpus.groups("train")
    assert pieces.sum() == len(groups) and pieces.max() == PAIRS_TOGETHER
    for rows in np.split(groups[:, 0], np.cumsum(pieces)[:-1]):
        assert len({*rows.tolist()}) == 1, "a piece is of one document"
    order = mixed_order(corpus.source_rows("train"), {}, 0, blocks=Blocks(pieces, 64))
    _, samples = order.between(0, len(groups))
    assert sorted(samples.tolist()) == [*range(len(groups))]
    piece = np.repeat(np.arange(len(pieces)), pieces)
    together, apart = samples[:64], SampleOrder(len(groups), 0).between(0, 64)[1]
    assert 1.5 * len({*piece[together].tolist()}) < len({*piece[apart].tolist()})


def test_near_duplicates_share_a_group(manual: Path) -> None:
    """Without deduplication both are trained on."""
    corpus = pairs_of(manual, "--corpus.deduplicate=none", "--corpus.validation_fraction=0.01")
    groups = corpus.groups("train")[:, 0]
    queries = np.array([query for query, _ in texts_of(corpus, "train")])
    (same,) = {*groups[queries == "guide 3 of things"].tolist()}
    assert (groups == same).sum() == 2 * (groups == groups[queries == "guide 4 of things"][0]).sum()


def test_no_pair_of_a_held_out_document_or_its_near_duplicate_is_trained_on(manual: Path, tmp_path: Path) -> None:
    """Whichever document is held out, and whether duplicates are dropped or not."""
    corpus = pairs_of(manual, "--corpus.deduplicate=none", "--corpus.validation_fraction=0.5")
    trained, held_out = ({query for query, _ in texts_of(corpus, split)} for split in ("train", "validation"))
    of_titles = [{one for one in queries if one.startswith("guide")} for queries in (trained, held_out)]
    assert all(of_titles) and not of_titles[0] & of_titles[1]


def test_documents_without_pairs_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.txt").write_text(" ".join(made_up_prose(i, 10).split()), "utf-8")
    with pytest.raises(Exception, match="there are no pairs to train a search model on"):
        pairs_of(folder, "--corpus.min_chars=10")


# --- the loss ---


def batch_of(corpus: PreparedCorpus, samples: Any, objective: Objective, num_rows: int = 0) -> MicroBatch:
    chosen = np.array(samples, np.int64)
    keys = np.arange(1, len(chosen) + 1, dtype=np.uint64)
    wanted = Samples(np.zeros_like(chosen), chosen, keys, np.zeros(len(chosen)))
    return assemble(corpus.rows("train"), objective.corruption, wanted, num_rows or len(chosen))


def test_vectors_are_the_means_of_each_text(manual: Path) -> None:
    corpus, objective = pairs_of(manual), objective_of(manual)
    batch = batch_of(corpus, [0, 3, 5], objective, num_rows=4)
    assert batch.pairs is not None and batch.input_ids.shape[0] == 4
    hidden = torch.randn(*batch.input_ids.shape, 6)
    found = mean_of_spans(hidden, batch.pairs.spans)
    for i, row in enumerate((0, 3, 5)):
        lengths = corpus.rows("train").chunks(np.array([row]))[0].tolist()
        assert torch.allclose(found[i, 0], hidden[i, : lengths[0]].mean(0), atol=1e-6)
        assert torch.allclose(found[i, 1], hidden[i, lengths[0] : sum(lengths)].mean(0), atol=1e-6)
    assert len(found) == 3


def objective_of(manual: Path, *flags: str) -> Contrastive:
    spec = spec_of(manual, *flags)
    made = OBJECTIVES[spec.phases[0].objective].create(spec.phases[0], 0, pairs_of(manual))
    assert isinstance(made, Contrastive)
    return made


def test_loss_is_that_of_sentence_transformers(manual: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    corpus, objective = pairs_of(manual), objective_of(manual)
    model = tiny_bert(len(corpus.tokenizer))
    model.base_model.save_pretrained(tmp_path)
    corpus.tokenizer.save_pretrained(tmp_path)
    groups = corpus.groups("train")[:, 0]
    samples = [int(np.flatnonzero(groups == one)[1]) for one in np.unique(groups)[:8]]  # title → section
    batch = batch_of(corpus, samples, objective)
    module = objective.module(model, masked_head=True, packed=True).eval()
    found = objective.loss(module, batch)["contrastive"]
    found.backward()  # type: ignore[no-untyped-call]

    transformer = Transformer(str(tmp_path), max_seq_length=64)
    theirs = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")
    loss = MultipleNegativesRankingLoss(theirs, scale=20.0)
    tokens = corpus.rows("train").take(np.array(samples)).tolist()
    lengths = corpus.rows("train").chunks(np.array(samples))[0].reshape(-1, 2).tolist()
    sides = [
        [row[:first] for row, (first, _) in zip(tokens, lengths, strict=True)],
        [row[first : first + second] for row, (first, second) in zip(tokens, lengths, strict=True)],
    ]
    theirs.eval()
    expected = loss([padded(side) for side in sides], torch.zeros(len(samples)))
    expected.backward()
    assert found.item() / len(samples) == pytest.approx(expected.item(), rel=1e-5)
    mine = dict(model.base_model.named_parameters())
    for name, parameter in transformer.model.named_parameters():
        if parameter.grad is not None and "pooler" not in name:
            gradient = mine[name].grad
            assert gradient is not None
            assert torch.allclose(gradient / len(samples), parameter.grad, atol=2e-6), name


def padded(texts: list[list[int]]) -> dict[str, torch.Tensor]:
    """Texts as a batch of sentence-transformers."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *([0] * (width - len(text)))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    return {"input_ids": ids, "attention_mask": mask}


def test_sections_of_a_document_are_negatives_of_its_headings() -> None:
    headings = [[1, 7, 10, 20], [1, 7, 11, 21], [1, 7, 10, 22]]  # of one document; two have the same words
    others = [[1, 0, 12, 23], [1, 8, 13, 24], [2, 9, 14, 25]]  # its title, a near-duplicate of it, another document
    found = alike(torch.tensor(headings + others), range(6))
    assert found[0].tolist() == [False, False, True, True, True, False]
    assert found[1].tolist() == [False, False, False, True, True, False]
    assert torch.equal(found, found.T)
    assert found[5].tolist() == [False] * 6


def test_pairs_that_are_alike_are_no_negatives() -> None:
    torch.manual_seed(0)
    vectors = functional.normalize(torch.randn(5, 2, 8), dim=-1)
    keys = torch.tensor([[1, 0, 10, 20], [1, 0, 11, 21], [2, 0, 10, 22], [3, 0, 12, 20], [4, 0, 13, 23]])
    expected = torch.eye(5, dtype=torch.bool)
    for i, j in ((0, 1), (0, 2), (0, 3)):  # of one document, with one query, with one passage
        expected[i, j] = expected[j, i] = True
    assert torch.equal(alike(keys, range(5)) | torch.eye(5, dtype=torch.bool), expected)
    assert torch.equal(alike(keys, range(2, 4)), alike(keys, range(5))[2:4])
    losses = pair_losses(vectors, keys, 0.05, range(5))
    scores = vectors[:, 0] @ vectors[:, 1].T / 0.05
    for i in range(5):
        others = [j for j in range(5) if j == i or not expected[i, j]]
        assert losses[i].item() == pytest.approx(
            (torch.logsumexp(scores[i, others], 0) - scores[i, i]).item(), abs=1e-5
        )


# --- the step ---


def step_of(manual: Path, batches: list[list[int]], *flags: str, num_rows: int) -> tuple[StepResult, dict[str, Any]]:
    """A step on some micro-batches, with dropout: its result and the weights after it."""
    spec, corpus = spec_of(manual, *flags), pairs_of(manual, *flags)
    objective = objective_of(manual, *flags)
    torch.manual_seed(0)
    module = objective.module(tiny_bert(len(corpus.tokenizer), dropout=0.1), masked_head=True, packed=True)
    with specs.cpu_engine() as engine:
        engine.setup(module, build_optimizer(module, spec.optim))
        made = [with_keys(batch_of(corpus, some, objective, num_rows), some) for some in batches]
        result = train_step(engine, objective, made, 1e-3, 0)
        return result, {name: value.detach().clone() for name, value in module.named_parameters()}


def with_keys(batch: MicroBatch, samples: list[int]) -> MicroBatch:
    """Dropout by the numbers of the rows."""
    keys = torch.zeros(len(batch.input_ids), dtype=torch.int64)
    keys[: len(samples)] = torch.tensor(samples) + 1
    return dataclasses.replace(batch, row_keys=keys)


@pytest.mark.parametrize("name", ["contrastive", "contrastive_masked_lm"])
def test_micro_batches_give_the_step_of_the_whole_batch(name: str, manual: Path) -> None:
    """With dropout, uneven micro-batches and an empty one."""
    flags = (f"--objective={name}", "--masking.probability=0.2")
    samples = list(range(0, 42, 6))
    whole, weights = step_of(manual, [samples], *flags, num_rows=7)
    parts, others = step_of(manual, [samples[:3], samples[3:6], samples[6:], []], *flags, num_rows=3)
    assert whole.counts[0] == parts.counts[0] == 7
    assert torch.allclose(whole.loss_sums, parts.loss_sums, rtol=1e-5)
    assert float(whole.grad_norm) == pytest.approx(float(parts.grad_norm), rel=1e-4)
    for key, value in weights.items():
        if not key.endswith("key.bias"):  # its gradient is 0 but for rounding
            assert torch.allclose(value, others[key], atol=1e-5), key


def test_validation_compares_with_all_passages(manual: Path) -> None:
    """The same for any size of micro-batches, and with the loss of all pairs."""
    corpus, objective = pairs_of(manual), objective_of(manual)
    module = objective.module(tiny_bert(len(corpus.tokenizer)), masked_head=True, packed=True)
    rows = corpus.rows("validation")
    with specs.cpu_engine() as engine:
        engine.setup(module, build_optimizer(module, spec_of(manual).optim))
        one, other = (evaluate_pairs(engine, rows, size) for size in (len(rows), 5))
    assert one.num_pairs == other.num_pairs == len(rows)
    assert one.loss == pytest.approx(other.loss, rel=1e-5)
    assert (one.recall_at_1, one.mrr) == pytest.approx((other.recall_at_1, other.mrr), abs=0.02)
    assert 0 < one.mrr <= 1 and one.recall_at_1 <= one.mrr


# --- runs ---


@pytest.fixture(scope="module")
def trained(manual: Path, one_core: None) -> Path:
    """A run of 12 steps."""
    run = manual.parent / "run"
    launching.here("train", *FLAGS, *corpus_flags(manual), "--validation.max_rows=64", f"--output_dir={run}")
    return run


def corpus_flags(manual: Path) -> tuple[str, ...]:
    return f"--corpus.source={manual}", f"--corpus.cache_dir={manual.parent / 'cache'}", "--batch.global_size=8"


def test_masked_tokens_are_measured_on_few_rows_if_no_phase_predicts_them(trained: Path) -> None:
    (start,) = launching.metrics(trained, "start")
    assert start["validation_rows"] == min(SIDE_ROWS, start["validation_rows_total"])
    found = launching.metrics(trained, "validation")[0]
    assert found["pairs"] > 0 and 0 < found["masked_tokens"] < SIDE_ROWS * 64


def test_a_run_learns_to_find_passages(trained: Path) -> None:
    lines, validated = launching.metrics(trained, "train"), launching.metrics(trained, "validation")
    assert all(line["pairs"] == 8 and "masked_tokens" not in line for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert len({line["pairs"] for line in validated}) == 1
    assert validated[-1]["pairs_loss"] < validated[0]["pairs_loss"]
    assert validated[-1]["pairs_mrr"] > validated[0]["pairs_mrr"]
    (end,) = launching.metrics(trained, "end")
    assert "steps" in end


@pytest.mark.parametrize("name", ["contrastive", "contrastive_masked_lm"])
def test_plan_measures_a_step_of_pairs(name: str, manual: Path, tmp_path: Path) -> None:
    done = launching.here(
        "plan",
        *FLAGS,
        f"--objective={name}",
        *corpus_flags(manual),
        "--model.name_or_path=bert-tiny",
        f"--output_dir={tmp_path}",
    )
    assert "mode pairs" in done.log


@pytest.mark.parametrize(("micro_size", "seconds"), [(8, 3.0), (4, 4.0)])
def test_plan_counts_the_second_forward_pass(
    micro_size: int, seconds: float, manual: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_time, "seconds_per_step", lambda spec, phase: 3.0)
    spec = spec_of(manual, "--batch.global_size=8", f"--batch.micro_size={micro_size}")
    (phase,) = time_estimate.estimate(spec, [10], 0).phases
    assert phase.step == pytest.approx(seconds)


def test_report_and_card_say_how_well_it_finds(trained: Path) -> None:
    page, card = ((trained / name).read_text("utf-8") for name in ("report.html", "model/README.md"))
    for text in (page, card):
        assert "recall at 1" in text and "mean reciprocal rank" in text
    assert "held-out passages for" in page
    assert "pipeline_tag: sentence-similarity" in card and "model.similarity(" in card
    assert "- fill-mask" not in card.split("---")[1]


def test_exported_model_is_one_of_sentence_transformers(trained: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = SentenceTransformer(str(trained / "model"), device="cpu")
    texts = ["rotate the keys", made_up_prose(3, 20)]
    found = model.encode(texts)
    name = str(trained / "model")
    assert model.max_seq_length == 64 and model.similarity_fn_name == "cosine"
    encoder = TextEncoder(AutoModelForMaskedLM.from_pretrained(name), AutoTokenizer.from_pretrained(name), 64)
    assert np.allclose(found, encoder.encode(texts), atol=1e-5)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_run_resumes_bit_by_bit(trained: Path, manual: Path, tmp_path: Path) -> None:
    resume = f"--checkpoint.resume={trained / 'checkpoints' / 'step-00000006'}"
    flags = ("--validation.max_rows=64", f"--output_dir={tmp_path}")
    launching.here("train", *FLAGS, *corpus_flags(manual), resume, *flags)
    found, expected = (
        (run / "checkpoints" / "step-00000012" / "model.safetensors").read_bytes() for run in (tmp_path, trained)
    )
    assert found == expected


def test_phases_of_both_kinds_are_one_run(manual: Path, tmp_path: Path) -> None:
    phases = [
        {"name": "language", "duration": "3 steps"},
        {"name": "search", "duration": "3 steps", "objective": "contrastive", "contrastive": {"temperature": 0.1}},
        {"name": "both", "duration": "2 steps", "objective": "contrastive_masked_lm"},
    ]
    flags = ("--logging.every=1", "--validation.every=4", *launching.TINY, "--corpus.validation_fraction=0.2")
    launching.here("train", *corpus_flags(manual), *flags, f"--phases={json.dumps(phases)}", f"--output_dir={tmp_path}")
    lines = launching.metrics(tmp_path, "train")
    assert [("masked_tokens" in line, "pairs" in line) for line in lines] == [
        *[(True, False)] * 3,
        *[(False, True)] * 5,
    ]
    assert {"loss_contrastive", "loss_masked_lm"} <= lines[-1].keys()
    validated = launching.metrics(tmp_path, "validation")
    assert {line["step"] for line in validated if "pairs_loss" in line} == {
        0,
        3,
        4,
        6,
        8,
    }
