"""Splits, groups and token ids that records bring along, from the files to the rows."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import comparing
import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import selection
from mlm_dist.corpus.readers.record_fields import side_of, side_of_path
from mlm_dist.corpus.split_labels import NO_GROUP, NO_SIDE, SplitLabels, group_key
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import CorpusError

TRAIN, VALIDATION = selection.TRAIN, selection.VALIDATION


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def corpus(source: Path, cache: Path, *flags: str) -> PreparedCorpus:
    """A small corpus."""
    common = ["--rows.max_length=32", "--corpus.validation_fraction=0.2"]
    if not any(flag.startswith("--tokenizer") for flag in flags):
        common.append("--tokenizer.train_vocab_size=400")
    return prepare(parse([f"--corpus.source={source}", f"--corpus.cache_dir={cache}", *common, *flags]))


def texts(count: int) -> list[str]:
    return [made_up_text(i, 60) for i in range(count)]


def sides(found: PreparedCorpus) -> dict[str, str]:
    """{text: split} of all kept documents."""
    return {text: split for _, split, text in found.documents()}


def chosen(side: list[int], group: list[str | None] | None = None, fraction: float = 0.3, **keys: Any) -> list[int]:
    """The sides that are chosen for distinct documents with labels."""
    found = texts(len(side))
    groups = np.array([group_key(value) for value in group or [None] * len(side)], np.uint64)
    result = selection.select(
        comparing.documents(found),
        near_threshold=0.8,
        validation_fraction=fraction,
        labels=SplitLabels(np.array(side, np.int8), groups),
        **({"deduplicate": "near"} | keys),
    )
    answer: list[int] = result.side.tolist()
    return answer


# --- labels ---


@pytest.mark.parametrize(
    ("value", "side"),
    [
        *(("train", "train"), (" Train ", "train"), ("training", "train")),
        *(("validation", "validation"), ("test", "validation"), ("dev", "validation"), ("VAL", "validation")),
        *(("wiki", "unknown"), (3, "unknown"), (None, None), ("", None)),
    ],
)
def test_side_of_a_record(value: Any, side: str | None) -> None:
    assert side_of({"split": value}, "split") == side
    assert side_of({"split": value}, None) is None and side_of("text", "split") is None
    assert side_of({"meta": {"part": value}}, "meta.part") == side


@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("test.jsonl", "validation"),
        ("en/validation/0.parquet", "validation"),
        ("train/dev_set/a.csv", "validation"),
        ("contest.jsonl", None),
        ("training_and_test.csv", None),
        ("a/b.csv", None),
    ],
)
def test_side_of_a_path(path: str, side: str | None) -> None:
    assert side_of_path(path) == side


def test_labels_are_respected() -> None:
    labels = [TRAIN, VALIDATION] * 20
    for deduplicate in ("none", "exact", "near"):
        for fraction in (0.0, 0.3):
            assert chosen(labels, fraction=fraction, deduplicate=deduplicate) == labels


def test_documents_without_labels_are_drawn() -> None:
    found = chosen([TRAIN] * 20 + [VALIDATION] * 20 + [NO_SIDE] * 60)
    assert found[:40] == [TRAIN] * 20 + [VALIDATION] * 20
    assert found[40:] == chosen([NO_SIDE] * 100)[40:]


def test_labels_for_training_alone_leave_the_others_to_be_held_out() -> None:
    found = chosen([TRAIN] * 50 + [NO_SIDE] * 50)
    assert found[:50] == [TRAIN] * 50 and VALIDATION in found[50:]
    assert chosen([TRAIN] * 100) == chosen([NO_SIDE] * 100)  # they say nothing about a split


def test_group_stays_on_one_side() -> None:
    groups = [f"book {i % 20}" for i in range(100)] + [None] * 20
    found = chosen([NO_SIDE] * 120, groups)
    by_group = [{found[i] for i in range(100) if i % 20 == book} for book in range(20)]
    assert all(len(one) == 1 for one in by_group) and {TRAIN, VALIDATION} == set().union(*by_group)
    assert len(set(found[100:])) == 2
    assert len({tuple(chosen([NO_SIDE] * 120, groups)) for _ in range(2)}) == 1


def test_group_follows_the_label_of_one_of_its_documents() -> None:
    groups = ["a"] * 10 + ["b"] * 10 + [None] * 20
    found = chosen([VALIDATION] + [NO_SIDE] * 9 + [TRAIN] + [NO_SIDE] * 29, groups)
    assert found[:20] == [VALIDATION] * 10 + [TRAIN] * 10


def test_groups_join_near_duplicates_in_chains() -> None:
    labels = SplitLabels(np.full(6, NO_SIDE, np.int8), np.array([7, NO_GROUP, 8, 7, 8, NO_GROUP], np.uint64))
    # 1 is a near-duplicate of 0, and 4 of 3: so 0, 1, 3, 4 and, by its group, 2 are one group.
    assert labels.joined(np.array([0, 0, 2, 3, 3, 5])).tolist() == [0, 0, 0, 0, 0, 5]


def test_conflict_of_labels_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert chosen([TRAIN, VALIDATION, NO_SIDE, TRAIN], ["a", "a", "a", None])[:2] == [TRAIN, VALIDATION]
    assert "because their records name the sides" in caplog.text


# --- corpora ---


def test_split_of_records_is_respected_and_counted(tmp_path: Path) -> None:
    names = ("train", "validation", "test", "other", None)
    path = write(tmp_path / "a.jsonl", [{"text": text, "split": names[i % 5]} for i, text in enumerate(texts(50))])
    found = corpus(path, tmp_path / "cache")
    expected = {text: ("train", "validation", "validation")[i % 5] for i, text in enumerate(texts(50)) if i % 5 < 3}
    assert expected.items() <= sides(found).items() and len(sides(found)) == 50
    assert found.manifest["notes"] == {"split is neither train nor validation nor test": 10}
    ignored = sides(corpus(path, tmp_path / "cache", "--corpus.split=null"))
    assert not expected.items() <= ignored.items() and len(ignored) == 50


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_export_gives_the_same_split_and_ids_again(folder: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"export.{suffix}"
    first = corpus(folder, tmp_path / "cache", f"--corpus.export={path}")
    again = corpus(path, tmp_path / "cache", "--corpus.validation_fraction=0.05")
    assert sorted(again.documents()) == sorted(first.documents())
    assert again.manifest["documents"]["validation"] == first.manifest["documents"]["validation"] > 0


def test_group_of_records_stays_on_one_side(tmp_path: Path) -> None:
    records: list[Any] = [{"text": text, "meta": {"book": i % 8}} for i, text in enumerate(texts(64))]
    found = sides(corpus(write(tmp_path / "a.jsonl", records), tmp_path / "cache", "--corpus.group=meta.book"))
    by_book = [{found[record["text"]] for record in records if record["meta"]["book"] == book} for book in range(8)]
    assert all(len(one) == 1 for one in by_book) and len(set().union(*by_book)) == 2


def test_records_of_one_side_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": text, "split": "test"} for text in texts(5)])
    with pytest.raises(CorpusError, match=r"on one side of the split.*corpus\.split to null"):
        corpus(path, tmp_path / "cache")


def test_saved_splits_are_respected(tmp_path: Path) -> None:
    found = texts(30)
    parts = {"train": found[:20], "validation": found[20:]}
    made = {name: datasets.Dataset.from_dict({"text": some}) for name, some in parts.items()}
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "d"))
    expected = {text: name for name, some in parts.items() for text in some}
    assert sides(corpus(tmp_path / "d", tmp_path / "cache")) == expected


# --- token ids ---


@pytest.fixture(scope="module")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreparedCorpus, list[dict[str, Any]]]:
    """A corpus of texts, and its documents as records of token ids with special tokens and padding."""
    root = tmp_path_factory.mktemp("tokenized")
    path = write(root / "a.jsonl", [{"text": text} for text in texts(30)])
    found = corpus(path, root / "cache", "--corpus.deduplicate=none")
    records = []
    for i, (id_, split, text) in enumerate(found.documents()):
        ids = found.tokenizer(text)["input_ids"]
        padding = [found.tokenizer.pad_token_id] * (i % 3)
        records.append({"id": id_, "split": split, "input_ids": ids + padding, "attention_mask": [1] * len(ids)})
    return found, records


def rows(found: PreparedCorpus) -> set[tuple[str, bytes]]:
    table = {split: found.rows(split) for split in ("train", "validation")}
    return {(split, row.tobytes()) for split, one in table.items() for row in one.take(np.arange(len(one)))}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "saved"])
def test_tokenized_records_give_the_rows_of_their_texts(
    tokenized: tuple[PreparedCorpus, list[dict[str, Any]]], tmp_path: Path, suffix: str
) -> None:
    found, records = tokenized
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        write(path, records)
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        datasets.Dataset.from_list(records).save_to_disk(str(path))
    mode = found.manifest["config"]["rows"]["mode"]
    flags = (f"--tokenizer.path={found.folder / 'tokenizer'}", "--corpus.deduplicate=none", f"--rows.mode={mode}")
    again = corpus(path, tmp_path / "cache", *flags)
    assert again.manifest["documents"]["train"] == found.manifest["documents"]["train"]
    assert again.manifest["tokens"]["kept"] == found.manifest["tokens"]["kept"]
    assert again.manifest["notes"] == {"tokenized already": 30}
    if mode == "chunk":
        assert rows(again) == rows(found)
    assert not list(again.outlines("train"))  # a text of token ids has none
    decoded = {id_: text for id_, _, text in again.documents()}
    assert decoded == {r["id"]: found.tokenizer.decode(r["input_ids"], skip_special_tokens=True) for r in records}
    assert {id_: text for id_, text, _ in again.outlines("train", decoded=True)}.items() <= decoded.items()


def test_duplicates_of_tokenized_records_are_dropped(
    tokenized: tuple[PreparedCorpus, list[dict[str, Any]]], tmp_path: Path
) -> None:
    found, records = tokenized
    bare = [{"ids": record["input_ids"]} for record in records]
    path = write(tmp_path / "a.jsonl", bare + bare[:5] + [{"ids": []}, {"ids": [1.5]}, {"ids": [True]}])
    flags = (f"--tokenizer.path={found.folder / 'tokenizer'}", "--corpus.text=ids")
    again = prepare(parse([f"--corpus.source={path}", f"--corpus.cache_dir={tmp_path}", *flags]))
    assert again.manifest["documents"]["dropped"] == {"duplicate": 5, "no text": 3}


def test_near_duplicates_of_tokenized_records_are_compared_by_their_ids(
    tokenized: tuple[PreparedCorpus, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """Three adjacent ids of 60 leave a similarity of 49/63, under the threshold; one leaves 51/61, over it."""
    draw = np.random.default_rng(0)
    lists = [draw.integers(5, 400, 60).tolist() for _ in range(12)]
    under = [[*ids[:30], *(405 - id_ for id_ in ids[30:33]), *ids[33:]] for ids in lists]
    over = [[*ids[:10], 405 - ids[10], *ids[11:]] for ids in lists[:4]]
    path = write(tmp_path / "a.jsonl", [{"input_ids": ids} for ids in lists + under + over])
    flags = (f"--tokenizer.path={tokenized[0].folder / 'tokenizer'}", f"--corpus.cache_dir={tmp_path}")
    manifest = prepare(parse([f"--corpus.source={path}", *flags])).manifest
    assert manifest["documents"]["dropped"] == {"near-duplicate": 4}


@pytest.mark.parametrize("token", [-1, 400, 2**31, 2**70])
def test_token_ids_out_of_range_are_refused(
    tokenized: tuple[PreparedCorpus, list[dict[str, Any]]], tmp_path: Path, token: int
) -> None:
    found, _ = tokenized
    path = write(
        tmp_path / "a.jsonl", [{"input_ids": [5, 6, i]} for i in range(7, 30)] + [{"input_ids": [5, token, 6]}]
    )
    flags = (f"--tokenizer.path={found.folder / 'tokenizer'}", f"--corpus.cache_dir={tmp_path}")
    with pytest.raises(CorpusError, match=r"a\.jsonl@\d+ has the token id .* 400 tokens; name the tokenizer"):
        prepare(parse([f"--corpus.source={path}", *flags]))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "name the tokenizer that made their ids"),
        (["--tokenizer.path={tokenizer}", "--tokenizer.add_domain_tokens=3"], "add_domain_tokens"),
        (["--tokenizer.path={tokenizer}", "--masking.unit=word"], r"masking\.unit"),
    ],
)
def test_tokenized_records_need_their_own_tokenizer(
    tokenized: tuple[PreparedCorpus, list[dict[str, Any]]], tmp_path: Path, flags: list[str], said: str
) -> None:
    found, records = tokenized
    path = write(tmp_path / "a.jsonl", records)
    named = [flag.format(tokenizer=found.folder / "tokenizer") for flag in flags]
    with pytest.raises(CorpusError, match=rf"^corpus\.source: 30 documents are tokenized already.*{said}"):
        prepare(parse([f"--corpus.source={path}", f"--corpus.cache_dir={tmp_path}", *named]))
