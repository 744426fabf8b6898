"""Tokenizers: training is repeatable, the fast encoder agrees, special tokens are found."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import made_up_text

from mlm_dist.corpus import tokens
from mlm_dist.errors import ModelError

TEXTS = [made_up_text(i, 300) + " Überschrift naïve 漢字 x-y_z (1,234)!" for i in range(40)]


@pytest.fixture(scope="module")
def trained() -> Any:
    return tokens.train_wordpiece(lambda: TEXTS, 600, 64)


def test_training_is_repeatable(trained: Any) -> None:
    """The library's own order of letters and ties changes from one call to the next."""
    for _ in range(4):
        assert tokens.train_wordpiece(lambda: TEXTS, 600, 64).get_vocab() == trained.get_vocab()


def test_trained_tokenizer_is_a_bert_tokenizer(trained: Any) -> None:
    assert len(trained) == 600
    assert trained.all_special_tokens and set(trained.all_special_ids) == {0, 1, 2, 3, 4}
    ids = trained("ba ke di")["input_ids"]
    assert ids[0] == trained.cls_token_id and ids[-1] == trained.sep_token_id
    assert trained.decode(trained("bakedi lo")["input_ids"], skip_special_tokens=True) == "bakedi lo"
    assert trained.unk_token_id not in trained(made_up_text(1000, 200))["input_ids"]


def test_saved_tokenizer_is_the_same(trained: Any, tmp_path: Path) -> None:
    tokens.save(trained, tmp_path)
    assert tokens.digest(tokens.load(str(tmp_path))) == tokens.digest(trained)


def test_special_tokens(trained: Any) -> None:
    special = tokens.special_tokens(trained)
    assert (special.prefix, special.suffix) == ((trained.cls_token_id,), (trained.sep_token_id,))
    assert (special.pad, special.mask) == (trained.pad_token_id, trained.mask_token_id)
    assert set(special.all) == {0, 1, 2, 3, 4}


def test_encoder_gives_what_the_tokenizer_gives(trained: Any) -> None:
    ids, lengths = tokens.Encoder(trained)(TEXTS)
    expected = [trained(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    assert ids.dtype == np.int32
    assert lengths.tolist() == [len(one) for one in expected]
    assert ids.tolist() == [i for one in expected for i in one]
    assert [part.size for part in tokens.Encoder(trained)([])] == [0, 0]


def test_fast_encoder_is_used_and_put_aside_when_it_disagrees(trained: Any) -> None:
    pytest.importorskip("nanotoken")
    other = tokens.train_wordpiece(lambda: TEXTS[:3], 320, 64)
    encoder = tokens.Encoder(trained)
    assert encoder.fast is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(TEXTS)
    assert encoder.fast is not None
    encoder.fast = tokens.Encoder(other).fast  # a fast tokenizer that is in the wrong
    with pytest.warns(UserWarning, match="splits some text differently"):
        ids, _ = encoder(TEXTS)
    assert encoder.fast is None
    assert ids.tolist() == tokens.Encoder(trained)(TEXTS)[0].tolist()


def test_tokenizer_without_mask_is_refused(trained: Any, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, pad_token="[PAD]")
    plain.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model\.name_or_path.*no mask token"):
        tokens.load(str(tmp_path), "model.name_or_path")


def test_truncation_left_in_a_tokenizer_does_not_shorten_documents(trained: Any, tmp_path: Path) -> None:
    tokens.save(trained, tmp_path)
    cut = tokens.load(str(tmp_path))
    cut.backend_tokenizer.enable_truncation(8)
    cut.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(tokens.Encoder(tokens.load(str(tmp_path)))(TEXTS[:1])[0]) > 100
