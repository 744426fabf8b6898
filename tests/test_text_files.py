"""Text files that are named themselves: one document, or several with a separator, and parts of long documents."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pytest
from making import made_up_prose, made_up_text
from reading import LIMIT, acquire, everything, said
from specs import prepare, spec_of

from mlm_dist.config import parse
from mlm_dist.corpora import load_or_prepare
from mlm_dist.corpus.held_out_parts import GAP, PartsSpec, divide
from mlm_dist.corpus.readers import Document
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import CorpusError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def corpus(source: Path, cache: Path, *flags: str) -> PreparedCorpus:
    """A small corpus."""
    common = ("--rows.max_length=32", "--tokenizer.train_vocab_size=400")
    return prepare(parse([f"--corpus.source={source}", f"--corpus.cache_dir={cache}", *common, *flags]))


@pytest.mark.parametrize("content", ["one\ntwo\r\nthree\n", "\n\none\nstill one\n\n  \n\ntwo\r\n\r\nthree", "one"])
def test_text_file_is_one_document_to_the_letter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = write(tmp_path / "a.txt", content)
    with caplog.at_level(logging.INFO):
        source = acquire(path, tmp_path)
    assert everything(source) == [Document("a.txt", content)]
    assert "a.txt is one document; corpus.separator divides it" in caplog.text
    assert said(acquire(write(tmp_path / "b.txt.gz", gzip.compress(content.encode())), tmp_path)) == [content]


BLOCKS = "\n\none\nstill one\n\n  \n\ntwo\r\n\r\nthree\n"


@pytest.mark.parametrize(
    ("separator", "content", "expected"),
    [
        ("\n\n", BLOCKS, ["one\nstill one", "two", "three"]),
        ("\\n\\n", BLOCKS, ["one\nstill one", "two", "three"]),
        ("\n", "one\n\n two\r\nthree", ["one", "two", "three"]),
        ("\\n", "one\ntwo\n", ["one", "two"]),
        ("---", "one\n---\ntwo\n\nstill two\n---", ["one", "two\n\nstill two"]),
        ("\\n---\\n", "a---b\r\n---\r\nc", ["a---b", "c"]),
        ("<|endoftext|>", "one<|endoftext|>two\n<|endoftext|>\n", ["one", "two"]),
        ("\\f", "one\ftwo", ["one", "two"]),
        ("a.b", "1a.b2axb3", ["1", "2axb3"]),
        ("---", "nothing", ["nothing"]),
    ],
)
def test_separator_divides_a_text_file(tmp_path: Path, separator: str, content: str, expected: list[str]) -> None:
    source = acquire(write(tmp_path / "a.txt", content), tmp_path, separator=separator)
    assert said(source) == expected
    assert len({one.id for one in everything(source)}) == len(expected)


def test_separator_across_blocks(tmp_path: Path) -> None:
    for size in range((1 << 18) - 6, (1 << 18) + 2):
        source = acquire(write(tmp_path / "a.txt", "x" * size + "<sep>" + "y"), tmp_path, separator="<sep>")
        assert said(source) == ["x" * size, "y"]


LONG = "x" * LIMIT


@pytest.mark.parametrize(
    ("separator", "content"),
    [
        ("\n", f"one\n{LONG}y\ntwo\n"),
        ("\n", f"one\n{LONG * 3}\ntwo\n"),
        ("\n\n", f"one\n\n{LONG}\n{LONG}\n\ntwo"),
        ("\n\n", f"one\n\nshort\n{LONG * 2}\n\ntwo"),
        ("---", f"one---{LONG}y---two"),
        ("---", f"one---{LONG * 3}---two"),
    ],
)
def test_document_over_the_limit_is_dropped_and_the_rest_is_read(tmp_path: Path, separator: str, content: str) -> None:
    assert said(acquire(write(tmp_path / "a.txt", content), tmp_path, separator=separator)) == [
        "one",
        "over 1 MB",
        "two",
    ]


def test_text_file_over_the_limit_is_dropped_with_the_remedy(tmp_path: Path) -> None:
    assert said(acquire(write(tmp_path / "a.txt", LONG), tmp_path)) == [LONG]
    assert said(acquire(write(tmp_path / "a.txt", LONG + "y"), tmp_path)) == ["over 1 MB without a corpus.separator"]
    assert said(acquire(write(tmp_path / "a.txt", "\u00fc" * LIMIT), tmp_path)) == [
        "over 1 MB without a corpus.separator"
    ]


# --- parts ---


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize("fraction", [0.05, 0.2])
@pytest.mark.parametrize("row_length", [32, 128])
@pytest.mark.parametrize("kind", ["paragraphs", "lines", "one line", "no sentences"])
def test_parts_are_the_whole_document_and_the_gap_is_a_row(fraction: float, row_length: int, kind: str) -> None:
    text = made_up_prose(3, 800)
    if kind == "lines":
        text = text.replace("\n\n", "\n")
    elif kind == "one line":
        text = " ".join(words(text))
    elif kind == "no sentences":
        text = " ".join(words(text)).replace(".", "")
    parts = divide(text, PartsSpec(fraction, row_length))
    assert parts is not None
    joined = words(parts.train) + words(parts.gap) + words(parts.validation)
    assert joined == words(text)
    assert row_length <= len(words(parts.gap)) <= 2 * row_length + 20
    held_out = max(fraction * len(joined), row_length)
    assert held_out - 1 <= len(words(parts.validation)) <= 1.25 * held_out + row_length + 20
    for part in (parts.train, parts.gap, parts.validation):
        assert text.count(part) == 1
    if kind == "paragraphs":
        paragraphs = text.split("\n\n")
        for part in (parts.train, parts.validation):
            assert set(part.split("\n\n")) <= set(paragraphs)
    if kind == "one line":
        assert parts.train.endswith(".") and parts.gap.endswith(".")


def test_text_without_spaces_is_divided() -> None:
    text = "\u6587\u5b57\u5217\u306e\u4e2d\u3002" * 2000
    parts = divide(text, PartsSpec(0.05, 32))
    assert parts is not None and parts.train + parts.gap + parts.validation == text
    assert len(parts.gap) >= 32 * 16 and all(part.endswith("\u3002") for part in (parts.train, parts.gap))


@pytest.mark.parametrize("num_words", [0, 1, 100, 127])
def test_short_document_is_not_divided(num_words: int) -> None:
    assert divide(made_up_text(1, num_words), PartsSpec(0.05, 32)) is None


@pytest.mark.parametrize("num_words", [128, 129, 200, 500, 5000])
def test_documents_of_any_size_from_four_rows_are_divided(num_words: int) -> None:
    for seed in range(10):
        text = made_up_text(seed, num_words)
        parts = divide(text, PartsSpec(0.05, 32))
        assert parts is not None
        assert words(parts.train) + words(parts.gap) + words(parts.validation) == words(text)
        assert len(words(parts.train)) >= 30


def test_book_loses_one_gap_and_nothing_else(tmp_path: Path) -> None:
    paragraphs = [made_up_text(i, 5 + 7 * i % 60) for i in range(300)]  # many are under 200 characters
    path = write(tmp_path / "book.txt", "\n\n".join(paragraphs))
    found = corpus(path, tmp_path / "cache")
    documents = {split: text for _, split, text in found.documents()}
    manifest = found.manifest["documents"]
    assert (manifest["found"], manifest["kept"], manifest["dropped"]) == (3, 2, {GAP: 1})
    assert found.manifest["dropped"] == {GAP: ["book.txt#gap"]}
    assert {id_ for id_, _, _ in found.documents()} == {"book.txt#train", "book.txt#validation"}
    total = len(words(path.read_text()))
    kept = len(words(documents["train"])) + len(words(documents["validation"]))
    assert total - 2 * 32 - 60 <= kept <= total - 32 and kept > 0.98 * total
    text = path.read_text()
    assert text.startswith(documents["train"]) and text.endswith(documents["validation"])


def test_folder_of_one_document_is_divided_too(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "a.md", made_up_prose(1, 200))
    assert corpus(tmp_path / "d", tmp_path / "cache").manifest["documents"]["dropped"] == {GAP: 1}


def test_whole_documents_are_held_out_by_default(prose: Path, tmp_path: Path) -> None:
    assert GAP not in corpus(prose, tmp_path / "cache").manifest["documents"]["dropped"]


def test_parts_of_all_long_documents_are_held_out_if_asked(prose: Path, tmp_path: Path) -> None:
    found = corpus(prose, tmp_path / "cache", "--corpus.validation_from=parts", "--corpus.validation_fraction=0.2")
    figures = found.manifest["documents"]
    assert (
        figures["dropped"][GAP]
        == 40
        == found.manifest["notes"]["divided into a part for training and one for validation"]
    )
    assert figures["found"] == figures["kept"] + sum(figures["dropped"].values())
    assert found.manifest["rows"]["validation"] > 0
    held_out = [id_ for id_, split, _ in found.documents() if split == "validation"]
    assert held_out and all(id_.endswith("#validation") for id_ in held_out)


def test_one_document_is_not_divided_if_documents_are_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "book.txt", made_up_prose(1, 200))
    with pytest.raises(CorpusError, match="only one distinct document"):
        corpus(path, tmp_path / "cache", "--corpus.validation_from=documents")
    whole = corpus(path, tmp_path / "cache", "--corpus.validation_fraction=0")
    assert whole.manifest["documents"]["kept"] == 1


@pytest.mark.parametrize("held_out", ["parts", "documents"])
def test_longer_rows_of_a_phase_have_the_same_parts(held_out: str, prose: Path, tmp_path: Path) -> None:
    """A corpus in the cache that was divided for shorter rows is not taken: its parts are others."""
    flags = [
        *(
            f"--corpus.source={prose}",
            f"--corpus.cache_dir={tmp_path / 'cache'}",
            f"--corpus.validation_from={held_out}",
        ),
        *("--corpus.validation_fraction=0.2", "--rows.max_length=16", "--tokenizer.train_vocab_size=400"),
    ]
    longer = "--phases=[{name: short, duration: 2 steps}, {name: long, duration: 2 steps, rows: {max_length: 64}}]"
    alone = prepare(parse(flags))
    spec = spec_of(parse([*flags, longer]))
    corpora = load_or_prepare(spec)
    others = corpora.of_rows[spec.phases[1].rows]
    assert list(corpora.main.documents()) == list(others.documents())
    assert (corpora.main.digest == alone.digest) == (held_out == "documents"), "only parts depend on the longest row"


def test_gap_is_a_row_of_the_model(tmp_path: Path) -> None:
    path = write(tmp_path / "book.txt", made_up_prose(1, 800))
    sizes = []
    for length in (32, 64):
        found = corpus(path, tmp_path / "cache", f"--rows.max_length={length}")
        sizes.append(sum(len(words(text)) for _, _, text in found.documents()))
    assert sizes[0] - sizes[1] > 20
