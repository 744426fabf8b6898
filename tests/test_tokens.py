"""Tokenizers: training is repeatable, each kind has its properties, and fast methods agree with the tokenizer."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import launching
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import made_up_text
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import document_files
from mlm_dist.corpus.tokenizer import batch_tokenizer, loading, training, training_texts
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer, ExactTokenizer, WordCache
from mlm_dist.corpus.tokenizer.training_texts import TrainingTexts, count
from mlm_dist.errors import ModelError

TEXTS = [made_up_text(i, 300) + " Überschrift naïve 漢字 x-y_z (1,234)!\n\n  Ends." for i in range(40)]
KINDS = ("wordpiece", "bpe", "unigram")
ODD = "  Tab\there,\r\nline\n\n\nend  é e\u0301 ﬁ 漢字 \u00a0\u200b\U0001f600 ™ \x00\x07 [x] ▁_Ġ <0x41> "


def train(kind: str, texts: list[str] = TEXTS, vocab_size: int = 600) -> Any:
    return training.train(kind, lambda: texts, vocab_size, 64)


@pytest.fixture(scope="module")
def of_kind() -> dict[str, Any]:
    return {kind: train(kind) for kind in KINDS}


@pytest.fixture
def trained(of_kind: dict[str, Any]) -> Any:
    return of_kind["wordpiece"]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_repeatable(of_kind: dict[str, Any], kind: str) -> None:
    """The libraries order letters, ties and sums differently in each call."""
    for _ in range(4):
        assert loading.digest(train(kind)) == loading.digest(of_kind[kind])


@pytest.mark.slow
def test_training_is_the_same_in_every_process(of_kind: dict[str, Any], tmp_path: Path) -> None:
    program = (
        "import sys, test_tokens\n"
        "from mlm_dist.corpus.tokenizer import loading, training\n"
        "for kind in test_tokens.KINDS:\n"
        "    loading.save(test_tokens.train(kind), f'{sys.argv[1]}/{kind}')\n"
    )
    for kind, trained in of_kind.items():
        loading.save(trained, tmp_path / "0" / kind)
    for i in ("1", "2"):
        ended = launching.run(
            [sys.executable, "-c", program, str(tmp_path / i)],
            PYTHONHASHSEED=i,
            RAYON_NUM_THREADS=i,
            PYTHONPATH=str(launching.ROOT / "tests"),
        )
        assert ended.returncode == 0, ended.output
    for kind in KINDS:
        found = [{path.name: path.read_bytes() for path in (tmp_path / str(i) / kind).iterdir()} for i in range(3)]
        assert found[0] and found[0] == found[1] == found[2], kind


@pytest.mark.parametrize("kind", KINDS)
def test_trained_tokenizer_has_the_special_tokens_of_bert(of_kind: dict[str, Any], kind: str) -> None:
    trained = of_kind[kind]
    assert len(trained) == 600
    assert trained.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert trained.all_special_tokens and set(trained.all_special_ids) == {0, 1, 2, 3, 4}
    ids = trained("ba ke di")["input_ids"]
    assert ids[0] == trained.cls_token_id and ids[-1] == trained.sep_token_id
    assert trained.decode(trained("bakedi lo")["input_ids"], skip_special_tokens=True) == "bakedi lo"
    assert trained.unk_token_id not in trained(made_up_text(1000, 200))["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_mask_token_replaces_a_word(of_kind: dict[str, Any], kind: str, tmp_path: Path) -> None:
    """Replacing a word by the mask token does not change the ids around it."""
    loading.save(of_kind[kind], tmp_path)
    trained = loading.load(str(tmp_path))
    words = made_up_text(3, 400).split()

    def length(text: str) -> int:
        return len(trained.tokenize(text))

    word = next(word for word, _ in Counter(words).most_common() if length(f"ba {word} ba") == length("ba ba") + 1)
    for before, after in (("ba ke", " di lo."), ("ba,", "."), ("Ke", " mu")):
        whole = trained(f"{before} {word}{after}")["input_ids"]
        asked = trained(f"{before} [MASK]{after}")["input_ids"]
        (position,) = [i for i, token in enumerate(asked) if token == trained.mask_token_id]
        assert len(asked) == len(whole)
        assert [*asked[:position], *asked[position + 1 :]] == [*whole[:position], *whole[position + 1 :]]
        assert trained.decode([whole[position]]).strip() == word


@pytest.mark.parametrize("kind", KINDS)
def test_saved_tokenizer_is_loaded_unchanged(of_kind: dict[str, Any], kind: str, tmp_path: Path) -> None:
    loading.save(of_kind[kind], tmp_path)
    again = loading.load(str(tmp_path))
    assert loading.digest(again) == loading.digest(of_kind[kind])
    for text in (*TEXTS[:3], ODD):
        assert again(text)["input_ids"] == of_kind[kind](text)["input_ids"]


def test_bpe_loses_no_byte(of_kind: dict[str, Any]) -> None:
    draw = np.random.default_rng(0)
    odd = ["".join(map(chr, draw.integers(1, 0xD7FF, 200))) for _ in range(20)]
    for text in (ODD, *odd, *TEXTS[:3], "".join(map(chr, range(1000)))):
        ids = of_kind["bpe"](text, add_special_tokens=False)["input_ids"]
        assert of_kind["bpe"].decode(ids) == text


def test_unigram_has_no_unknown_letters(of_kind: dict[str, Any]) -> None:
    trained = of_kind["unigram"]
    ids = trained(ODD.replace("▁", ""), add_special_tokens=False)["input_ids"]
    assert trained.unk_token_id not in ids
    said = trained.decode(ids)
    assert said.split() == ODD.replace("▁", "").replace("e\u0301", "é").replace("ﬁ", "fi").replace("™", "TM").split()


def test_unigram_vocabulary_has_the_frequent_letters(of_kind: dict[str, Any]) -> None:
    """Letters too rare for the vocabulary are split into bytes; frequent ones are not."""
    texts = [*TEXTS, *("".join(chr(0x4E00 + i) for i in range(400)) for _ in range(2))]
    trained = train("unigram", texts, 400)
    assert len(trained) == 400
    assert all(letter in trained.get_vocab() for letter in "abdegiklmnoprstuv")
    rare = chr(0x4E00 + 399)
    assert rare not in trained.get_vocab()
    assert len(trained(rare, add_special_tokens=False)["input_ids"]) >= 3


@pytest.mark.parametrize("kind", KINDS)
def test_smallest_vocabulary_and_short_text(kind: str) -> None:
    assert 261 <= len(train(kind, TEXTS, 300)) <= 300 or kind == "wordpiece"
    assert len(train(kind, ["ba ke di lo. " * 3], 4096)) < 4096


def test_special_tokens(of_kind: dict[str, Any]) -> None:
    for trained in of_kind.values():
        special = loading.special_tokens(trained)
        assert (special.prefix, special.suffix) == ((trained.cls_token_id,), (trained.sep_token_id,))
        assert (special.pad, special.mask) == (trained.pad_token_id, trained.mask_token_id)
        assert set(special.all) == {0, 1, 2, 3, 4}


def test_train_kind_selects_the_model(folder: Path, tmp_path: Path) -> None:
    common = [f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path}/cache", "--tokenizer.train_vocab_size=400"]
    prepared = [prepare(parse([*common, f"--tokenizer.train_kind={kind}"])) for kind in KINDS]
    assert len({corpus.digest for corpus in prepared}) == 3
    models = [type(corpus.tokenizer.backend_tokenizer.model).__name__ for corpus in prepared]
    assert models == ["WordPiece", "BPE", "Unigram"]
    assert all(corpus.manifest["domain_tokens"] is None for corpus in prepared)


def test_large_corpus_is_sampled_by_its_documents(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_files, "GROUP_CHARS", 1)  # each document is read on its own
    source = [f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path}/cache", "--tokenizer.train_vocab_size=400"]
    corpus = prepare(parse([*source, "--corpus.deduplicate=none", "--corpus.validation_fraction=0"]))
    (path,) = (corpus.folder / "documents").glob("*.parquet")
    texts = [text for _, _, text in corpus.documents()]
    count = len(texts)
    everything = TrainingTexts([(path, np.ones(count, bool))])
    assert list(everything()) == texts and everything.num_chars == sum(map(len, texts))
    assert "sample" not in everything.describe()
    some = TrainingTexts([(path, np.ones(count, bool))], max_chars=everything.num_chars // 2)
    found = list(some())
    assert found == list(some()) and 5 <= len(found) <= 25 and set(found) < set(texts)
    assert "a sample by hash, 50.0%, of" in some.describe()
    # The sample depends on the documents themselves, not on their positions.
    wanted = np.array([text not in found[:2] for text in texts])
    unwanted = sum(len(text) for text, one in zip(texts, wanted, strict=True) if not one)
    fewer = TrainingTexts([(path, wanted)], max_chars=round(some.fraction * (some.num_chars - unwanted)))
    assert list(fewer()) == [text for text in found if text not in found[:2]]


def test_texts_outside_of_a_sample_are_not_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_files, "GROUP_CHARS", 1)
    corpus = prepare(parse([f"--corpus.source={folder}", f"--corpus.cache_dir={tmp_path}", "--corpus.min_chars=1"]))
    (path,) = (corpus.folder / "documents").glob("*.parquet")
    everything = [(path, np.ones(document_files.count(path), bool))]
    max_chars = TrainingTexts(everything).num_chars // 4
    read: list[str] = []
    read_group = pq.ParquetFile.read_row_group

    def recorded(file: Any, group: int, columns: list[str]) -> Any:
        read.extend(columns)
        return read_group(file, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", recorded)
    found = list(TrainingTexts(everything, max_chars)())
    assert 0 < read.count("text") == len(found) < len(everything[0][1]) / 2


def test_count_is_bounded_by_removing_the_rarest(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"often often seldom-{i} seldom-{i + 0.5}" for i in range(1000)]
    counts = count(texts, str.split, max_words=50)
    assert counts["often"] == 2000 and len(counts) <= 50
    assert count(texts, str.split)["seldom-3"] == 1
    assert training_texts.MAX_WORDS > 2000


def test_batch_tokenizer_gives_the_ids_of_the_tokenizer(of_kind: dict[str, Any]) -> None:
    for trained in of_kind.values():
        ids, lengths = BatchTokenizer(trained)(TEXTS)
        expected = [trained(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert ids.dtype == np.int32
        assert lengths.tolist() == [len(one) for one in expected]
        assert ids.tolist() == [i for one in expected for i in one]
        assert [part.size for part in BatchTokenizer(trained)([])] == [0, 0]


@pytest.mark.parametrize("method", ["nanotoken", "the word cache"])
def test_fast_method_is_used_until_it_disagrees_with_the_tokenizer(
    trained: Any, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if method == "nanotoken":
        pytest.importorskip("nanotoken")
    else:
        monkeypatch.setitem(sys.modules, "nanotoken", None)
    other = train("wordpiece", TEXTS[:3], 320)
    tokenizer = BatchTokenizer(trained)
    assert str(tokenizer.fast) == method
    tokenizer(TEXTS)
    assert tokenizer.fast is not None and not caplog.records
    tokenizer.fast = BatchTokenizer(other).fast  # it splits differently
    ids, _ = tokenizer(TEXTS)
    assert tokenizer.fast is None
    (warning,) = caplog.records
    assert warning.levelname == "WARNING" and "splits some text differently" in warning.getMessage()
    assert ids.tolist() == BatchTokenizer(trained)(TEXTS)[0].tolist()


HOSTILE = st.text(
    alphabet="aB é\u0301ß\x00\x0b\x1c\x85\xa0\u2028\u3000\ufffd中文.,-_[MASK]\n\r\t 01" + "\U0001f600", max_size=60
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(HOSTILE, max_size=6))
def test_word_cache_agrees_on_any_text(trained: Any, texts: list[str]) -> None:
    word_cache = WordCache.fit(trained.backend_tokenizer)
    assert word_cache is not None
    for _ in range(2):  # the second time all words are cached
        ids, lengths = word_cache(texts)
        expected, expected_lengths = ExactTokenizer(trained.backend_tokenizer)(texts)
        assert ids.tolist() == expected.tolist() and lengths.tolist() == expected_lengths.tolist()


def test_word_cache_is_bounded(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_tokenizer, "MAX_WORDS", 5)
    word_cache = WordCache.fit(trained.backend_tokenizer)
    assert word_cache is not None
    for texts in (["a b c", "d"], ["a e f", "g a"], ["b c"]):
        assert word_cache(texts)[0].tolist() == ExactTokenizer(trained.backend_tokenizer)(texts)[0].tolist()
        assert len(word_cache._numbers) <= 5


def test_word_cache_is_bounded_for_text_without_spaces(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_tokenizer, "MAX_CHARS", 1000)
    word_cache = WordCache.fit(trained.backend_tokenizer)
    assert word_cache is not None
    cached = []
    for i in range(20):
        texts = ["漢字" * 100 + f"{i}\nba ke", "ba di"]
        assert word_cache(texts)[0].tolist() == ExactTokenizer(trained.backend_tokenizer)(texts)[0].tolist()
        cached.append(sum(map(len, word_cache._numbers)))
        assert len(word_cache._ids) <= cached[-1]
    assert 500 < max(cached) <= 1000


def test_word_cache_is_not_used_for_tokens_that_cross_spaces(trained: Any) -> None:
    from tokenizers import AddedToken, Tokenizer

    for token in (AddedToken("two words"), AddedToken("<mask>", lstrip=True), AddedToken("<x>", rstrip=True)):
        backend = Tokenizer.from_str(trained.backend_tokenizer.to_str())
        backend.add_tokens([token])
        assert WordCache.fit(backend) is None


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_kind_without_a_fast_method_is_tokenized_exactly_and_without_a_warning(
    of_kind: dict[str, Any], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = BatchTokenizer(of_kind[kind])
    tokenizer(TEXTS)
    assert tokenizer.fast is None and not caplog.records


def test_tokenizer_without_mask_token_is_refused(trained: Any, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=trained.backend_tokenizer, pad_token="[PAD]")
    plain.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model\.name_or_path.*no mask token"):
        loading.load(str(tmp_path), "model.name_or_path")


def test_truncation_saved_in_a_tokenizer_does_not_shorten_documents(trained: Any, tmp_path: Path) -> None:
    loading.save(trained, tmp_path)
    cut = loading.load(str(tmp_path))
    cut.backend_tokenizer.enable_truncation(8)
    cut.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(BatchTokenizer(loading.load(str(tmp_path)))(TEXTS[:1])[0]) > 100
