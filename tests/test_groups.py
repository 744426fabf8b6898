"""Groups that another tool made: they are kept on one side of the split without a search for near-duplicates."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text
from rich.console import Console
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import near_duplicates, signatures, summary
from mlm_dist.corpus.readers.record_fields import group_of
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError

EXACT = ("--corpus.keep_together=exact", "--corpus.deduplicate=none", "--corpus.group=cluster")


def corpus(source: Path, cache: Path, *flags: str) -> PreparedCorpus:
    common = ["--rows.max_length=32", "--corpus.validation_fraction=0.3", "--tokenizer.train_vocab_size=400"]
    return prepare(parse([f"--corpus.source={source}", f"--corpus.cache_dir={cache}", *common, *flags]))


def sides(found: PreparedCorpus) -> dict[str, str]:
    """{id: split} of all kept documents."""
    return {id_.split(".")[-1]: split for id_, split, _ in found.documents()}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """40 documents in 10 clusters of two texts and their near-duplicates, and 20 that are in none."""
    rows: list[dict[str, Any]] = []
    for i in range(40):
        rows.append({"text": made_up_text(i % 20, 60) + " again" * (i // 20), "cluster": i % 10})
    rows += [{"text": made_up_text(100 + i, 60), "cluster": (None, -1)[i % 2]} for i in range(20)]
    pq.write_table(pa.Table.from_pylist(rows), path := tmp_path / "a.parquet")
    return path


def test_groups_are_on_one_side_and_nothing_is_searched(
    records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("near-duplicates are searched")

    monkeypatch.setattr(signatures, "signatures", refuse)
    monkeypatch.setattr(near_duplicates, "find", refuse)
    with caplog.at_level(logging.INFO):
        found = corpus(records, tmp_path / "cache", *EXACT)
    assert found.manifest["documents"]["kept"] == 60 and found.manifest["documents"]["dropped"] == {}
    by_id = sides(found)
    cluster = pq.read_table(records)["cluster"].to_pylist()
    by_cluster = [{by_id[str(i)] for i in range(40) if cluster[i] == one} for one in range(10)]
    assert all(len(one) == 1 for one in by_cluster) and len(set().union(*by_cluster)) == 2
    assert {by_id[str(i)] for i in range(40, 60)} == {"train", "validation"}
    assert "corpus.keep_together exact: near-duplicates are not searched" in caplog.text
    assert "20 documents have no group, such as a.parquet#0.40, a.parquet#0.41, a.parquet#0.42;" in caplog.text
    assert found.manifest["notes"] == {"without a group": 20}
    console = Console(width=120)
    with console.capture() as shown:
        console.print(summary.table(found.manifest, "folder"))
    assert "near-duplicates were not searched" in shown.get() and "│ 20 │ without a group" in " ".join(
        shown.get().split()
    )
    with pytest.raises(AssertionError, match="are searched"):
        corpus(records, tmp_path / "cache", "--corpus.deduplicate=none", "--corpus.group=cluster")


@pytest.mark.parametrize("keep_together", ["near", "exact"])
def test_equal_texts_join_their_groups(keep_together: str, tmp_path: Path) -> None:
    """The second document of each group is equal to the first of the next one, so that all are one group."""
    rows = [{"text": made_up_text((i + 1) // 2, 60), "cluster": f"c{i // 2}"} for i in range(40)]
    rows += [{"text": made_up_text(100 + i, 60), "cluster": f"d{i}"} for i in range(40)]
    (path := tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    flags = (*EXACT[1:], f"--corpus.keep_together={keep_together}")
    by_text = {text: split for _, split, text in corpus(path, tmp_path / "cache", *flags).documents()}
    assert len({by_text[row["text"]] for row in rows[:40]}) == 1
    assert {by_text[row["text"]] for row in rows[40:]} == {"train", "validation"}


def test_near_duplicates_without_a_group_may_be_on_both_sides(tmp_path: Path) -> None:
    rows = [{"text": made_up_text(i // 2, 60) + " again" * (i % 2)} for i in range(80)]
    (path := tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for keep_together in ("near", "exact"):
        flags = ("--corpus.deduplicate=exact", f"--corpus.keep_together={keep_together}")
        by_text = {text: split for _, split, text in corpus(path, tmp_path / "cache", *flags).documents()}
        apart = [i for i in range(0, 80, 2) if by_text[rows[i]["text"]] != by_text[rows[i + 1]["text"]]]
        assert bool(apart) == (keep_together == "exact")


def test_digest_changes_only_where_the_result_may(records: Path, tmp_path: Path) -> None:
    def digest(*flags: str) -> str:
        return corpus(records, tmp_path / "cache", "--corpus.deduplicate=none", *flags).digest

    assert digest("--corpus.keep_together=exact") != digest()
    nothing_held_out = "--corpus.validation_fraction=0"
    assert digest("--corpus.keep_together=exact", nothing_held_out) == digest(nothing_held_out)


def test_dropping_near_duplicates_needs_their_search() -> None:
    with pytest.raises(ConfigError, match=r"^corpus\.keep_together: exact .* set corpus\.deduplicate to none or exact"):
        parse(["--corpus.keep_together=exact"])


@pytest.mark.parametrize("value", [None, "", " ", -1, -1.0, "-1", float("nan")])
def test_values_that_name_no_group(value: Any) -> None:
    assert group_of({"cluster": value}, "cluster") is None


@pytest.mark.parametrize(("value", "group"), [(0, "0"), (1, "1"), ("a", "a"), (False, "False"), (-2, "-2")])
def test_values_that_name_a_group(value: Any, group: str) -> None:
    assert group_of({"cluster": value}, "cluster") == group
