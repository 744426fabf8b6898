"""Notebooks, office documents, PDF and the formats of pandoc become documents of plain text."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import cleaners, shards, sources
from mlm_dist.corpus.pandoc import program
from mlm_dist.corpus.readers import Document, DocumentReader, Dropped, ReadSettings, reader_of
from mlm_dist.corpus.readers.pdf import joined
from mlm_dist.errors import CorpusError

MAX_BYTES = 1_000_000


def read(name: str, data: bytes, max_bytes: int = MAX_BYTES) -> Document | Dropped:
    reader = reader_of(name, records=False)
    assert isinstance(reader, DocumentReader)
    return reader.document(name, data, ReadSettings(max_bytes))


def text(name: str, data: bytes) -> str:
    """The cleaned text of a file."""
    document = read(name, data)
    assert isinstance(document, Document), document
    return cleaners.clean(document.text, document.markup).text


def reason(name: str, data: bytes, max_bytes: int = MAX_BYTES) -> str:
    """Why a file is dropped."""
    dropped = read(name, data, max_bytes)
    assert isinstance(dropped, Dropped), dropped
    assert dropped.id == name
    return dropped.reason


def notebook(*cells: Any, **more: Any) -> bytes:
    return json.dumps({"cells": list(cells), "nbformat": 4, "nbformat_minor": 5, "metadata": {}, **more}).encode()


def cell(kind: str, source: Any, **more: Any) -> dict[str, Any]:
    return {"cell_type": kind, "source": source, "metadata": {}, **more}


def test_notebook_cells() -> None:
    output = {"output_type": "stream", "text": ["printed\n"]}
    data = notebook(
        cell("markdown", ["# A *title*\n", "\n", "See [it](x.md).\n"], attachments={"a.png": {"image/png": "AAAA"}}),
        cell("code", "%matplotlib inline\nprint('*x*')\t# ```\n", outputs=[output], execution_count=1),
        cell("raw", ".. note:: *raw*"),
        cell("code", []),
        cell("markdown", "Last ![shown](attachment:a.png)."),
    )
    assert text("a.ipynb", data) == (
        "A title\n\nSee it.\n\n%matplotlib inline\nprint('*x*')\t# ```\n\n.. note:: *raw*\n\nLast shown."
    )


def test_notebook_of_format_3() -> None:
    sheets = [{"cells": [
        {"cell_type": "heading", "level": 2, "source": ["Head\n", "ing"]},
        {"cell_type": "code", "input": ["a = 1\n"], "outputs": [{"text": "no"}], "prompt_number": 1},
        {"cell_type": "markdown", "source": "*text*"},
    ]}]  # fmt: skip
    assert text("a.ipynb", json.dumps({"worksheets": sheets, "nbformat": 3}).encode()) == "Head ing\n\na = 1\n\ntext"


@pytest.mark.parametrize("open_block", [
    "```python\nx", "~~~~\nx", "a <!-- x", "<pre>\nx", "```\nx\n```\n```", "<script>\nx", ":::note\nx", "- ```\n  x",
])  # fmt: skip
def test_a_cell_of_a_notebook_ends_with_its_cell(open_block: str) -> None:
    data = notebook(cell("markdown", open_block), cell("code", "a = *b*\n# -->\n"), cell("markdown", "*After*"))
    result = text("a.ipynb", data)
    assert f"\n\n{result}".endswith("\n\na = *b*\n# -->\n\nAfter")


def test_front_matter_in_the_first_cell_of_a_notebook() -> None:
    assert text("a.ipynb", notebook(cell("raw", "---\ntitle: T\nx: y\n---"), cell("markdown", "a"))) == "T\n\na"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "not JSON"),
        (b'{"cells": [', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "not a notebook"),
        (b'{"a": 1}', "not a notebook"),
    ],
)
def test_what_is_not_a_notebook_is_dropped(data: bytes, expected: str) -> None:
    assert reason("a.ipynb", data) == expected


def test_odd_cells_of_a_notebook_do_no_harm() -> None:
    data = notebook(
        cell("markdown", [1, "a", None]), cell("code", 5), {"source": "x"}, [1], cell("heading", "h", level="x")
    )
    assert text("a.ipynb", data) == "a\n\nx\n\nh"


PANDOC = {
    "a.adoc": (
        "= Title\nAn Author\n:attr: value\n\nA *bold* `code` {attr} <<s,see>> link:x[text] footnote:[Note.]\n\n[[s]]\n"
        "== Section\n\nNOTE: Careful.\n\n.Name\n[source,c]\n----\n"
        "int *a;\t/* x */\nimage::x[]\n----\n\nimage::x.png[Alt]\n\n"
        "ifdef::env[]\nConditional\nendif::[]\n\n|===\n|a |b\n\n|c |d\n|===\n\n* x\n** y\n",
        "Title\n\nAn Author\n\nA bold code value see text [1]\n\nSection\n\nNote:\n\n"
        "Careful.\n\nName\n\nint *a;\t/* x */\n"
        "image::x[]\n\nAlt\n\nConditional\n\na | b\nc | d\n\n- x\n  - y\n\n[1] Note.",
    ),
    "a.tex": (
        "\\documentclass{article}\n\\title{Title}\n\\newcommand{\\two}[1]{#1 #1}\n\\begin{document}\n\\section{One}\n"
        "An \\emph{x} \\two{y} \\unknown{kept \\another{words}} $a*b_c$.\\vspace{2mm}\n\n\\begin{strange}Inside "
        "\\thing[o]{it}\\end{strange}\n\n\\begin{verbatim}\n\ta  *b*\n\\end{verbatim}\n% comment\n"
        "\\begin{tabular}{ll}a & b\\\\c & d"
        "\\end{tabular}\n\\end{document}\n",
        "Title\n\nOne\n\nAn x y y kept words $a*b_c$.\n\nInside it\n\n\ta  *b*\n\na | b\nc | d",
    ),
    "a.org": (
        "#+TITLE: Title\n* Head\n/a/ =b= [[x][c]]\n- [X] done\n- d\n#+BEGIN_SRC c\nint\t*a;\n#+END_SRC\n"
        "| a | b |\n| c | d |\n# no\n",
        "Title\n\nHead\n\na b c\n\n- done\n- d\n\nint\t*a;\n\na | b\nc | d",
    ),
    "a.mediawiki": (
        "== Head ==\n'''a''' [[B|b]] {{note|kept|k=value}} <ref>Note.</ref>\n* c\n"
        "{|\n! d !! e\n|-\n| f || g\n|}\n<pre>*h*</pre>\n",
        "Head\n\na b kept value [1]\n\n- c\n\nd | e\nf | g\n\n*h*\n\n[1] Note.",
    ),
    "a.textile": ("h1. Head\n\n*a* _b_ \"c\":x\n\n# d\n# e\n", "Head\n\na b c\n\n1. d\n2. e"),
    "a.typ": ("= Head\n\n*a* _b_ `c` #link(\"x\")[d]\n\n- e\n", "Head\n\na b c d\n\n- e"),
    "a.rtf": ("{\\rtf1\\ansi\\ansicpg1252 Caf\\'e9 {\\b bold}\\par Two\\par}", "Caf\xe9 bold\n\nTwo"),
}  # fmt: skip


@pytest.mark.parametrize("name", PANDOC)
def test_formats_of_pandoc(name: str) -> None:
    source, expected = PANDOC[name]
    assert text(name, source.encode()) == expected
    assert text(name, source.encode()) == expected


def test_asciidoc_reads_no_other_file_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret.adoc").write_text("secret")
    source = f"A\n\ninclude::{tmp_path}/secret.adoc[]\n\n----\ninclude::b.rb[tag=x]\n----\n\nB"
    cleaned = cleaners.clean(source, "asciidoc")
    assert cleaned.text == "A\n\nB"
    assert cleaned.notes == ("asciidoc includes another file, which is not read",)


@pytest.mark.parametrize("markup", ["asciidoc", "latex", "org", "mediawiki", "textile", "typst", "rtf"])
def test_what_pandoc_cannot_read_is_kept_with_a_note(markup: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(data: bytes, format_: str) -> dict[str, Any]:
        raise program.UnreadableError("refused")

    monkeypatch.setattr(program, "read", refuse)
    assert cleaners.clean(" a *b*\r\n", markup) == cleaners.Cleaned("a *b*", notes=(f"{markup} refused, kept as is",))


def test_latex_that_does_not_end_is_kept_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SECONDS", 5.0)
    source = "\\newcommand{\\a}{\\a\\a}\\begin{document}\\a\\end{document}"
    cleaned = cleaners.clean(source, "latex")
    assert (cleaned.text, len(cleaned.notes)) == (source, 1)


@pytest.mark.parametrize(
    ("markup", "unit", "seconds"), [("latex", "\\begin{quote}", 3.0), ("org", "", 60.0), ("mediawiki", "<div>", 60.0)]
)
def test_deep_nesting_is_bounded(markup: str, unit: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "SECONDS", seconds)
    source = unit * 300 + "x" if unit else "\n".join("  " * i + "- a" for i in range(200))
    cleaned = cleaners.clean(source, markup)
    assert cleaned == cleaners.clean(source, markup)
    assert cleaned.text


def made_by_pandoc(format_: str) -> bytes:
    markdown = (
        "---\ntitle: The title\n---\n\n# Head\n\nA *b* [c](x) $x^2$.[^1]\n\n- d\n- e\n\n"
        "| f | g |\n|---|---|\n| h | i |\n\n```\n  j\n```\n\n[^1]: Note.\n"
    )
    command = [str(program._path()), "-f", "markdown", "-t", format_, "-o", "-"]
    return subprocess.run(command, input=markdown.encode(), capture_output=True, check=True).stdout


@pytest.mark.parametrize("format_", ["docx", "odt", "epub"])
def test_office_documents(format_: str) -> None:
    data = made_by_pandoc(format_)
    result = text(f"a.{format_.upper()}", data)
    assert result.startswith("The title\n\nHead\n\nA b c ") and result.endswith("\n\n[1] Note.")
    assert "\n\n- d\n- e\n\nf | g\nh | i\n\n" in result
    assert text(f"a.{format_}", data) == result
    assert reason(f"a.{format_}", data[: len(data) // 2]) == "not a zip archive"
    assert reason(f"a.{format_}", data, max_bytes=20) in ("over 0.00032 MB uncompressed", "over 2e-05 MB")


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".docx", ".odt", ".epub"])
def test_hostile_office_documents_are_dropped(suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"a{suffix}"
    assert reason(name, b"") == "not a zip archive"
    assert reason(name, b"\xd0\xcf\x11\xe0" + bytes(600)) == "encrypted"
    assert reason(name, zipped({"a.xml": b" " * 17_000_000})) == "over 16 MB uncompressed"
    assert reason(name, zipped({"x.txt": b"x"})).startswith(f"{suffix[1:]} not read by pandoc")
    bomb = zipped({"word/document.xml": b"<w:p>" * 3_000_000})
    at = bomb.rfind(b"PK\x01\x02") + 24
    false_size = bomb[:at] + (100).to_bytes(4, "little") + bomb[at + 4 :]
    monkeypatch.setattr(program, "MEMORY", "64m")
    assert reason(name, false_size).startswith(suffix[1:])


LAUGHS = b'<!DOCTYPE l [<!ENTITY a "lol">' + b"".join(
    b'<!ENTITY %c "%s">' % (ord("a") + i, b"&%c;" % (ord("a") + i - 1) * 20) for i in range(1, 9)
)
WORD = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">%s</w:document>'


def test_xml_entities_are_not_expanded(tmp_path: Path) -> None:
    original = zipfile.ZipFile(io.BytesIO(made_by_pandoc("docx")))
    files = {name: original.read(name) for name in original.namelist()}
    (tmp_path / "secret").write_text("secret")
    for entity in (LAUGHS, f'<!DOCTYPE l [<!ENTITY i SYSTEM "file://{tmp_path}/secret">'.encode()):
        body = WORD % b"<w:body><w:p><w:r><w:t>x &i;</w:t></w:r></w:p></w:body>"
        document = read(
            "a.docx", zipped({**files, "word/document.xml": b'<?xml version="1.0"?>' + entity + b"]>" + body})
        )
        shown = document.text if isinstance(document, Document) else document.reason
        assert "secret" not in shown and len(shown) < 1000


def pdf(*pages: list[bytes], more: bytes = b"") -> bytes:
    """A PDF file of pages of lines."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for i, lines in enumerate(pages):
        content = b"BT /F1 12 Tf 14 TL 72 720 Td " + b" ".join(b"(%s) Tj T*" % line for line in lines) + b" ET"
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * i)
        )
        packed = zlib.compress(content)
        objects.append(b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(packed), packed))
    out, offsets = b"%PDF-1.4\n", []
    for number, value in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    trailer = b"trailer << /Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, more, len(out))
    return out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + trailer


def test_pdf_text_of_pages_in_order() -> None:
    data = pdf([b"First line hyphen-", b"ated caf\xe9", b"and 12-", b"13"], [], [b"Page two"])
    document = read("a.PDF", data)
    assert isinstance(document, Document)
    assert document.text.strip() == "First line hyphenated caf\xe9\nand 12-\n13\n\nPage two"
    assert read("a.PDF", data) == document


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hyphen-\nated text", "hyphenated text"),
        ("hyphen\u00ad\r\nated", "hyphenated"),
        ("hyphen\x02ated, hyphen\ufffe\nation", "hyphenated, hyphenation"),
        ("well-known and well-\nknown", "well-known and well-known"),
        ("a state-of-the-\nart x-\nray-lab", "a state-of-the-\nart x-\nray-lab"),
        ("Anglo-\nSaxon UTF-\n8 IO-\nerror", "Anglo-\nSaxon UTF-\n8 IO-\nerror"),
        ("dash -\nnext", "dash -\nnext"),
        ("gr\xf6\xdfen-\nabh\xe4ngig", "gr\xf6\xdfenabh\xe4ngig"),
        ("state\x02of\x02the\x02art", "state-of-the-art"),
    ],
)
def test_words_hyphenated_at_the_end_of_a_line(source: str, expected: str) -> None:
    assert joined(source) == expected


def test_pdf_files_without_text_are_dropped() -> None:
    assert reason("a.pdf", pdf([], [])) == "PDF without text"
    assert reason("a.pdf", b"") == "not a PDF file, or damaged"
    assert reason("a.pdf", b"%PDF-1.4 " + bytes(1000)) == "not a PDF file, or damaged"
    assert reason("a.pdf", pdf([b"many words"]), max_bytes=5) == "over 5e-06 MB"
    encrypt = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >> /ID [<00><00>] " % (
        b"11" * 32,
        b"22" * 32,
    )
    assert reason("a.pdf", pdf([b"secret"], more=encrypt)) == "encrypted"


FILES = {
    "guide.rst": b"Title\n=====\n\nSee :ref:`x <y>`.",
    "guide.html": b"<h1>Title</h1><p>See <a href=y>x</a>.",
    "guide.ipynb": notebook(cell("markdown", "# Title\n\nSee [x](y).")),
    "guide.adoc": b"== Title\n\nSee link:y[x].",
    "guide.org": b"* Title\nSee [[y][x]].",
    "guide.md": b"# Title\n\nSee [x](y).",
}


@pytest.mark.parametrize("name", FILES)
def test_a_single_file_is_a_source(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name])
    source = sources.acquire(CorpusConfig(source=str(path)), tmp_path / "cache")
    found = [one for shard in shards.shards(source) for one in shards.read(source, shard.parts, MAX_BYTES)]
    assert len(found) == 1 and isinstance(found[0], Document)
    assert cleaners.clean(found[0].text, found[0].markup).text == "Title\n\nSee x."


def test_a_file_without_a_reader_is_refused_with_the_suffixes_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(CorpusError, match=r"is a \.xyz file; give a folder, or a file that ends in .*\.docx.*\.rst"):
        sources.acquire(CorpusConfig(source=str(tmp_path / "a.xyz")), tmp_path / "cache")


def test_notebooks_and_rst_match_by_default_and_the_others_do_not(tmp_path: Path) -> None:
    for name, data in {**FILES, "a.docx": b"", "a.pdf": b""}.items():
        (tmp_path / name).write_bytes(data)
    source = sources.acquire(CorpusConfig(source=str(tmp_path)), tmp_path / "cache")
    assert sorted(source.files) == ["guide.ipynb", "guide.md", "guide.rst"]


@pytest.mark.parametrize(("name", "package"), [
    ("a.rst", "docutils"), ("a.html", "selectolax"), ("a.adoc", "pypandoc_binary"), ("a.docx", "pypandoc_binary"),
    ("a.pdf", "pypdfium2"),
])  # fmt: skip
def test_versions_of_the_libraries_are_a_part_of_the_digest(name: str, package: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    source = sources.acquire(CorpusConfig(source=str(tmp_path), patterns=["*"]), tmp_path / "cache")
    assert package in source.settings()["versions"]


def test_asciidoc_comments_of_several_lines_go_and_addresses_are_links() -> None:
    source = (
        "= Title\n:url-a: https://example.org\n\n////\nhidden.adoc\nnot shown\n////\n\nSee {url-a}[the page^].\n\n"
        "----\n////\n{url-a}[x]\n////\n----\n"
    )
    assert cleaners.clean(source, "asciidoc").text == "Title\n\nSee the page^.\n\n////\n{url-a}[x]\n////"
