"""Special tokens in documents are ordinary text, and text that a tokenizer does not know is counted or refused."""

# ruff: noqa: RUF001  # letters of many scripts look alike

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import made_up_text
from specs import prepare
from test_encodings import TEXTS as PARAGRAPHS
from tokenizers import AddedToken, Tokenizer

from mlm_dist.config import parse
from mlm_dist.corpus import summary
from mlm_dist.corpus.tokenizer import loading, ordinary_text, training
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer, ExactTokenizer, Nanotoken, WordCache
from mlm_dist.errors import CorpusError
from mlm_dist.terminal.console import text_of

KINDS = ("wordpiece", "bpe", "unigram")
ENGLISH = [made_up_text(i, 200) for i in range(30)]
MARKED = [
    "a [MASK] b [SEP][CLS]ke [UNK] [PAD] [mask]",
    "the special tokens [MASK], [MASK]s and [MASK][MASK] are text",
    "in other tokenizers <mask> </s> <s> <unk> <pad> <|endoftext|> <0x41>",
    " [MASK]\n[SEP] \u2581[MASK] \u0120[MASK]",
    "\U0010ffff[MASK] \U0010ffff [MASK]",
]
SCRIPTS = PARAGRAPHS | {
    "amharic": "ዛሬ ጠዋት ከጓደኞቻችን ጋር ወደ ባሕር ሄድን። አየሩ ጥሩ ነበር፣ ልጆቹም እስከ ማታ ድረስ በአሸዋ ላይ ተጫወቱ።",
    "hindi": "आज सुबह हम अपने दोस्तों के साथ समुद्र के किनारे गए। मौसम अच्छा था और बच्चे शाम तक रेत में खेलते रहे।",
    "khmer": "ព្រឹកនេះយើងបានទៅសមុទ្រជាមួយមិត្តភក្តិ។អាកាសធាតុល្អណាស់ហើយក្មេងៗលេងខ្សាច់រហូតដល់ល្ងាច។" * 2,
    "lao": "ເຊົ້ານີ້ພວກເຮົາໄປທະເລກັບໝູ່ອາກາດດີຫຼາຍແລະເດັກນ້ອຍຫຼິ້ນດິນຊາຍຈົນເຖິງຕອນແລງແລ້ວແມ່ເຖົ້າກໍ່ເອີ້ນທຸກຄົນກັບບ້ານ" * 2,
    "tamil": "இன்று காலை நாங்கள் நண்பர்களுடன் கடற்கரைக்குச் சென்றோம். வானிலை நன்றாக இருந்தது.",
    "georgian": "დღეს დილით მეგობრებთან ერთად ზღვაზე წავედით. ამინდი კარგი იყო და ბავშვები საღამომდე თამაშობდნენ.",
    "armenian": "Այսօր առավոտյան մենք ընկերների հետ գնացինք ծով։ Եղանակը լավ էր, և երեխաները խաղացին մինչև երեկո։",
}


def train(kind: str, texts: list[str] = ENGLISH, size: int = 400, uncased: bool | None = None) -> Any:
    return training.train(kind, lambda: texts, size, 64, uncased)


@pytest.fixture(scope="module")
def of_kind() -> dict[str, Any]:
    """A tokenizer of each kind, trained on texts in which all characters of `MARKED` occur."""
    return {kind: train(kind, ENGLISH + MARKED) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_name_of_a_special_token_in_a_text_is_ordinary_text(of_kind: dict[str, Any], kind: str) -> None:
    tokenizer = of_kind[kind]
    special = set(loading.special_tokens(tokenizer).all)
    for text in MARKED:
        ids, _ = BatchTokenizer(tokenizer)([text])
        assert not special & set(ids.tolist())
        if "\U0010ffff" not in text:
            said, expected = tokenizer.decode(ids), text.lower() if kind == "wordpiece" else text
            assert re.sub(r"[\s\u2581]", "", said) == re.sub(r"[\s\u2581]", "", expected)
    # Users of the trained model still write the mask token.
    assert tokenizer("a [MASK] b")["input_ids"].count(tokenizer.mask_token_id) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_text_without_special_tokens_gives_the_tokenizers_own_ids(of_kind: dict[str, Any], kind: str) -> None:
    hidden = ordinary_text.backend(of_kind[kind])
    for text in (*ENGLISH, "", "É ﬁ漢字 ", "\u2581x"):
        assert hidden.encode(text).ids == of_kind[kind](text)["input_ids"]


@pytest.mark.parametrize("name", ["nanotoken", "the word cache"])
def test_fast_methods_agree_on_special_tokens(
    of_kind: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if name == "nanotoken":
        pytest.importorskip("nanotoken")
    else:
        monkeypatch.setitem(sys.modules, "nanotoken", None)
    tokenizer = of_kind["wordpiece"]
    batch = BatchTokenizer(tokenizer)
    assert str(batch.fast) == name and isinstance(batch.fast, (Nanotoken, WordCache))
    texts = [*MARKED, *(f"{text} {MARKED[i % 3]}" for i, text in enumerate(ENGLISH))]
    for one in ([text] for text in texts):
        assert batch.fast(one)[0].tolist() == ExactTokenizer(ordinary_text.backend(tokenizer))(one)[0].tolist()
    batch(texts)
    assert batch.fast is not None and not caplog.records


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens_are_found_unless_they_are_special(of_kind: dict[str, Any], kind: str) -> None:
    tokenizer = loading_copy(of_kind[kind])
    tokenizer.add_tokens([AddedToken("blorbfizz", single_word=True)])
    tokenizer.add_tokens([AddedToken("<ctrl>", special=True)], special_tokens=True)
    tokenizer.add_tokens([AddedToken("quuxword", single_word=True)])
    plain, control, last = (tokenizer.convert_tokens_to_ids(one) for one in ("blorbfizz", "<ctrl>", "quuxword"))
    ids = BatchTokenizer(tokenizer)(["ba blorbfizz ke <ctrl> di quuxword [MASK]"])[0].tolist()
    assert (ids.count(plain), ids.count(control), ids.count(last)) == (1, 0, 1)
    assert tokenizer.mask_token_id not in ids


def loading_copy(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copy, **tokenizer.special_tokens_map)


def test_special_token_that_is_a_word_or_a_letter_of_bpe() -> None:
    """A tokenizer may name any token as special, even one that other words are built of."""
    tokenizer = loading_copy(train("bpe", ENGLISH))
    tokenizer.add_special_tokens({"pad_token": "a", "additional_special_tokens": ["Ġba"]})
    ids = BatchTokenizer(tokenizer)(["ke bake ba"])[0]
    assert tokenizer.decode(ids) == "ke bake ba"


def of(source: Path, cache: Path, *flags: str) -> Any:
    common = [f"--corpus.source={source}", f"--corpus.cache_dir={cache}", "--corpus.min_chars=1"]
    return parse([*common, "--rows.max_length=32", "--corpus.validation_fraction=0.2", *flags])


@pytest.fixture
def english(tmp_path: Path) -> Path:
    """The folder of a tokenizer that knows ASCII only."""
    loading.save(train("wordpiece"), tmp_path / "english")
    return tmp_path / "english"


def write(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    for i, text in enumerate(texts):
        (folder / f"{i}.md").write_text(text, "utf-8")
    return folder


def test_mask_token_in_documents_is_not_masked_text(tmp_path: Path, english: Path) -> None:
    texts = [f"{text} The token [MASK] is replaced, and so is [MASK]." for text in ENGLISH]
    for unit in ("token", "word"):
        folder = write(tmp_path / unit, texts)
        flags = [f"--tokenizer.path={english}", f"--masking.unit={unit}"]
        corpus = prepare(of(folder, tmp_path / "cache", *flags))
        special = loading.special_tokens(corpus.tokenizer)
        rows = np.concatenate([corpus.rows(split).take(np.arange(len(corpus.rows(split)))) for split in ("train",)])
        assert (rows == special.mask).sum() == 0
        assert (rows == special.suffix[0]).sum() == (rows == special.prefix[0]).sum()


def test_unknown_tokens_are_counted_and_warned_of(
    tmp_path: Path, english: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chinese = PARAGRAPHS["chinese"]
    folder = write(tmp_path / "mixed", [f"{text} {chinese[i : i + 9]}" for i, text in enumerate(ENGLISH)])
    flags = [f"--tokenizer.path={english}"]
    corpus = prepare(of(folder, tmp_path / "cache", *flags))
    unknown = corpus.tokenizer.unk_token_id
    ids = [corpus.tokenizer(text, add_special_tokens=False)["input_ids"] for _, _, text in corpus.documents()]
    tokens = corpus.manifest["tokens"]
    assert tokens["unknown"] == sum(one.count(unknown) for one in ids) > 100
    assert tokens["unknown"] < tokens["kept"] == sum(map(len, ids))
    share = tokens["unknown"] / tokens["kept"]
    assert summary.unknown_share(corpus.manifest) == share > 0.01
    (record,) = (one for one in caplog.records if "unknown to the tokenizer" in one.getMessage())
    assert record.levelno == logging.WARNING and f"{share:.1%} of the tokens" in record.getMessage()
    table = text_of(summary.table(corpus.manifest, "x"))
    assert f"unknown to the tokenizer ({share:.1%})" in table
    caplog.clear()
    prepare(of(folder, tmp_path / "cache", *flags))  # from the cache
    assert sum("unknown to the tokenizer" in one.getMessage() for one in caplog.records) == 1


def test_known_text_is_not_warned_of(tmp_path: Path, english: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = prepare(of(write(tmp_path / "d", ENGLISH), tmp_path / "cache", f"--tokenizer.path={english}"))
    assert corpus.manifest["tokens"]["unknown"] == 0
    assert not [one for one in caplog.records if "unknown" in one.getMessage()]


@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_corpus_without_a_known_token_is_refused(tmp_path: Path, english: Path, validation: float) -> None:
    syllables = sorted(set(re.sub(r"\W", "", SCRIPTS["amharic"])))
    draw = np.random.default_rng(0)
    texts = [" ".join("".join(draw.choice(syllables, 4)) for _ in range(30)) for _ in range(20)]
    folder = write(tmp_path / "d", texts)
    config = of(
        *(folder, tmp_path / "cache", f"--tokenizer.path={english}", "--corpus.deduplicate=none"),
        f"--corpus.validation_fraction={validation}",
    )
    with pytest.raises(CorpusError, match=r"tokenizer\.path: all .* tokens .* unknown .* nothing to predict"):
        prepare(config)
    assert not list((tmp_path / "cache").glob("*/manifest.json"))


def squeezed(text: str) -> str:
    """A text without spaces, case and control characters."""
    return re.sub(r"[\s\u200b-\u200f]", "", unicodedata.normalize("NFKC", text)).lower()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", SCRIPTS)
def test_trained_tokenizer_serves_every_script(kind: str, language: str) -> None:
    text = SCRIPTS[language]
    texts = [text, *(text[i : i + 40] for i in range(0, len(text), 20))]
    tokenizer = train(kind, texts, 1000)
    ids, lengths = BatchTokenizer(tokenizer)(texts)
    assert not (ids == tokenizer.unk_token_id).any()
    for one, expected in zip(np.split(ids, np.cumsum(lengths)[:-1]), texts, strict=True):
        assert squeezed(tokenizer.decode(one)) == squeezed(expected)


@pytest.mark.parametrize("language", ["thai", "khmer", "lao", "japanese", "chinese"])
def test_long_text_without_spaces_is_split(language: str) -> None:
    text = SCRIPTS[language].replace(" ", "") * 30
    tokenizer = train("wordpiece", [text], 1000)
    ids, _ = BatchTokenizer(tokenizer)([text])
    assert tokenizer.unk_token_id not in ids.tolist() and len(ids) > len(text) / 101
    assert squeezed(tokenizer.decode(ids)) == squeezed(text)


def test_letters_fill_the_vocabulary_if_there_is_room() -> None:
    """Each Chinese character is a word of its own, so that there are no longer pieces."""
    letters = "".join(chr(0x4E00 + i) for i in range(900))
    texts = [letters[i:] for i in range(0, 900, 5)]
    tokenizer = train("wordpiece", texts, 1000)
    assert len(tokenizer) == 5 + 900
    assert tokenizer.unk_token_id not in tokenizer(letters)["input_ids"]
    small = train("wordpiece", texts, 500)
    assert len(small) == 500
    known = [letter for letter in letters if letter in small.get_vocab()]
    assert known == list(letters[-495:])  # the most frequent


@pytest.mark.parametrize("kind", KINDS)
def test_accents_and_marks_stay_unless_uncased(kind: str) -> None:
    words = ["Ärger", "café", "naïve", "ガギグゲゴ", "パピプ", "Ελλάδα", "Їжак", "한국어", "İstanbul"]
    texts = [" ".join(words)] * 20
    kept = train(kind, texts, 500)
    said = kept.decode(kept(" ".join(words))["input_ids"], skip_special_tokens=True)
    lower = " ".join(words).lower() if kind == "wordpiece" else " ".join(words)
    assert unicodedata.normalize("NFC", said) == unicodedata.normalize("NFC", lower)
    plain = train(kind, texts, 500, uncased=True)
    said = plain.decode(plain(" ".join(words))["input_ids"], skip_special_tokens=True)
    assert said.strip() == "arger cafe naive カキクケコ ハヒフ ελλαδα іжак 한국어 istanbul"
    cased = train(kind, texts, 500, uncased=False)
    assert cased.decode(cased(" ".join(words))["input_ids"], skip_special_tokens=True) == " ".join(words)


def test_hangul_is_whole_in_any_form() -> None:
    text = PARAGRAPHS["korean"]
    tokenizer = train("wordpiece", [text], 1000)
    taken_apart = unicodedata.normalize("NFD", text)
    assert tokenizer(taken_apart)["input_ids"] == tokenizer(text)["input_ids"]
    assert len(tokenizer.tokenize("오늘")) <= 2


def test_uncased_is_a_key_of_the_config(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [f"Über {text}" for text in ENGLISH])
    flags = ["--tokenizer.train_vocab_size=400"]
    lower, plain, cased = (
        prepare(of(folder, tmp_path / "cache", *flags, f"--tokenizer.train_uncased={value}")).tokenizer
        for value in ("null", "true", "false")
    )
    said = [one.decode(one("Über")["input_ids"], skip_special_tokens=True) for one in (lower, plain, cased)]
    assert said == ["über", "uber", "Über"]
