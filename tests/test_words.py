"""Word starts: those of the tokenizer, stored beside the rows, shared between corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from making import made_up_text
from reading import rows_of_file
from specs import prepare
from test_tokens import HOSTILE, KINDS, ODD, TEXTS, train

from mlm_dist.config import parse
from mlm_dist.corpus import packing, pipeline, row_shards, rows
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading, word_starts
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer, WordCache
from mlm_dist.errors import CorpusError
from mlm_dist.files import mapped_array
from mlm_dist.resolve import corpus_spec

HARD = [*TEXTS[:3], ODD, "don't stop.Now, e.g. 1,234 (x-y) ftp://a.b/c", "", " ", "x" * 40 + " y", "a\u3000b"]


@pytest.fixture(scope="module")
def of_kind() -> dict[str, Any]:
    return {kind: train(kind) for kind in KINDS}


def split(marked: np.ndarray) -> tuple[list[int], list[bool]]:
    return (marked & ~word_starts.WORD_START).tolist(), (marked >= word_starts.WORD_START).tolist()


def by_word_ids(tokenizer: Any, text: str) -> list[bool]:
    """Word starts from the tokenizer's word ids; long words are split."""
    found, index, before = [], 0, None
    for word in tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).word_ids:
        index = index + 1 if word == before else 0
        found.append(index % word_starts.LONGEST == 0)
        before = word
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_word_starts_are_those_of_the_tokenizer(of_kind: dict[str, Any], kind: str) -> None:
    tokenizer = of_kind[kind]
    marked, lengths = BatchTokenizer(tokenizer, word_starts=True)(HARD)
    ids, begins = split(marked)
    plain, plain_lengths = BatchTokenizer(tokenizer)(HARD)
    assert ids == plain.tolist() and lengths.tolist() == plain_lengths.tolist() and marked.dtype == np.int32
    assert begins == [begin for text in HARD for begin in by_word_ids(tokenizer, text)]


def test_word_starts_do_not_follow_from_the_vocabulary(of_kind: dict[str, Any]) -> None:
    tokenizer = of_kind["bpe"]
    ids, begins = split(BatchTokenizer(tokenizer, word_starts=True)(["don't xt"])[0])
    found = list(zip(tokenizer.convert_ids_to_tokens(ids), begins, strict=True))
    assert ("'", True) in found or ("'t", True) in found
    assert ("t", False) in found, "whether a token begins a word must depend on its position"
    ids, begins = split(BatchTokenizer(tokenizer, word_starts=True)(["t"])[0])
    assert begins == [True]


def test_white_space_ends_a_word_if_the_tokenizer_does_not_split() -> None:
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="[UNK]"))
    backend.normalizer = normalizers.Replace(" ", "▁")  # as Gemma's, and so mmBERT's
    backend.train_from_iterator(
        [f"▁{word}" for text in TEXTS[:5] for word in text.split()],  # no token reaches over a space
        trainers.BpeTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False, max_token_length=6),
    )
    text = "ba kedi\nlo  mu\t\tsto "
    assert set(backend.encode(text).word_ids) == {0}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    ids, begins = split(BatchTokenizer(tokenizer, word_starts=True)([text, text])[0])
    assert ids[: len(ids) // 2] == ids[len(ids) // 2 :] and begins[: len(ids) // 2] == begins[len(ids) // 2 :]
    found: list[str] = []
    for token, begin in zip(tokenizer.convert_ids_to_tokens(ids[: len(ids) // 2]), begins, strict=False):
        found = [*found, token] if begin else [*found[:-1], found[-1] + token]
    # Line ends and tabs are unknown to it; a space at the end is a word.
    assert found == ["ba", "▁kedi", "[UNK]lo", "▁▁mu", "[UNK][UNK]sto", "▁"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=HOSTILE)
def test_word_cache_gives_the_word_starts_of_the_tokenizer(of_kind: dict[str, Any], text: str) -> None:
    backend = of_kind["wordpiece"].backend_tokenizer
    exact = word_starts.WordStartTokenizer(backend)
    word_cache = WordCache.fit(backend, exact)
    assert word_cache is not None
    for _ in range(2):
        for one, other in zip(word_cache([text, "ba ke", text]), exact([text, "ba ke", text]), strict=True):
            np.testing.assert_array_equal(one, other)


COMMON = ("--tokenizer.train_vocab_size=400", "--rows.max_length=30", "--corpus.validation_fraction=0.2")


def prepared(folder: Path, cache: Path, *arguments: str) -> PreparedCorpus:
    return prepare(parse([f"--corpus.source={folder}", f"--corpus.cache_dir={cache}", *COMMON, *arguments]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["truncate", "chunk", "pack"])
def test_rows_have_word_starts(folder: Path, tmp_path: Path, mode: str, kind: str) -> None:
    arguments = (f"--rows.mode={mode}", f"--tokenizer.train_kind={kind}", "--masking.unit=word")
    corpus = prepared(folder, tmp_path / "cache", *arguments)
    tokenizer, special, table = corpus.tokenizer, loading.special_tokens(corpus.tokenizer), corpus.rows("train")
    room = 30 - 2
    expected: list[tuple[list[int], list[bool]]] = []
    for _, side, text in corpus.documents():
        if side == "train":
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            begins = by_word_ids(tokenizer, text)
            starts = range(0, room if mode == "truncate" else len(ids), room)
            expected += [(ids[i : i + room], begins[i : i + room]) for i in starts]
    found = []
    everything = np.arange(len(table))
    lengths, counts = table.chunks(everything)
    left = iter(lengths.tolist())
    for ids, begins, count in zip(table.take(everything), table.word_starts(everything), counts.tolist(), strict=True):
        end = 0
        for _ in range(count):
            begin, end = end, end + next(left)
            found.append((ids[begin + 1 : end - 1].tolist(), begins[begin + 1 : end - 1].tolist()))
        assert not begins[np.isin(ids, special.all)].any()
    assert sorted(found) == sorted(expected) and any(not all(begins) for _, begins in found)
    draw = np.random.default_rng(0).integers(0, len(table), 50)
    np.testing.assert_array_equal(table.word_starts(draw), table.word_starts(everything)[draw])


def test_corpora_share_all_files_but_word_starts(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = prepared(folder, cache)
    scheduled = prepared(folder, cache, "--masking.final_probability=0.3", "--masking.probability=0.2")
    word, span = (prepared(folder, cache, f"--masking.unit={unit}") for unit in ("word", "span"))
    assert plain.digest == scheduled.digest != word.digest == span.digest
    assert "words" not in plain.manifest["config"] and not list(plain.folder.rglob("*.words*"))
    mine = {name for name in word.manifest["files"] if ".words" in name}
    shards = [name for name in plain.manifest["files"] if name.split("/")[0] in ("documents", "train", "validation")]
    assert len(mine) == 2 * len(word.manifest["shards"])
    for name in (name for name in shards if name.endswith((".arrow", ".parquet"))):
        assert (word.folder / name).samefile(plain.folder / name), name
    kept = {name: file for name, file in plain.manifest["files"].items() if name.startswith(("train/", "shards/"))}
    state = "train/state.json"  # it holds the digest
    assert {name: word.manifest["files"][name] for name in kept if name != state} == {
        name: file for name, file in kept.items() if name != state
    }
    # And in the other order.
    other = tmp_path / "other"
    first = prepared(folder, other, "--masking.unit=span")
    again = prepared(folder, other)
    assert again.manifest == plain.manifest
    assert (first.folder / shards[-1]).exists()
    config = parse([f"--corpus.source={folder}", f"--corpus.cache_dir={other}", *COMMON, "--masking.unit=word"])
    found = pipeline.find(corpus_spec(config))
    assert found[0] is not None and found[0].digest == first.digest


def test_interrupted_word_starts_continue(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    whole = prepared(folder, tmp_path / "whole", "--masking.unit=word")
    with monkeypatch.context() as patched:
        patched.setattr(word_starts, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            prepared(folder, tmp_path / "cache", "--masking.unit=word")
    with monkeypatch.context() as patched:
        patched.setattr(row_shards, "make", stop)
        assert prepared(folder, tmp_path / "cache", "--masking.unit=word").manifest == whole.manifest


def test_rows_of_another_tokenizer_are_refused(of_kind: dict[str, Any], tmp_path: Path) -> None:
    special = loading.special_tokens(of_kind["bpe"])
    texts = [made_up_text(i, 50) for i in range(5)]
    plain, marked = (BatchTokenizer(of_kind["bpe"], word_starts=marking)(texts) for marking in (False, True))
    path = tmp_path / "rows.arrow"

    def write(ids: np.ndarray, lengths: np.ndarray) -> None:
        word_starts.write(
            tmp_path / "x.npy", rows_of_file(path, 16), [packing.make_rows(ids, lengths, "chunk", 16, special)]
        )

    rows.write(path, 16, [packing.make_rows(*plain, "chunk", 16, special)])
    write(*marked)
    num_rows = len(rows_of_file(path, 16))
    assert mapped_array(tmp_path / "x.npy").shape == (num_rows, 2)
    other = marked[0].copy()
    other[100] ^= 1
    for ids, lengths in ((other, marked[1]), (marked[0][: lengths_of(marked)], marked[1][:-1])):
        with pytest.raises(CorpusError, match=r"^masking\.unit: .*nanotoken"):
            write(ids, lengths)


def lengths_of(encoded: tuple[np.ndarray, np.ndarray]) -> int:
    """Tokens of all texts but the last."""
    return int(encoded[1][:-1].sum())
