"""Rows: where every token of every document goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mlm_dist.corpus import rows
from mlm_dist.corpus.tokens import SpecialTokens

PAD, MASK = 0, 4
SPECIALS = {
    "bert": SpecialTokens(prefix=(2,), suffix=(3,), pad=PAD, mask=MASK, all=(0, 2, 3, 4)),
    "none": SpecialTokens(prefix=(), suffix=(), pad=PAD, mask=MASK, all=(0, 4)),
    "many": SpecialTokens(prefix=(2, 5), suffix=(3, 6, 7), pad=PAD, mask=MASK, all=(0, 2, 3, 4, 5, 6, 7)),
    "one side": SpecialTokens(prefix=(), suffix=(3,), pad=PAD, mask=MASK, all=(0, 3, 4)),
}


def corpus(seed: int, num_documents: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Tokens and lengths of random documents, some of them empty; and the documents."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(0, 60, num_documents) * (draw.random(num_documents) > 0.2)
    ids = draw.integers(10, 1000, int(lengths.sum())).astype(np.int32)
    documents = [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if num_documents else []
    return ids, lengths.astype(np.int64), documents


def contents(block: rows.RowBlock, special: SpecialTokens) -> list[list[int]]:
    """What stands between the special tokens of each row, which must be where they belong."""
    found = []
    for row, length in zip(block.input_ids.tolist(), block.lengths.tolist(), strict=True):
        tokens, padding = row[:length], row[length:]
        assert set(padding) <= {special.pad}
        start, end = len(special.prefix), length - len(special.suffix)
        assert tuple(tokens[:start]) == special.prefix and tuple(tokens[end:]) == special.suffix
        found.append(tokens[start:end])
    return found


def rebuilt(parts: list[list[int]], room: int) -> list[list[int]]:
    """Documents put together again: a row that is not full ends one."""
    documents: list[list[int]] = [[]]
    for part in parts:
        documents[-1] += part
        if len(part) < room:
            documents.append([])
    return [document for document in documents if document]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", SPECIALS)
@pytest.mark.parametrize("max_length", [8, 16, 61])
def test_chunk_loses_no_token(seed: int, name: str, max_length: int) -> None:
    special = SPECIALS[name]
    room = max_length - len(special.prefix) - len(special.suffix)
    ids, lengths, documents = corpus(seed, 40)
    block = rows.window(ids, lengths, "chunk", max_length, special)
    expected = [document[i : i + room] for document in documents for i in range(0, len(document), room)]
    parts = contents(block, special)
    assert parts == expected and block.num_dropped == 0
    assert block.input_ids.shape == (len(expected), max_length)
    assert [token for part in parts for token in part] == ids.tolist()


def test_documents_can_be_put_together_again() -> None:
    ids, lengths, documents = corpus(3, 100)
    special = SPECIALS["bert"]
    keep = lengths % 14 != 0  # a document that fills its last row cannot be told from the next by its rows alone
    ids = ids[np.repeat(keep, lengths)]
    parts = contents(rows.window(ids, lengths[keep], "chunk", 16, special), special)
    assert rebuilt(parts, 14) == [document for document, kept in zip(documents, keep, strict=True) if kept]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", SPECIALS)
def test_truncate_keeps_the_beginning_of_each_document(seed: int, name: str) -> None:
    special = SPECIALS[name]
    room = 16 - len(special.prefix) - len(special.suffix)
    ids, lengths, documents = corpus(seed, 40)
    block = rows.window(ids, lengths, "truncate", 16, special)
    assert contents(block, special) == [document[:room] for document in documents if document]
    assert block.num_dropped == sum(max(0, len(document) - room) for document in documents)


@pytest.mark.parametrize("mode", ["chunk", "truncate"])
@pytest.mark.parametrize("length", [1, 13, 14, 15, 27, 28, 29])
def test_lengths_around_a_full_row(mode: str, length: int) -> None:
    ids = np.arange(100, 100 + length, dtype=np.int32)
    block = rows.window(ids, np.array([length]), mode, 16, SPECIALS["bert"])
    found = [token for part in contents(block, SPECIALS["bert"]) for token in part]
    assert found == (ids.tolist() if mode == "chunk" else ids[:14].tolist())
    assert len(block.lengths) == (-(-length // 14) if mode == "chunk" else 1)
    assert len(found) + block.num_dropped == length


@pytest.mark.parametrize("mode", ["chunk", "truncate"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_documents_without_tokens_get_no_row(mode: str, lengths: list[int]) -> None:
    block = rows.window(np.empty(0, np.int32), np.array(lengths, np.int64), mode, 16, SPECIALS["bert"])
    assert block.input_ids.shape == (0, 16) and len(block.lengths) == 0 and block.num_dropped == 0


@pytest.mark.parametrize("mode", ["chunk", "truncate"])
def test_empty_documents_between_others_change_nothing(mode: str) -> None:
    ids = np.arange(10, 50, dtype=np.int32)
    with_empty = rows.window(ids, np.array([0, 20, 0, 0, 5, 15, 0]), mode, 16, SPECIALS["bert"])
    without = rows.window(ids, np.array([20, 5, 15]), mode, 16, SPECIALS["bert"])
    np.testing.assert_array_equal(with_empty.input_ids, without.input_ids)
    np.testing.assert_array_equal(with_empty.lengths, without.lengths)


@pytest.mark.parametrize("mode", ["chunk", "truncate"])
def test_types_and_inputs_are_left_alone(mode: str) -> None:
    ids, lengths, _ = corpus(1, 20)
    before = ids.copy(), lengths.copy()
    block = rows.window(ids, lengths, mode, 16, SPECIALS["bert"])
    assert block.input_ids.dtype == np.int32 and block.lengths.dtype == np.int32
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(lengths, before[1])


@pytest.mark.parametrize("num_documents", [0, 30])
def test_written_rows_are_a_datasets_table(tmp_path: Path, num_documents: int) -> None:
    import datasets

    ids, lengths, _ = corpus(2, num_documents)
    block = rows.window(ids, lengths, "chunk", 16, SPECIALS["bert"])
    rows.write(tmp_path / "rows.arrow", block)
    with pa.OSFile(str(tmp_path / "rows.arrow")) as file:
        schema = pa.ipc.open_stream(file).schema
    assert schema.equals(rows.features(16).arrow_schema, check_metadata=True)
    found = datasets.Dataset.from_file(str(tmp_path / "rows.arrow"))
    assert found.features == rows.features(16)
    assert found["input_ids"][:] == block.input_ids.tolist() and found["length"][:] == block.lengths.tolist()


def test_written_rows_can_be_joined_and_loaded_from_disk(tmp_path: Path) -> None:
    import datasets

    expected = []
    for seed in range(3):
        ids, lengths, _ = corpus(seed, 10 * seed)  # the first has no rows
        block = rows.window(ids, lengths, "chunk", 16, SPECIALS["bert"])
        rows.write(tmp_path / f"{seed}.arrow", block)
        expected += block.input_ids.tolist()
    parts = [datasets.Dataset.from_file(str(tmp_path / f"{seed}.arrow")) for seed in range(3)]
    datasets.concatenate_datasets(parts).save_to_disk(str(tmp_path / "saved"))
    again = datasets.load_from_disk(str(tmp_path / "saved"))
    assert again.features == rows.features(16) and again["input_ids"][:] == expected
