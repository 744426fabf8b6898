"""Configurations of models: constructed from overrides and the tokenizer, for every architecture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from making import made_up_prose
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM

from mlm_dist.config import ModelConfig
from mlm_dist.corpus.tokenizer import training
from mlm_dist.errors import ModelError
from mlm_dist.model import vocabulary
from mlm_dist.model.architecture import architecture
from mlm_dist.model.build import build
from mlm_dist.model.configuration import changed, fitted

REFUSED = {"bart", "funnel", "mbart", "mvp", "modernvbert", "ultravbert"}  # tests/architectures says why
NAMES = sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING} - REFUSED)
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
# Architectures whose sizes have other names.
OVERRIDES: dict[str, dict[str, Any]] = {
    **{name: {"num_hidden_layers": 2} for name in ("distilbert", "xlm", "flaubert")},
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    "mobilebert": TINY | {"embedding_size": 16, "intra_bottleneck_size": 32, "true_hidden_size": 32},
    "neomme": TINY | {"num_key_value_heads": 2},
    "perceiver": {"num_self_attends_per_block": 2},
    "reformer": {"num_hidden_layers": 2},
    "squeezebert": TINY | {"embedding_size": 32},
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return training.train("wordpiece", lambda: [made_up_prose(i, 30) for i in range(20)], 300, 128)


def of(name: str, tokenizer: Any = None, length: int = 64, **overrides: Any) -> Any:
    return architecture(ModelConfig(name_or_path=name, overrides=overrides), length, tokenizer)


def ids_of(config: Any) -> dict[str, int]:
    return {name: value for name, value in vars(config).items() if name.endswith("_token_id") and value is not None}


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_takes_overrides_and_the_vocabulary_of_the_tokenizer(name: str, tokenizer: Any) -> None:
    config = of(name, tokenizer, **OVERRIDES.get(name, TINY))
    assert config.vocab_size == len(tokenizer)
    assert all(0 <= id_ < len(tokenizer) for id_ in (ids_of(config)).values())
    assert getattr(config, "pad_token_id", None) in (None, tokenizer.pad_token_id)
    assert getattr(config, "mask_token_id", None) in (None, tokenizer.mask_token_id)
    if "num_hidden_layers" in OVERRIDES.get(name, TINY):
        assert config.num_hidden_layers == 2
        assert len(getattr(config, "layer_types", None) or [0, 0]) == 2
    with torch.device("meta"):
        AutoModelForMaskedLM.from_config(config)


@pytest.mark.parametrize("name", ["modernbert", "eurobert", "ultrabert", "esm", "roberta"])
def test_configuration_before_the_tokenizer_is_trained_is_that_of_training(name: str, tokenizer: Any) -> None:
    overrides = OVERRIDES.get(name, TINY)
    model = ModelConfig(name_or_path=name, overrides=overrides)
    planned = architecture(model, 64, None, train_vocab_size=len(tokenizer))
    assert planned.to_dict() == architecture(model, 64, tokenizer).to_dict()


def test_ids_of_a_trained_tokenizer_are_known(tokenizer: Any) -> None:
    assert all(getattr(tokenizer, name) == id_ for name, id_ in vars(vocabulary.TRAINED).items())


def test_fields_derived_from_others_follow() -> None:
    config = of("eurobert", hidden_size=64, num_attention_heads=2)
    assert (config.head_dim, config.num_key_value_heads) == (32, 2)
    config = of("modernbert", num_hidden_layers=5)
    full, sliding = "full_attention", "sliding_attention"
    assert config.layer_types == [full, sliding, sliding, full, sliding]
    assert of("reformer", num_hidden_layers=3).attn_layers == ["local", "lsh", "local"]


def test_layers_of_a_checkpoint_are_cut_or_continued(tmp_path: Path) -> None:
    full, sliding = "full_attention", "sliding_attention"
    sizes = TINY | {"num_hidden_layers": 4, "vocab_size": 40, "pad_token_id": 0}
    own = changed(CONFIG_MAPPING["modernbert"](), sizes | {"layer_types": [full, sliding, full, sliding]})
    own.save_pretrained(tmp_path)
    assert of(str(tmp_path)).to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert of(str(tmp_path), num_hidden_layers=3).layer_types == [full, sliding, full]
    assert of(str(tmp_path), num_hidden_layers=7).layer_types == [full, sliding, full, sliding, full, sliding, full]
    of(str(tmp_path), num_hidden_layers=7).save_pretrained(tmp_path / "again")


@pytest.mark.parametrize(
    ("layers", "count", "expected"),
    [("ab", 5, "ababa"), ("aab", 2, "aa"), ("aabaa", 8, "aabaabaa"), ("abc", 4, "abca"), ("aaa", 4, "aaaa")],
)
def test_list_of_layers_is_continued_by_its_period(layers: str, count: int, expected: str) -> None:
    assert fitted(list(layers), count) == list(expected)


@pytest.mark.parametrize("name", NAMES)
def test_unchanged_fields_stay(name: str) -> None:
    before = CONFIG_MAPPING[name]()
    after = changed(
        before, {"initializer_range": 0.5} if hasattr(before, "initializer_range") else {"return_dict": True}
    )
    expected = before.to_dict() | ({"initializer_range": 0.5} if hasattr(before, "initializer_range") else {})
    assert after.to_dict() == expected


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "modernbert",
            {"num_hidden_layer": 2},
            r"^model\.overrides\.num_hidden_layer: .*did you mean 'num_hidden_layers'",
        ),
        ("bert", {"hidden_size": "wide"}, r"^model\.overrides\.hidden_size: .*expected int"),
        ("bert", {"num_hidden_layers": 0}, r"^model\.overrides\.num_hidden_layers: must be at least 1, is 0"),
        ("eurobert", {"hidden_size": 63}, r"^model\.overrides: eurobert cannot be built.*not a multiple"),
        ("bert", {"hidden_size": 63}, r"^model\.overrides: bert cannot be built.*not a multiple"),
        ("distilbert", {"dim": 64, "hidden_size": 32}, r"^model\.overrides\.hidden_size: .* calls this field dim"),
        ("bert", {"model_type": "roberta"}, r"^model\.overrides\.model_type: .*no such field"),
        ("bert", {"to_dict": 1}, r"^model\.overrides\.to_dict: .*no such field"),
        ("modernbert", {"layer_types": ["full_attention"]}, r"^model\.overrides: modernbert cannot be built"),
        ("squeezebert", {"hidden_size": 96}, r"^model\.overrides: squeezebert cannot be built"),
    ],
)
def test_wrong_overrides_are_refused_in_a_line(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        of(name, **overrides)
    assert "\n" not in str(caught.value)


# --- rows and tokens of a checkpoint ---


def checkpoint(folder: Path, num_rows: int, tokenizer: Any = None) -> ModelConfig:
    sizes = TINY | {"vocab_size": num_rows, "max_position_embeddings": 64}
    AutoModelForMaskedLM.from_config(changed(CONFIG_MAPPING["bert"](), sizes)).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return ModelConfig(name_or_path=str(folder))


@pytest.mark.parametrize("more", [0, 1, 99, 1000])
def test_checkpoint_keeps_more_rows_than_tokens(more: int, tokenizer: Any, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, len(tokenizer) + more, tokenizer)
    config = architecture(model, 64, tokenizer)
    assert config.vocab_size == len(tokenizer) + more
    assert len(build(model, config, 0).model.get_input_embeddings().weight) == len(tokenizer) + more


def test_domain_tokens_take_rows_that_are_not_used(tokenizer: Any, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, len(tokenizer) - 4)
    assert architecture(model, 64, tokenizer, num_domain_tokens=10).vocab_size == len(tokenizer)
    model = checkpoint(tmp_path, len(tokenizer) - 10)
    assert architecture(model, 64, tokenizer, num_domain_tokens=10).vocab_size == len(tokenizer)


def test_checkpoint_with_fewer_rows_than_tokens_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = checkpoint(tmp_path, len(tokenizer) - 1, tokenizer)
    with pytest.raises(ModelError, match=f"has {len(tokenizer)} tokens, but .* has {len(tokenizer) - 1};"):
        architecture(model, 64, tokenizer)


def test_tokenizer_of_another_model_is_refused_and_one_with_few_changes_named(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = checkpoint(tmp_path, 600, tokenizer)
    other = training.train("bpe", lambda: [made_up_prose(i, 30) for i in range(20)], 300, 128)
    with pytest.raises(ModelError, match=r"^tokenizer\.path: \d+ of \d+ tokens have another id.*--model\.init_from"):
        architecture(model, 64, other, tokenizer_name="other")
    architecture(model, 64, tokenizer, tokenizer_name="the same")
    assert not caplog.records
    forced = ModelConfig(name_or_path=str(tmp_path), overrides={"vocab_size": 700})
    assert architecture(forced, 64, other, tokenizer_name="other").vocab_size == 700
    assert "tokens have another id" in caplog.text


def test_tokenizer_that_cannot_be_compared_is_named(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert architecture(checkpoint(tmp_path, 600), 64, tokenizer, tokenizer_name="mine").vocab_size == 600
    assert "has no tokenizer to compare that of mine with" in caplog.text


def test_new_tokenizer_for_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^tokenizer\.train_vocab_size: .*--model\.init_from"):
        architecture(checkpoint(tmp_path, 600), 64, None, train_vocab_size=4096)
