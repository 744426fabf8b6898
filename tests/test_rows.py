"""Rows: every token of every document is where it should be."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from reading import rows_of_file

from mlm_dist.corpus import packing, rows
from mlm_dist.corpus.row_counts import RowCounts
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.files import write_array

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


def chunks(block: packing.RowBlock) -> list[list[list[int]]]:
    """The chunks of each row, after checking that they fill it from its beginning and padding follows."""
    found, lengths = [], iter(block.lengths.tolist())
    assert len(block.lengths) == block.num_chunks.sum() and (block.num_chunks > 0).all()
    for row, count in zip(block.input_ids.tolist(), block.num_chunks.tolist(), strict=True):
        ends = np.cumsum([0, *(next(lengths) for _ in range(count))]).tolist()
        assert set(row[ends[-1] :]) <= {PAD}
        found.append([row[begin:end] for begin, end in pairwise(ends)])
    return found


def contents(block: packing.RowBlock, special: SpecialTokens) -> list[list[int]]:
    """The tokens between the special tokens of each chunk, after checking the special tokens."""
    found = []
    for chunk in (chunk for row in chunks(block) for chunk in row):
        start, end = len(special.prefix), len(chunk) - len(special.suffix)
        assert tuple(chunk[:start]) == special.prefix and tuple(chunk[end:]) == special.suffix
        found.append(chunk[start:end])
    return found


def rebuilt(parts: list[list[int]], room: int) -> list[list[int]]:
    """Documents reassembled from chunks: a chunk that is not full ends one."""
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
    block = packing.make_rows(ids, lengths, "chunk", max_length, special)
    expected = [document[i : i + room] for document in documents for i in range(0, len(document), room)]
    parts = contents(block, special)
    assert parts == expected and block.num_dropped == 0
    assert block.input_ids.shape == (len(expected), max_length) and (block.num_chunks == 1).all()
    assert [token for part in parts for token in part] == ids.tolist()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", SPECIALS)
@pytest.mark.parametrize("max_length", [8, 16, 61])
def test_pack_holds_the_chunks_of_mode_chunk(seed: int, name: str, max_length: int) -> None:
    special = SPECIALS[name]
    ids, lengths, _ = corpus(seed, 40)
    ids = np.arange(10, 10 + len(ids), dtype=np.int32)  # so that all chunks are distinct
    chunk = packing.make_rows(ids, lengths, "chunk", max_length, special)
    pack = packing.make_rows(ids, lengths, "pack", max_length, special)
    assert pack.num_dropped == 0 and pack.input_ids.shape[1] == max_length
    assert sorted(contents(pack, special)) == contents(chunk, special)
    used = [sum(map(len, row)) for row in chunks(pack)]
    assert max(used) <= max_length and (len(used) < len(chunk.input_ids) or max_length == 8)
    assert sum(tokens <= max_length // 2 for tokens in used) <= 1, "two rows would have fitted in one"
    order = [[chunk[len(special.prefix)] for chunk in row] for row in chunks(pack)]
    assert all(row == sorted(row) for row in order) and order == sorted(order)


def test_packed_rows_are_nearly_full() -> None:
    draw = np.random.default_rng(0)
    for max_length, mean in ((128, 5.0), (128, 8.0), (512, 5.0), (512, 7.0)):
        lengths = draw.lognormal(mean, 1.0, 2000).astype(np.int64) + 1
        ids = np.full(int(lengths.sum()), 10, np.int32)
        block = packing.make_rows(ids, lengths, "pack", max_length, SPECIALS["bert"])
        assert block.lengths.sum() > 0.99 * block.input_ids.size


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([10, 10], [0, 1]),
        ([3, 10, 7], [0, 1, 0]),
        ([6, 5, 4, 5], [0, 1, 0, 1]),  # the fullest row that has room, not the first
        ([2, 7, 8, 1], [0, 1, 0, 1]),
        ([5, 5, 5, 5, 5], [0, 0, 1, 1, 2]),
        ([1] * 12, [0] * 10 + [1] * 2),
    ],
)
def test_best_fit(sizes: list[int], expected: list[int]) -> None:
    assert packing.best_fit(np.array(sizes, np.int64), 10).tolist() == expected


def test_best_fit_follows_its_definition() -> None:
    draw = np.random.default_rng(4)
    for capacity in (8, 30, 64):
        sizes = draw.integers(1, capacity + 1, 300)
        left: list[int] = []
        homes: dict[int, list[int]] = {}
        for i in np.argsort(-sizes, kind="stable").tolist():
            fitting = [room for room in left if room >= sizes[i]]
            if fitting:
                # Any of several equally full rows may be chosen; only the sums are defined.
                left[left.index(min(fitting))] -= int(sizes[i])
            else:
                left.append(capacity - int(sizes[i]))
        row = packing.best_fit(sizes, capacity)
        for i, home in enumerate(row.tolist()):
            homes.setdefault(home, []).append(int(sizes[i]))
        assert sorted(capacity - sum(held) for held in homes.values()) == sorted(left)


def test_documents_can_be_put_together_again() -> None:
    ids, lengths, documents = corpus(3, 100)
    special = SPECIALS["bert"]
    keep = lengths % 14 != 0  # a document that fills its last row cannot be told from the next by its rows alone
    ids = ids[np.repeat(keep, lengths)]
    parts = contents(packing.make_rows(ids, lengths[keep], "chunk", 16, special), special)
    assert rebuilt(parts, 14) == [document for document, kept in zip(documents, keep, strict=True) if kept]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", SPECIALS)
def test_truncate_keeps_the_beginning_of_each_document(seed: int, name: str) -> None:
    special = SPECIALS[name]
    room = 16 - len(special.prefix) - len(special.suffix)
    ids, lengths, documents = corpus(seed, 40)
    block = packing.make_rows(ids, lengths, "truncate", 16, special)
    assert contents(block, special) == [document[:room] for document in documents if document]
    assert block.num_dropped == sum(max(0, len(document) - room) for document in documents)


@pytest.mark.parametrize("mode", ["chunk", "truncate", "pack"])
@pytest.mark.parametrize("length", [1, 13, 14, 15, 27, 28, 29])
def test_lengths_around_a_full_row(mode: str, length: int) -> None:
    ids = np.arange(100, 100 + length, dtype=np.int32)
    block = packing.make_rows(ids, np.array([length]), mode, 16, SPECIALS["bert"])
    found = [token for part in contents(block, SPECIALS["bert"]) for token in part]
    assert found == (ids[:14].tolist() if mode == "truncate" else ids.tolist())
    assert len(block.lengths) == (1 if mode == "truncate" else -(-length // 14))
    assert len(found) + block.num_dropped == length


@pytest.mark.parametrize("mode", ["chunk", "truncate", "pack"])
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]])
def test_documents_without_tokens_get_no_row(mode: str, lengths: list[int]) -> None:
    block = packing.make_rows(np.empty(0, np.int32), np.array(lengths, np.int64), mode, 16, SPECIALS["bert"])
    assert block.input_ids.shape == (0, 16) and block.num_dropped == 0
    assert len(block.lengths) == 0 and len(block.num_chunks) == 0


@pytest.mark.parametrize("mode", ["chunk", "truncate", "pack"])
def test_empty_documents_between_others_change_nothing(mode: str) -> None:
    ids = np.arange(10, 50, dtype=np.int32)
    with_empty = packing.make_rows(ids, np.array([0, 20, 0, 0, 5, 15, 0]), mode, 16, SPECIALS["bert"])
    without = packing.make_rows(ids, np.array([20, 5, 15]), mode, 16, SPECIALS["bert"])
    np.testing.assert_array_equal(with_empty.input_ids, without.input_ids)
    np.testing.assert_array_equal(with_empty.lengths, without.lengths)
    np.testing.assert_array_equal(with_empty.num_chunks, without.num_chunks)


@pytest.mark.parametrize("mode", ["chunk", "truncate", "pack"])
def test_inputs_are_not_changed(mode: str) -> None:
    ids, lengths, _ = corpus(1, 20)
    before = ids.copy(), lengths.copy()
    block = packing.make_rows(ids, lengths, mode, 16, SPECIALS["bert"])
    assert block.input_ids.dtype == block.lengths.dtype == block.num_chunks.dtype == np.int32
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(lengths, before[1])


def lengths_by_row(block: packing.RowBlock) -> list[list[int]]:
    return [[len(chunk) for chunk in row] for row in chunks(block)]


@pytest.mark.parametrize("num_documents", [0, 30])
def test_written_rows_are_a_datasets_table(tmp_path: Path, num_documents: int) -> None:
    import datasets

    ids, lengths, _ = corpus(2, num_documents)
    block = packing.make_rows(ids, lengths, "pack", 16, SPECIALS["bert"])
    rows.write(tmp_path / "rows.arrow", 16, [block])
    with pa.OSFile(str(tmp_path / "rows.arrow")) as file:
        schema = pa.ipc.open_stream(file).schema
    assert schema.equals(rows.features(16).arrow_schema, check_metadata=True)
    found = datasets.Dataset.from_file(str(tmp_path / "rows.arrow"))
    assert found.features == rows.features(16)
    assert found["input_ids"][:] == block.input_ids.tolist() and found["lengths"][:] == lengths_by_row(block)


def written(folder: Path, mode: str) -> tuple[rows.RowTable, list[list[int]], list[list[int]]]:
    """The table of three files with no, one and two blocks with rows; its rows, and the lengths of their chunks."""
    expected: list[list[int]] = []
    expected_lengths: list[list[int]] = []
    files, counts = [folder / f"{i}.arrow" for i in range(3)], RowCounts()
    for i, path in enumerate(files):
        blocks = [packing.make_rows(*corpus(seed, 10 * seed)[:2], mode, 16, SPECIALS["bert"]) for seed in range(i + 1)]
        rows.write(path, 16, blocks)  # the first block of each file has no rows
        for block in blocks:
            expected += block.input_ids.tolist()
            expected_lengths += lengths_by_row(block)
            counts += RowCounts.of(block.lengths, block.num_chunks)
    return rows.RowTable(files, rows.joined(list(map(rows.blocks_of, files))), 16, counts), expected, expected_lengths


@pytest.mark.parametrize("mode", ["chunk", "pack"])
def test_rows_of_several_files_are_read_in_any_order(tmp_path: Path, mode: str) -> None:
    table, expected, expected_lengths = written(tmp_path, mode)
    assert len(table) == len(expected)
    wanted = np.random.default_rng(0).integers(0, len(table), 100)
    for some in (wanted, wanted[:0], np.arange(len(table))):
        assert table.take(some).tolist() == [expected[i] for i in some]
        flat, counts = table.chunks(some)
        assert counts.tolist() == [len(expected_lengths[i]) for i in some]
        assert flat.tolist() == [length for i in some for length in expected_lengths[i]]


def test_word_starts_of_several_blocks_and_files_are_read_in_any_order(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    files, starts, blocks, expected = [], [], [], []
    for i in range(2):
        files.append(tmp_path / f"{i}.arrow")
        starts.append(tmp_path / f"{i}.npy")
        some = [packing.make_rows(*corpus(seed, 20)[:2], "pack", 16, SPECIALS["bert"]) for seed in (i, i + 5)]
        rows.write(files[-1], 16, some)
        marked = [draw.random(one.input_ids.shape) < 0.5 for one in some]
        write_array(starts[-1], np.packbits(np.concatenate(marked), axis=1))
        blocks.append(rows.blocks_of(files[-1]))
        expected += [row.tolist() for one in marked for row in one]
    assert list(map(len, blocks)) == [2, 2]
    table = rows.RowTable(files, rows.joined(blocks), 16, RowCounts(), starts)
    wanted = draw.integers(0, len(table), 100)
    assert table.word_starts(wanted).tolist() == [expected[i] for i in wanted]


@pytest.mark.parametrize("mode", ["chunk", "pack"])
def test_counts_of_rows(tmp_path: Path, mode: str) -> None:
    table, _, lengths = written(tmp_path, mode)
    counts = table.counts
    assert (counts.rows, counts.chunks) == (len(lengths), sum(map(len, lengths)))
    assert (counts.tokens, counts.longest) == (sum(map(sum, lengths)), max(map(max, lengths)))
    assert counts.per_row == {n: sum(len(one) == n for one in lengths) for n in set(map(len, lengths))}
    assert RowCounts.from_json(json.loads(json.dumps(counts.to_json()))) == counts
    other = RowCounts(20, 17, {2: 1, 99: 3})
    assert (
        counts + other
        == other + counts
        == RowCounts(counts.tokens + 20, 17, {**counts.per_row, 2: counts.per_row.get(2, 0) + 1, 99: 3})
    )


def test_files_of_rows_stay_closed(tmp_path: Path) -> None:
    """A process may have fewer open files than a corpus has."""
    table, _, _ = written(tmp_path, "pack")
    before = len(os.listdir("/proc/self/fd"))
    table.take(np.arange(len(table)))
    assert len(os.listdir("/proc/self/fd")) == before


def test_compressed_rows_have_no_blocks(tmp_path: Path) -> None:
    written(tmp_path, "pack")
    with pa.memory_map(str(tmp_path / "2.arrow")) as source:
        table = pa.ipc.open_stream(source).read_all()
    zstd, small = pa.ipc.IpcWriteOptions(compression="zstd"), tmp_path / "small"
    with (
        pa.OSFile(str(small), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema, options=zstd) as stream,
    ):
        stream.write_table(table)
    with pytest.raises(ValueError, match="not stored"):
        rows.blocks_of(small)


def test_tables_without_rows_can_be_opened(tmp_path: Path) -> None:
    rows.write(tmp_path / "none.arrow", 16, [])
    assert len(rows_of_file(tmp_path / "none.arrow", 16)) == 0
