"""A folder with every kind of file that can be read: each gives its documents, and the manifest adds up."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import made_up_text
from pyarrow import feather
from specs import prepare

from mlm_dist.config import Config

NUM_WORDS = 60
TEXT_KINDS: dict[str, Callable[[str], str]] = {
    "guide.md": "# Guide\n\n{}\n".format,
    "guide.markdown": "Guide\n=====\n\n*{}*\n".format,
    "page.mdx": "import A from 'a'\n\n<A title=\"Shown\">\n{}\n</A>\n".format,
    "report.qmd": "---\ntitle: Report\n---\n\n{}\n".format,
    "report.Rmd": "---\ntitle: Report\n---\n\n{}\n".format,
    "index.rst": "Title\n=====\n\n{}\n\n.. note::\n\n   Shown\n".format,
    "notes.txt": "{}\n".format,
    "page.html": "<html><head><title>T</title></head><body><p>{}</p></body></html>".format,
    "manual.adoc": "= Manual\n\n{}\n".format,
    "thesis.tex": "\\documentclass{{article}}\\begin{{document}}\n{}\n\\end{{document}}\n".format,
    "todo.org": "* Heading\n\n{}\n".format,
    "page.textile": "h1. Title\n\n{}\n".format,
    "page.mediawiki": "== Title ==\n\n{}\n".format,
}


def notebook(text: str) -> str:
    """A notebook with one cell."""
    cells = [{"cell_type": "markdown", "metadata": {}, "source": [f"# Notebook\n\n{text}\n"]}]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder of about 25 kinds of file, each with one document of its own, and of others that are dropped."""
    pypandoc = pytest.importorskip("pypandoc")
    folder = tmp_path / "mixed"
    folder.mkdir()
    number = 0

    def text() -> str:
        nonlocal number
        number += 1
        return made_up_text(number, NUM_WORDS)

    for name, written in TEXT_KINDS.items():
        (folder / name).write_text(written(text()))
    (folder / "cells.ipynb").write_text(notebook(text()))
    for suffix in ("docx", "odt", "epub"):
        extra = ["--metadata", "title=Book"]
        pypandoc.convert_text(
            text(), suffix, format="markdown", outputfile=str(folder / f"book.{suffix}"), extra_args=extra
        )
    pypandoc.convert_text(
        text(), "rtf", format="markdown", outputfile=str(folder / "book.rtf"), extra_args=["--standalone"]
    )

    def line() -> str:
        return json.dumps({"text": text()}) + "\n"

    (folder / "lines.jsonl").write_text(line() + line())
    (folder / "lines.ndjson").write_text(line())
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(line().encode()))
    (folder / "packed.jsonl.xz").write_bytes(lzma.compress(line().encode()))
    (folder / "packed.jsonl.bz2").write_bytes(bz2.compress(line().encode()))
    (folder / "list.json").write_text(json.dumps([text(), text()]))
    (folder / "table.csv").write_text(f'id,text\n1,"{text()}"\n')
    (folder / "table.tsv").write_text(f"id\ttext\n1\t{text()}\n")
    pq.write_table(pa.table({"text": [text(), text()]}), folder / "table.parquet")
    feather.write_feather(pa.table({"text": [text()]}), str(folder / "table.arrow"), compression="uncompressed")
    (folder / "copy.md").write_text((folder / "guide.md").read_text())
    (folder / "short.rst").write_text("short")
    (folder / "broken.jsonl").write_text("{")
    (folder / "picture.txt").write_bytes(b"\0" * 300)
    (folder / "link.md").symlink_to("guide.md")
    return folder


def config_of(folder: Path, cache: Path, **corpus: Any) -> Config:
    """All files of the folder."""
    sections: dict[str, Any] = {
        "corpus": {"source": str(folder), "patterns": ["*"], "cache_dir": str(cache), "validation_fraction": 0.1}
        | corpus,
        "tokenizer": {"train_vocab_size": 500},
        "rows": {"max_length": 32},
    }
    return Config(**sections)


def test_manifest_of_a_mixed_folder_adds_up(mixed: Path, tmp_path: Path) -> None:
    corpus = prepare(config_of(mixed, tmp_path / "cache"))
    manifest = corpus.manifest
    documents, (source,) = manifest["documents"], manifest["sources"]
    num_texts = len(TEXT_KINDS) + 1 + 4 + 2 + 1 + 3 + 2 + 1 + 1 + 2 + 1
    assert documents["kept"] == num_texts, manifest["dropped"]
    assert documents["found"] == documents["kept"] + sum(documents["dropped"].values())
    assert documents["train"] + documents["validation"] == documents["kept"]
    assert source["documents"]["found"] == documents["found"] and source["documents"]["kept"] == documents["kept"]
    assert source["files"] + sum(source["dropped"].values()) == len(list(mixed.iterdir()))
    assert sum(manifest["rows"].values()) == sum(len(corpus.rows(split)) for split in ("train", "validation"))
    reasons = {reason: sorted(ids) for reason, ids in manifest["dropped"].items()}
    assert reasons["symbolic link"] == ["link.md"] and reasons["binary"] == ["picture.txt"]
    assert reasons["under 200 characters"] == ["short.rst"] and reasons["duplicate"] == ["guide.md"]
    assert sum(map(len, reasons.values())) == 5


def test_words_of_every_kind_are_kept(mixed: Path, tmp_path: Path) -> None:
    texts = {id_: text for id_, _, text in prepare(config_of(mixed, tmp_path / "cache")).documents()}
    kept = {word for text in texts.values() for word in text.split()}
    for number in range(1, len(texts) + 1):
        missing = [word for word in made_up_text(number, NUM_WORDS).split() if word not in kept]
        assert not missing, number
    for id_, text in texts.items():
        assert not {"<p>", "\\begin", "::", "import", "{", "}"} & set(text.split()), id_
