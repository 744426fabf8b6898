"""Filters of datatrove: what they drop and change is counted and named, and every engine writes the same bytes."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import datatrove.io
import launching
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from making import made_up_prose
from rich.console import Console
from specs import prepare
from test_prepare import config, in_cache, tree

from mlm_dist.config import parse
from mlm_dist.corpus import filter_classes, filters, shards, summary
from mlm_dist.errors import ConfigError, CorpusError
from mlm_dist.resolve import corpus_spec

CHOSEN: dict[str, Any] = {
    "GopherQualityFilter": {"min_doc_words": 40},
    "GopherRepetitionFilter": {"dup_para_frac": 0.5, "top_n_grams": [[2, 0.4]], "dup_n_grams": []},
    "C4QualityFilter": {"min_num_sentences": 3},
    "RegexFilter": {"regex_exp": r"\bforbidden\b"},
    "PIIFormatter": {},
}
DROPPED = {
    "hashes.txt": "GopherQualityFilter: gopher_too_many_hashes",
    "few.txt": "GopherQualityFilter: gopher_short_doc",
    "again.txt": "GopherRepetitionFilter: dup_line_frac",
    "braces.txt": "C4QualityFilter: curly_bracket",
    "word.txt": "RegexFilter",
    "tiny.txt": "under 200 characters",
}


def flag(chosen: dict[str, Any]) -> str:
    return f"--corpus.filters={json.dumps(chosen)}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve good documents with addresses of people, and one for each reason to drop it."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(12):
        text = made_up_prose(i, 12) + f"\n\nWrite to someone{i}@example.org and other{i}@example.org to be heard."
        (folder / f"good{i:02}.txt").write_text(text)
    (folder / "hashes.txt").write_text(made_up_prose(20, 12) + " #" * 40)
    (folder / "few.txt").write_text("Extraordinarily " + "incomprehensible" * 20 + " words are not many.")
    (folder / "again.txt").write_text("\n".join([made_up_prose(21, 1)] * 20 + [made_up_prose(22, 12)]))
    (folder / "braces.txt").write_text(made_up_prose(23, 12) + "\nThe value {name} is not set in the file.")
    (folder / "word.txt").write_text(made_up_prose(24, 12) + "\nThis is a forbidden word in the text.")
    (folder / "tiny.txt").write_text("Tiny.")
    return folder


def test_what_filters_drop_and_change_is_counted_and_named(source: Path, tmp_path: Path) -> None:
    found = prepare(config(source, tmp_path / "cache", flag(CHOSEN)))
    rows = pq.read_table(found.folder / "dropped.parquet").to_pylist()
    assert {row["id"]: row["reason"] for row in rows} == DROPPED
    manifest = found.manifest
    assert manifest["documents"]["dropped"] == dict.fromkeys(DROPPED.values(), 1)
    assert manifest["dropped"] == {reason: [id_] for id_, reason in DROPPED.items()}
    assert manifest["notes"] == {"changed by C4QualityFilter": 12, "changed by PIIFormatter": 12}
    texts = [text for _, _, text in found.documents()]
    assert len(texts) == 12
    for text in texts:
        assert text.endswith("Write to email@example.com and firstname.lastname@example.org to be heard.")
    (console := Console(width=120)).begin_capture()
    console.print(summary.table(manifest, "folder"))
    shown = " ".join(console.end_capture().split())
    assert "│ 1 │ dropped: C4QualityFilter: curly_bracket" in shown and "│ 12 │ changed by PIIFormatter" in shown
    pipeline_of_datatrove = prepare(config(source, tmp_path / "other", flag(CHOSEN), "--corpus.engine=datatrove"))
    assert tree(pipeline_of_datatrove.folder) == tree(found.folder)


def test_shards_make_no_difference(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepare(config(source, tmp_path / "cache", flag(CHOSEN)))
    monkeypatch.setattr(shards, "SMALL_SHARD", 2_000)
    again = prepare(config(source, tmp_path / "other", flag(CHOSEN)))
    assert len(again.manifest["shards"]) > len(found.manifest["shards"]) == 1
    assert sorted(again.documents()) == sorted(found.documents())
    assert again.manifest["dropped"] == found.manifest["dropped"]


@pytest.mark.slow
def test_engines_write_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = [made_up_prose(i, 200) + f" Write to someone{i}@example.org, forbidden or not." for i in range(60)]
    path.write_text(
        "".join(json.dumps({"text": text.replace("forbidden", "f" * (i % 3))}) + "\n" for i, text in enumerate(texts))
    )
    chosen = CHOSEN | {
        "RegexFilter": {"regex_exp": r"\bff\b"},
        "GopherRepetitionFilter": {"top_n_grams": [], "dup_n_grams": []},
    }
    found = prepare(config(path, tmp_path / "local", flag(chosen)))
    assert found.manifest["documents"]["dropped"]["RegexFilter"] == 20 and len(found.manifest["shards"]) > 1
    more = ("--corpus.engine=datatrove", "--corpus.tasks=2", "--corpus.workers=2")
    again = prepare(config(path, tmp_path / "datatrove", flag(chosen), *more))
    assert tree(again.folder) == tree(found.folder)


def test_what_becomes_of_a_document_does_not_depend_on_those_before() -> None:
    ((_, replace),) = filters.load({"PIIFormatter": {"email_replacement": ["a@example.org", "b@example.org"]}})
    one = "Write to someone@example.com."
    assert [replace(one).text for _ in range(3)] == ["Write to a@example.org."] * 3
    assert replace(f"{one} {one}").text == "Write to a@example.org. Write to b@example.org."


def test_text_that_a_filter_shortens_is_measured_again(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.txt").write_text(made_up_prose(i, 12))
    (folder / "lines.txt").write_text("a line without an end\n" * 20 + "There is an end here.")
    found = prepare(config(folder, tmp_path / "cache", flag({"C4QualityFilter": {"min_num_sentences": -1}})))
    assert found.manifest["dropped"] == {"under 200 characters": ["lines.txt"]}


def test_text_on_which_a_filter_fails_is_dropped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, document: Any) -> Any:
        return 1 / 0 if "ledger" in document.text else True

    monkeypatch.setattr(filter_classes.constructor("C4ParagraphFilter"), "filter", fail)
    folder = tmp_path / "docs"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.txt").write_text(made_up_prose(i, 12))
    found = prepare(config(folder, tmp_path / "cache", flag({"C4ParagraphFilter": {}})))
    assert found.manifest["dropped"] == {"C4ParagraphFilter: fails with ZeroDivisionError": ["1.txt"]}


def test_tokenized_documents_cannot_be_filtered(source: Path, tmp_path: Path) -> None:
    first = prepare(config(source, tmp_path / "cache")).folder / "tokenizer"
    (path := tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"input_ids": [5, 6, i]}) for i in range(9, 30)))
    flags = [f"--corpus.source={path}", f"--corpus.cache_dir={tmp_path}", f"--tokenizer.path={first}"]
    with pytest.raises(CorpusError, match=r"21 documents are tokenized already, so corpus\.filters cannot read them"):
        prepare(parse([*flags, flag({"PIIFormatter": {}})]))


def test_digest_has_the_filters_their_order_and_their_versions(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(chosen: dict[str, Any]) -> str:
        return json.dumps(filters.dependencies(chosen))

    one: dict[str, Any] = {"RegexFilter": {"regex_exp": "a"}, "PIIFormatter": {}}
    two: dict[str, Any] = {"PIIFormatter": None}
    assert filters.dependencies({}) == {}
    assert settings(two) == settings({"PIIFormatter": {}})
    different: list[dict[str, Any]] = [
        one,
        dict(reversed(one.items())),
        two,
        {"PIIFormatter": {"remove_ips": False}},
        {"FTFYFormatter": {}},
    ]
    assert len({settings(chosen) for chosen in different}) == len(different)
    version = importlib.metadata.version
    before = prepare(config(source, tmp_path / "cache", flag(two)))
    assert before.manifest["config"]["corpus"]["filter_versions"] == {"datatrove": version("datatrove")}
    assert before.digest != prepare(config(source, tmp_path / "cache")).digest
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9" if name == "datatrove" else version(name))
    assert prepare(config(source, tmp_path / "cache", flag(two))).digest != before.digest


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"GopherFilter": {}},
            "GopherFilter: is no filter or formatter of datatrove for single documents; did you mean",
        ),
        ({"LambdaFilter": {}}, "LambdaFilter: it takes a function, which a config cannot hold; choose from C4BadWords"),
        ({"SamplerFilter": {}}, "SamplerFilter: it draws at random"),
        ({"PIIFormatter": 3}, "PIIFormatter: expected a dict of arguments, such as {}, got 3"),
        ({"RegexFilter": {}}, "RegexFilter: RegexFilter needs regex_exp; add them"),
        ({"RegexFilter": {"regex_exp": 3}}, "RegexFilter.regex_exp: expected str, got 3"),
        (
            {"GopherQualityFilter": {"min_words": 3}},
            "GopherQualityFilter.min_words: GopherQualityFilter has no such argument; choose from min_doc_words, max",
        ),
        (
            {"GopherQualityFilter": {"min_doc_words": "many"}},
            "GopherQualityFilter.min_doc_words: expected int | None, got 'many'",
        ),
        ({"GopherQualityFilter": {"exclusion_writer": "a"}}, "exclusion_writer: is not free to choose; remove it"),
        ({"C4BadWordsFilter": {"keep_fraction": 0.5}}, "keep_fraction: is not free to choose; remove it"),
        ({"LanguageFilter": {"backend": "pickle"}}, "LanguageFilter"),
    ],
)
def test_wrong_filters_are_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        corpus_spec(parse([flag(chosen)]))
    assert str(raised.value).startswith("corpus.filters.") and message in str(raised.value)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"RegexFilter": {"regex_exp": "("}}, "RegexFilter cannot be used (error: missing ), unterminated"),
        ({"GopherQualityFilter": {"language": "none"}}, "Language 'none' doesn't have a tokenizer assigned"),
        ({"GopherQualityFilter": {"language": "vi"}}, "GopherQualityFilter cannot be used"),
        (
            {"C4BadWordsFilter": {}},
            "needs a file from the network, which is not in the cache, and HF_HUB_OFFLINE is set",
        ),
    ],
)
def test_filters_that_cannot_run_are_refused_before_anything_is_written(
    chosen: dict[str, Any], message: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError) as raised:
        prepare(config(source, tmp_path / "cache", flag(chosen)))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert in_cache(tmp_path / "cache") == set()
    assert not (tmp_path / "assets").exists()


def test_lost_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datatrove.io, "cached_assets_path", lambda **_: tmp_path)
    monkeypatch.setattr(datatrove.io, "download_file", fail)
    with pytest.raises(
        CorpusError, match=r"cannot be used \(OSError: Temporary failure.*needs a file from the network"
    ):
        filters.load({"C4BadWordsFilter": {}})


def test_words_that_are_found_by_unpickled_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from datatrove.utils import word_tokenizers

    words = type("StanzaTokenizer", (word_tokenizers.WhitespaceTokenizer,), {})
    monkeypatch.setattr(word_tokenizers, "load_word_tokenizer", lambda language: words())
    with pytest.raises(CorpusError, match="words of language en are found by StanzaTokenizer, which may unpickle"):
        filters.load({"GopherQualityFilter": {"language": "en"}})


@pytest.mark.parametrize(
    ("chosen", "missing", "message"),
    [
        (
            {"PIIFormatter": {}},
            "datatrove",
            "needs the package datatrove; install it with: pip install 'mlm_dist[scale]'",
        ),
        ({"C4QualityFilter": {}}, "spacy", "needs the package spacy; install it with: pip install 'mlm_dist[scale]'"),
        ({"LanguageFilter": {}}, "fasteners", "needs the package "),
    ],
)
def test_missing_package_is_named(
    chosen: dict[str, Any], missing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def found(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", found)
    with pytest.raises(ConfigError) as raised:
        corpus_spec(parse([flag(chosen)]))
    assert message in str(raised.value)


def test_every_class_of_datatrove_is_chosen_or_refused() -> None:
    from datatrove.pipeline import filters as of_filters
    from datatrove.pipeline import formatters as of_formatters

    there = {
        name for module in (of_filters, of_formatters) for name, one in vars(module).items() if inspect.isclass(one)
    }
    assert there == filter_classes.CLASSES.keys() | filter_classes.REFUSED.keys()
    assert not filter_classes.CLASSES.keys() & filter_classes.REFUSED.keys()


@pytest.mark.slow
def test_wrong_filter_ends_the_command_with_code_2(source: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "mlm_dist/prepare.py",
        f"--corpus.source={source}",
        f"--corpus.cache_dir={tmp_path / 'cache'}",
    ]
    ended = launching.run([*command, flag({"RegexFilter": {"regex_exp": "("}})])
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1, ended.output
    assert in_cache(tmp_path / "cache") == set()
