"""The head of a model whose checkpoint has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import launching
import numpy as np
import pytest
import test_model
import torch
from transformers import AutoTokenizer

from mlm_dist.model import lm_head
from mlm_dist.pages.record import read_record
from mlm_dist.pages.run_facts import run_facts

HEADS = ("bert", "roberta", "distilbert", "albert", "electra", "modernbert", "deberta-v2", "esm", "mpnet")
COUNTS = np.array([0] * 5 + [2 ** (i % 12) for i in range(115)])


def log_frequencies(num_tokens: int) -> torch.Tensor:
    counts = torch.zeros(num_tokens)
    counts[: len(COUNTS)] = torch.from_numpy(COUNTS)
    return (counts + 1).log() - (counts + 1).sum().log()


@torch.no_grad()
def loss_of(model: Any) -> float:
    """The loss on tokens that are as frequent as in COUNTS."""
    input_ids = torch.randint(5, 120, (4, 16), generator=torch.Generator().manual_seed(0))
    scores = model.eval()(input_ids=input_ids).logits.flatten(0, 1).log_softmax(-1)
    weights = (torch.from_numpy(COUNTS) + 1).float()
    return float(-(scores[:, : len(COUNTS)] * weights).sum(-1).mean() / weights.sum())


@pytest.mark.parametrize("name", HEADS)
def test_first_loss_is_the_unigram_baseline(name: str) -> None:
    """With a random head it is that of guessing, which is higher by more than half a nat here."""
    model = test_model.model_of(name)
    random = loss_of(model)
    lm_head.initialize(model, COUNTS)
    expected = log_frequencies(model.config.vocab_size).exp()
    baseline = float(-(expected * expected.log()).sum())
    if not any(parameter.shape == (120,) for parameter in model.parameters()):
        pytest.skip("its head has no bias")
    assert random > baseline + 0.5
    assert loss_of(model) == pytest.approx(baseline, abs=0.1)


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_head_is_the_embeddings_the_frequencies_and_the_identity(name: str) -> None:
    model = test_model.model_of(name, vocab_size=128)
    lm_head.initialize(model, COUNTS)
    output, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    dense = model.head.dense if name == "modernbert" else model.cls.predictions.transform.dense
    assert output.weight is embeddings.weight
    torch.testing.assert_close(output.bias, log_frequencies(128))
    assert output.bias.argmin() >= 120 or output.bias.argmin() < 5
    assert torch.equal(dense.weight, torch.eye(32))


def test_an_untied_output_matrix_starts_as_the_embeddings() -> None:
    model = test_model.model_of("bert", tie_word_embeddings=False)
    output, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert output is not embeddings and not torch.equal(output, embeddings)
    lm_head.initialize(model, COUNTS)
    assert torch.equal(output, embeddings) and output is not embeddings


def test_a_transform_to_smaller_embeddings_undoes_the_encoder_s_own_map() -> None:
    model = test_model.model_of("electra")
    lm_head.initialize(model, COUNTS)
    assert torch.equal(model.generator_predictions.dense.weight, model.electra.embeddings_project.weight.T)


def test_initialization_draws_no_random_numbers() -> None:
    """So that it is the same on every rank, and does not move what is drawn after it."""
    model = test_model.model_of("bert")
    state = torch.get_rng_state()
    lm_head.initialize(model, COUNTS)
    assert torch.equal(torch.get_rng_state(), state)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lm_head.initialize(model, COUNTS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", HEADS)
def test_the_head_is_what_the_base_model_lacks(name: str) -> None:
    model = test_model.model_of(name)
    names = lm_head.names(model)
    base = {f"{model.base_model_prefix}.{one}" for one in model.base_model.state_dict()}
    assert names and names | base == set(model.state_dict()) and not names & base


@pytest.mark.slow
def test_a_run_from_an_encoder_says_that_its_head_is_initialized(
    prepared_cache: Path, prose: Path, tmp_path: Path
) -> None:
    """In the log, in metrics.jsonl, in the report and in the model card; its first loss is near the baseline."""
    found = next(path for path in prepared_cache.iterdir() if (path / "tokenizer").is_dir())
    tokenizer = AutoTokenizer.from_pretrained(found / "tokenizer")
    tokenizer.save_pretrained(tmp_path / "start")
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 64}
    test_model.model_of("bert", **fields).base_model.save_pretrained(tmp_path / "start")
    run = tmp_path / "run"
    flags = (
        *(f"--model.name_or_path={tmp_path / 'start'}", f"--corpus.source={prose}", f"--output_dir={run}"),
        f"--corpus.cache_dir={tmp_path / 'cache'}",
    )
    ended = launching.python("train.py", *flags, *launching.SHORT[:1], *launching.TINY[1:], "--optim.duration=2 steps")
    assert ended.returncode == 0, ended.output
    assert f"{tmp_path / 'start'} has no masked-LM head; it starts {lm_head.DESCRIPTION}" in ended.output
    record = read_record(run)
    assert record.start["lm_head"] == "initialized"
    assert record.validation[0]["loss"] == pytest.approx(record.start["unigram_loss"], abs=0.1)
    words = run_facts(record)["LM head"]
    assert words in (run / "report.html").read_text("utf-8") and words in (run / "model" / "README.md").read_text(
        "utf-8"
    )
