"""The exported tokenizer: its class, its settings, and a length that the model's positions can hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import here
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertTokenizer,
    pipeline,
)

from mlm_dist.corpus.tokenizer import domain_tokens, loading
from mlm_dist.hf_model import config_file, tokenizer_files
from mlm_dist.hf_model.write import ModelFiles, write_files

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "vault", "keys", "the", "a", "b", "##c", "[X]"]
SIZE = {"vocab_size": len(WORDS), "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 40}
SIZE |= {"hidden_size": 32, "intermediate_size": 64, "pad_token_id": 0}


def tokenizer(kind: Any = BertTokenizer, **settings: Any) -> Any:
    return kind(vocab={word: i for i, word in enumerate(WORDS)}, **settings)


def tiny(model_type: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    special = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4}
    return AutoModelForMaskedLM.from_config(AutoConfig.for_model(model_type, **{**SIZE, **special, **changes}))


def saved(start: Path, kind: Any, **settings: Any) -> Path:
    tokenizer(kind, **settings).save_pretrained(start)
    return start


def exported(folder: Path, model: Any, one: Any, original: Any = None, max_length: int = 16) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    write_files(model, ModelFiles(one, original or one, max_length), folder, "float32")
    values: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    return values


def test_class_belongs_to_the_digest_of_a_tokenizer() -> None:
    bert, distilbert = tokenizer(BertTokenizer), tokenizer(DistilBertTokenizer)
    assert loading.rows_digest(bert) == loading.rows_digest(distilbert), "their rows are the same"
    assert loading.digest(bert) != loading.digest(distilbert)


@pytest.mark.parametrize(
    "settings",
    [
        {"padding_side": "left"},
        {"truncation_side": "left"},
        {"model_input_names": ["input_ids", "attention_mask"]},
        {"additional_special_tokens": ["[X]"]},
        {"do_lower_case": False},
        {"clean_up_tokenization_spaces": True},
    ],
    ids=str,
)
def test_what_a_tokenizer_does_belongs_to_its_digest(settings: dict[str, Any]) -> None:
    assert loading.digest(tokenizer(**settings)) != loading.digest(tokenizer())


def test_limit_path_and_chat_template_do_not_belong_to_the_digest(tmp_path: Path) -> None:
    """So that a run with another limit does not prepare its corpus again."""
    plain = loading.digest(tokenizer())
    assert loading.digest(tokenizer(model_max_length=40)) == plain
    assert loading.digest(tokenizer(chat_template="{{ messages }}")) == plain
    assert loading.digest(loading.load(str(saved(tmp_path / "one", BertTokenizer)))) == plain
    truncated = tokenizer()
    truncated.backend_tokenizer.enable_truncation(7)
    assert loading.digest(truncated) == plain


def test_exported_tokenizer_has_the_digest_of_the_original(tmp_path: Path) -> None:
    """So that a run that starts from the export finds its corpus in the cache."""
    for name, one in {
        "plain": tokenizer(),
        "left": tokenizer(padding_side="left", truncation_side="left", additional_special_tokens=["[X]"]),
        "distilbert": tokenizer(DistilBertTokenizer),
    }.items():
        exported(tmp_path / name, tiny("bert"), one)
        again = loading.load(str(tmp_path / name))
        assert loading.digest(again) == loading.digest(one), name
        assert again.all_special_tokens == one.all_special_tokens, name


@pytest.mark.parametrize("limit", [None, 12, 40, 512])
@pytest.mark.parametrize(
    ("model_type", "usable"), [("bert", 40), ("roberta", 39), ("modernbert", 40), ("camembert", 39)]
)
def test_limit_fits_positions_and_rows(model_type: str, usable: int, limit: int | None, tmp_path: Path) -> None:
    """Padding index 0, so that RoBERTa's first token has position 1."""
    settings = {} if limit is None else {"model_max_length": limit}
    values = exported(tmp_path / "model", tiny(model_type), tokenizer(**settings))
    assert values["model_max_length"] == {None: usable, 12: 16}.get(limit, usable)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "mpnet", "xlm-roberta"])
@pytest.mark.parametrize("pad", [0, 1])
def test_row_of_the_limit_runs_and_a_longer_one_does_not(model_type: str, pad: int, tmp_path: Path) -> None:
    model = tiny(model_type, pad_token_id=pad).eval()
    limit = exported(tmp_path / "model", model, tokenizer())["model_max_length"]
    if model_type == "mpnet" and pad == 0:
        pytest.skip("its positions begin after padding index 1, whatever the index is")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    again(input_ids=torch.full((1, limit), 5))
    with pytest.raises((IndexError, RuntimeError)):
        again(input_ids=torch.full((1, limit + 1), 5))


def test_pipeline_truncates_at_the_positions(tmp_path: Path) -> None:
    exported(tmp_path / "model", tiny("roberta"), tokenizer())
    fill = pipeline("fill-mask", model=str(tmp_path / "model"))
    answers = fill("the [MASK] " + "keys " * 100, tokenizer_kwargs={"truncation": True})
    assert len(answers) == 5


def test_settings_come_from_the_tokenizer_that_the_run_names(tmp_path: Path) -> None:
    """The corpus was prepared with a tokenizer of the same digest but other limit and template."""
    own = tokenizer(model_max_length=30, chat_template="{{ messages }}")
    values = exported(tmp_path / "model", tiny("bert"), tokenizer(model_max_length=512), own)
    assert values["model_max_length"] == 30
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template == "{{ messages }}"


def test_tokenizer_class_is_one_of_transformers_4(tmp_path: Path) -> None:
    trained, _ = domain_tokens.add(tokenizer(), ["vaults vaults vaultc vaultc keysc keysc"], 2)
    assert exported(tmp_path / "one", tiny("bert", vocab_size=14), trained)["tokenizer_class"] == (
        "PreTrainedTokenizerFast"
    )
    values = exported(tmp_path / "two", tiny("bert"), tokenizer())
    assert values["tokenizer_class"] == "BertTokenizer"
    assert values["model_input_names"] == ["input_ids", "token_type_ids", "attention_mask"]


def test_domain_tokens_keep_the_settings_of_the_original() -> None:
    settings = {"padding_side": "left", "additional_special_tokens": ["[X]"], "chat_template": "{{ messages }}"}
    one = tokenizer(clean_up_tokenization_spaces=True, **settings)
    extended, added = domain_tokens.add(one, ["vaultc vaultc keysc keysc"], 2)
    assert added
    assert extended.padding_side == "left"
    assert extended.all_special_tokens == one.all_special_tokens
    assert extended.chat_template == "{{ messages }}"
    assert extended.clean_up_tokenization_spaces is True
    assert extended.model_input_names == one.model_input_names


def test_private_settings_are_not_written(tmp_path: Path) -> None:
    one = loading.load(str(saved(tmp_path / "start", BertTokenizer)))
    one.init_kwargs["some_file"] = str(tmp_path / "somewhere")
    values = exported(tmp_path / "model", tiny("bert"), one)
    assert not values.keys() & config_file.PRIVATE
    assert str(tmp_path) not in json.dumps(values)


def test_limit_without_positions_is_that_of_the_tokenizer() -> None:
    class Unlimited:
        max_position_embeddings = None

    assert tokenizer_files.length_limit(Unlimited(), 512, 64) == 512
    assert tokenizer_files.length_limit(Unlimited(), 32, 64) == 64


def test_bert_after_distilbert_exports_its_own_tokenizer(tmp_path: Path, prose: Path) -> None:
    """Both have one vocabulary; the rows are made once, the tokenizer is the one of the model."""
    for name, kind, config, model in (
        ("distilbert", DistilBertTokenizer, DistilBertConfig, DistilBertForMaskedLM),
        ("bert", BertTokenizer, BertConfig, BertForMaskedLM),
    ):
        start = saved(tmp_path / name, kind)
        shape = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64} if name == "distilbert" else SIZE
        torch.manual_seed(0)
        model(config(**{"vocab_size": len(WORDS), "max_position_embeddings": 40, **shape})).save_pretrained(start)
        here(
            "train",
            *(f"--model.name_or_path={start}", f"--output_dir={tmp_path / 'run'}{name}", f"--corpus.source={prose}"),
            *(f"--corpus.cache_dir={tmp_path / 'cache'}", "--corpus.validation_fraction=0.2", "--rows.max_length=32"),
            *("--optim.duration=1 steps", "--batch.global_size=4", "--export.verify=false"),
        )
        values = json.loads((tmp_path / f"run{name}" / "model" / "tokenizer_config.json").read_text("utf-8"))
        assert values["tokenizer_class"] == kind.__name__
        assert ("token_type_ids" in values["model_input_names"]) == (name == "bert")
        assert values["model_max_length"] == 40
        shutil.rmtree(start)
