"""The outline of a cleaned document: where its title, headings and links are."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pypandoc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import made_up_text
from specs import prepare

from mlm_dist.config import parse
from mlm_dist.corpus import cleaners, marks
from mlm_dist.corpus.cleaners import Cleaned
from mlm_dist.corpus.marks import Marked
from mlm_dist.corpus.outline import Heading, Link, Outline, Span
from mlm_dist.corpus.readers import Document, ReadSettings
from mlm_dist.corpus.readers.office import DocxReader

SHARED = next(
    (path / "shared" for path in Path(__file__).resolve().parents if (path / "shared").is_dir()), Path("shared")
)

Parts = tuple[str | None, list[tuple[str, int]], list[tuple[str, str]]]


def parts(text: str, outline: Outline) -> Parts:
    """The texts of title, headings with their levels, and links with their targets."""
    return (
        None if outline.title is None else text[slice(*outline.title)],
        [(text[start:stop], level) for start, stop, level in outline.headings],
        [(text[start:stop], target) for start, stop, target in outline.links],
    )


def found(text: str, markup: str) -> Parts:
    cleaned = cleaners.clean(text, markup)
    return parts(cleaned.text, cleaned.outline)


# --- texts are what they were before there were outlines ---

# SHA-256 of all cleaned texts of a folder, in the order of their paths, by the version before. Another version of a
# library that reads markup may give others.
BEFORE = {
    "samples/asciidoctor-adoc": "c0e5bfc984d1aeb4ba3f6864f71635325a1cb07f4ecabac683a87c9b403feeeb",
    "samples/flask-rst": "bd5a820eab5fbb8ed255ba8b58b334bd2d93975b59d2e91a91b2586abf037f3b",
    "samples/hf-course-mdx": "b065997a272ad1fe8c7150d5f72a3adea7441a9208b719e3e27230228498a6e8",
    "samples/hugo-docs": "5d89dbe9872607248efb205413c533258293d8452227a0728cd7f1fbbb527c0a",
    "samples/jekyll-docs": "8541d084158addd7f34433d12046cc0233a89ac0d04fe5ff84b5c43cf391fd02",
    "samples/jupyter-book-myst": "700d893e179d7726b78f18aac47e6a8004a28f848e5ca13bba032390b29ed18f",
    "samples/mkdocs-material": "ebf527644946222ec32f4c402e94d13e7e001983fba803ea8f0196c1dd08caa7",
    "samples/react-dev-arabic": "69b8f9f6dd77336e7f4e83b8290ad820ff618e98a26f29177004b23c97cf8143",
    "samples/react-dev-mdx": "2c3c3c2592eedd5ad78906abd8b088921a898df497b0531286b8da7753ebc0ef",
    "samples/vue-docs-zh-cn": "8ebcc9aa1b129d9a6e8b0c074b18e02f6255dbb636ce50261f9686b7bf70dc88",
    "corpus/azure-security-docs": "20d22581bbb4e326a5b82f37fa766452833c88f5753b7dfb8c6df59fb1dcd0ce",
}


SLOW = {"samples/asciidoctor-adoc"}  # pandoc starts for each document


@pytest.mark.parametrize(
    "folder", [pytest.param(one, marks=[pytest.mark.slow] if one in SLOW else []) for one in BEFORE]
)
def test_texts_are_the_same_as_without_outlines(folder: str) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip("the sample documents are not on this machine")
    assert digest(SHARED / folder) == BEFORE[folder]


def digest(folder: Path) -> str:
    """The SHA-256 of all cleaned texts of a folder."""
    value = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if cleaners.markup_of(path.name) != "none"):
        cleaned = cleaners.clean(path.read_text("utf-8", "replace"), cleaners.markup_of(path.name))
        check(cleaned)
        value.update(cleaned.text.encode("utf-8", "replace") + b"\0")
    return value.hexdigest()


def check(cleaned: Cleaned) -> None:
    """Every span has a text without white space around it, and spans of a kind are in order."""
    outline, text = cleaned.outline, cleaned.text
    spans = [(one.start, one.stop) for one in (outline.title, *outline.headings, *outline.links) if one is not None]
    for start, stop in spans:
        assert 0 <= start < stop <= len(text)
        assert text[start:stop] == text[start:stop].strip()
    assert [*outline.headings] == sorted(outline.headings) and [*outline.links] == sorted(outline.links)
    assert all(heading.level > 0 for heading in outline.headings) and all(link.target for link in outline.links)
    if cleaned.title is not None and text:
        assert outline.title is not None and not text[: outline.title.start].strip()


# --- what each markup has ---

MARKDOWN = """---
title: Outside
---
# First *heading* with [a link](a.md)

Text [of
  `two` lines](<../b.md> 'title') and [a label][L], ![no link](c.png).

| cell | [in a  cell](d.md) |
|-|-|
| a \\| b | x [last](e.md "t") |

- [in a list](f.md#anchor)
  - [![picture](g.png)](h.md)

Underlined
---

<h3 align="center">Of <a class="x" href='i.html'>HTML</a></h3>

{% raw %}{{ [not here](j.md) }}{% endraw %} <k@l.org> {doc}`n` {doc}`of MyST <o/p>` {ref}`no document <q>`

[l]: /m.md
"""


def test_markdown() -> None:
    assert found(MARKDOWN, "markdown") == (
        "Outside",
        [("First heading with a link", 1), ("Underlined", 2), ("Of HTML", 3)],
        [
            *(("a link", "a.md"), ("of two lines", "../b.md"), ("a label", "/m.md"), ("in a  cell", "d.md")),
            *(("last", "e.md"), ("in a list", "f.md#anchor"), ("picture", "h.md"), ("HTML", "i.html")),
            *(("k@l.org", "k@l.org"), ("of MyST", "o/p")),
        ],
    )


def test_markdown_after_marked_braces() -> None:
    text = (
        "{% raw %}{{ a }} {% b %}{% endraw %}\n\n# {% raw %}{{{% endraw %} T\n\n[c](d) {% raw %}{{{% endraw %} [e](f)"
    )
    assert found(text, "markdown") == ("{{ T", [("{{ T", 1)], [("c", "d"), ("e", "f")])


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("# T\n\ntext", "T"),
        ("### T\n\ntext", "T"),
        ("badge\n\n# T\n\n## U", "T"),
        ("text\n\n## T", None),
        ("text\n\n# T\n\n# U", None),
        ("# T\n\n# U", "T"),
        ("text", None),
        ("---\ntitle: T\n---\n", "T"),
        ("---\ntitle: T\n---\n#   t\n\n## U", "t"),
        ("---\ntitle: T\n---\ntext\n\n# U", "T"),
    ],
)
def test_title(text: str, title: str | None) -> None:
    assert found(text, "markdown")[0] == title


def test_white_space_at_the_ends_is_not_marked() -> None:
    assert found("# {{ v }}\u3000\n\na [ b ](c) d [  ](e)", "markdown") == ("{{ v }}", [("{{ v }}", 1)], [("b", "c")])


def test_first_definition_of_a_label_counts() -> None:
    assert found("[a] [b][A]\n\n[a]: 1\n[a]: 2\n\n[A]: 3", "markdown")[2] == [("a", "1"), ("b", "1")]


RST = """
:orphan:

Title
=====

Level two with `a link <a.html>`_
---------------------------------

See :doc:`/b/c` and :doc:`the other <d>`, Label_, `two
words`_, :ref:`no document`, |x| and 2\\ :sup:`3`\\ `glued <e>`_.

.. note:: In `a note <f.rst>`_

Three
~~~~~

==== ==========
cell `last <g>`_
==== ==========

Again two
---------

.. _label: h
.. _two words: i.rst
.. |x| replace:: replaced
"""


def test_rst() -> None:
    assert found(RST, "rst") == (
        "Title",
        [("Title", 1), ("Level two with a link", 2), ("Three", 3), ("Again two", 2)],
        [
            *(("a link", "a.html"), ("/b/c", "/b/c"), ("the other", "d"), ("Label", "h"), ("two words", "i.rst")),
            *(("glued", "e"), ("a note", "f.rst"), ("last", "g")),
        ],
    )


HTML = """<title>Site</title>
<h1>First <a href="#x">part</a><a class="headerlink" href="#first">#</a></h1>
<p>A <a href=a.html>
  link</a><sup>2</sup> and <a name="b">no link</a>
<a href=c><h2>Card</h2><p>text</p></a>
<table><tr><td>cell<td> b <a href=d>two  words</a></table>
<ul><li><a href="e">item</a></ul><h6><div>deep</div></h6>after"""


def test_rst_link_after_the_text_of_an_image() -> None:
    text = "|pic| and `a link <b>`_\n\n.. |pic| image:: c.png\n   :alt: a picture\n"
    assert found(text, "rst")[2] == [("a link", "b")]


def test_html() -> None:
    assert found(HTML, "html") == (
        "Site",
        [("First part", 1), ("Card", 2), ("deep", 6)],
        [("part", "#x"), ("link", "a.html"), ("Card", "c"), ("text", "c"), ("two words", "d"), ("item", "e")],
    )


def test_html_links_around_blocks_and_after_breaks() -> None:
    blocks = "<div><a href=a><div>one</div><div>two</div></a> three</div>"
    assert found(blocks, "html")[2] == [("one", "a"), ("two", "a")]
    breaks = '<p>x <img alt="picture"><br><a href=b>after<br>it</a> end'
    assert found(breaks, "html")[2] == [("after\nit", "b")]


def test_asciidoc() -> None:
    text = (
        "= Title\n\n== One link:a.html[two  words]\n\nsee footnote:[not link:b[here]] xref:c.adoc[C] +\n"
        'new "link:d[quoted]" 2^3^link:e[glued]\n\n=== Two\n\n|===\n|cell |link:f[g]\n|===\n'
    )
    assert found(text, "asciidoc") == (
        "Title",
        [("One two words", 1), ("Two", 2)],
        [("two words", "a.html"), ("C", "#c.adoc"), ("quoted", "d"), ("glued", "e"), ("g", "f")],
    )


def test_link_before_a_footnote_and_after_quotes() -> None:
    text = "\\href{a}{before}\\footnote{Not \\href{b}{here}.} ``quoted'' \\href{c}{after}"
    assert found(text, "latex")[2] == [("before", "a"), ("after", "c")]


def test_part_of_a_book_has_level_1() -> None:
    assert found("= Book\n:doctype: book\n\n= Part\n\n== Chapter\n\ntext", "asciidoc")[1] == [
        ("Part", 1),
        ("Chapter", 1),
    ]


def test_mediawiki_and_org() -> None:
    assert found("== One ==\n[[Page|two words]]", "mediawiki")[1:] == ([("One", 2)], [("two words", "Page")])
    assert found("* One\n[[file:a.org][link]]", "org")[1:] == ([("One", 1)], [("link", "a.org")])


def test_word(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    pypandoc.convert_text("# Head\n\nA [link](https://b.c).", "docx", format="markdown", outputfile=str(path))
    document = DocxReader().document("a.docx", path.read_bytes(), ReadSettings(max_bytes=1_000_000))
    assert isinstance(document, Document)
    assert parts(document.text, document.outline) == ("Head", [("Head", 1)], [("link", "https://b.c")])


@pytest.mark.parametrize("markup", ["none", "markdown", "rst", "html"])
def test_plain_text_has_no_outline(markup: str) -> None:
    assert cleaners.clean("Plain text.\n\nMore of it.", markup).outline == Outline()


@pytest.mark.parametrize("markup", ["markdown", "rst", "html"])
def test_what_is_kept_as_it_is_has_no_outline(markup: str) -> None:
    text = {
        "markdown": "> " * 200 + "[a](b)",
        "rst": "\n".join(f"{'  ' * i}- `a <b>`_\n" for i in range(60)),
        "html": "<div>" * 600 + "<a href=b>a</a>",
    }[markup]
    cleaned = cleaners.clean(text, markup)
    assert cleaned.notes and cleaned.outline == Outline()


# --- random documents ---

WORD = st.text(alphabet="abcxyz0é漢字", min_size=1, max_size=6)
WORDS = st.lists(WORD, min_size=1, max_size=4)
SPACE = st.sampled_from([" ", "  ", "\n", " \n", "\t"])
TARGET = st.text(alphabet="abc/.-", min_size=1, max_size=8).filter(lambda text: not text.startswith((".", "-")))
RUNS = st.lists(st.tuples(WORDS, st.none() | TARGET, SPACE), min_size=1, max_size=5)
BLOCKS = st.lists(
    st.tuples(st.just("heading"), st.integers(1, 6), RUNS) | st.tuples(st.just("text"), st.just(0), RUNS),
    min_size=1,
    max_size=6,
)
Runs = list[tuple[list[str], str | None, str]]


def markdown_of(kind: str, level: int, runs: Runs) -> str:
    space = (lambda text: " ") if kind == "heading" else (lambda text: text)
    pieces = [
        (f"[{space(gap).join(words)}]({target})" if target else space(gap).join(words)) + space(gap)
        for words, target, gap in runs
    ]
    return ("#" * level + " " if level else "") + "".join(pieces).strip()


def html_of(kind: str, level: int, runs: Runs) -> str:
    pieces = [
        (f'<a href="{target}">{gap.join(words)}{gap}</a>' if target else gap.join(words)) + gap
        for words, target, gap in runs
    ]
    name = f"h{level}" if level else "p"
    return f"<{name}>{''.join(pieces)}</{name}>"


def rst_of(kind: str, level: int, runs: Runs) -> str:
    pieces = [f"`{' '.join(words)} <{target}>`__" if target else " ".join(words) for words, target, _ in runs]
    text = " ".join(pieces)
    return f"{text}\n{'=-~^.+'[level - 1] * (2 * len(text) + 4)}" if level else text


@pytest.mark.parametrize(("markup", "write"), [("markdown", markdown_of), ("html", html_of), ("rst", rst_of)])
@settings(max_examples=150, deadline=None)
@given(blocks=BLOCKS)
def test_spans_are_exact(markup: str, write: object, blocks: list[tuple[str, int, Runs]]) -> None:
    assert callable(write)
    # A paragraph between all blocks, so that none continues the one before.
    cleaned = cleaners.clean("\n\nParagraph.\n\n".join(write(*block) for block in blocks), markup)
    check(cleaned)
    _, headings, links = parts(cleaned.text, cleaned.outline)

    def squeezed(text: str) -> str:
        return "".join(text.split())  # between Chinese characters, a line break leaves nothing

    levels = [level for _, level, _ in blocks if level]
    if markup == "rst":  # levels are in the order of their first occurrence
        levels = [[*dict.fromkeys(levels)].index(level) + 1 for level in levels]
    texts = ["".join("".join(words) for words, _, _ in runs) for _, level, runs in blocks if level]
    assert [(squeezed(text), level) for text, level in headings] == list(zip(texts, levels, strict=True))
    expected = [("".join(words), target) for _, _, runs in blocks for words, target, _ in runs if target]
    assert [(squeezed(text), target) for text, target in links] == expected


SNIPPETS = st.sampled_from(
    [
        *(
            "# ",
            "[",
            "](a.md)",
            "](<b c>)",
            "][r]",
            "[r]: t\n",
            "![",
            "`",
            "**",
            "_",
            "|",
            "\n|-|-|\n",
            "- ",
            "1. ",
            "> ",
        ),
        *("<a href=x>", "</a>", "<h2>", "</h2>", "<p>", "<td>", "<tr>", "<table>", "<sup>", "</sup>", "<br>", "<pre>"),
        *(
            "`x <y>`_",
            ":doc:`z`",
            "x_",
            "\n===\n",
            "\n---\n",
            ".. _x: y\n",
            ".. note:: ",
            "|s|",
            "*",
            "\\ ",
            "::",
            "{% raw %}",
        ),
        *(
            "{% endraw %}",
            "{{ v }}",
            "$x$",
            "&amp;",
            "\\[",
            "\u3000",
            "\xa0",
            "\x1c",
            "\x85",
            "\0",
            "\1",
            "漢",
            "字",
            "é",
        ),
        *(
            "word",
            " ",
            "\n",
            "\n\n",
            "  \n",
            "    ",
            "\t",
            "---\ntitle: T\n---\n",
            "<title>T</title>",
            ":::",
            "!!! note\n",
        ),
    ]
)


@pytest.mark.parametrize("markup", ["markdown", "html", "rst"])
@settings(max_examples=400, deadline=None)
@given(pieces=st.lists(SNIPPETS, max_size=30))
def test_any_text_has_an_outline(markup: str, pieces: list[str]) -> None:
    check(cleaners.clean("".join(pieces), markup))


# --- marks ---


def test_marks_are_found_in_another_spacing() -> None:
    before = Marked("  a b\n c  d ", [(2, 7, "t"), (7, 11, 1), (0, 2, "empty")])
    after = marks.respaced(before, "a bc d")
    assert after.marks == [(0, 3, "t"), (3, 6, 1)]
    assert marks.joined("--", [after, Marked("x"), after]).marks[2:] == [(11, 14, "t"), (14, 17, 1)]


def test_marks_without_a_string() -> None:
    marked = marks.without(Marked("##a#b##", [(2, 4, 1), (3, 4, 2), (4, 7, 3)]), "#")
    assert marked == Marked("ab", [(0, 1, 1), (1, 2, 3)])


def test_many_links_take_linear_time() -> None:
    cleaned = cleaners.clean("[a](b)\n" * 20_000, "markdown")
    assert len(cleaned.outline.links) == 20_000
    assert len(cleaners.clean(f"<table><tr><td>{'<a href=b>a</a> ' * 20_000}", "html").outline.links) == 20_000


# --- in a prepared corpus ---


def test_prepared_corpus_has_the_outlines(tmp_path: Path) -> None:
    texts = {
        "a.md": f"---\ntitle: A\n---\n\n\n## B\n\n{made_up_text(1, 60)} [to\n c](sub/c.rst).",
        "sub/c.rst": f"C\n=\n\n{made_up_text(2, 60)} `a <é/../../a.md>`_",
        "d.txt": f"# no heading\n\n{made_up_text(3, 60)} [no link](a.md)",
        "e.html": f"<p>{made_up_text(4, 60)}",
        "f.md": f"```\n   indented\n```\n\n# F\n\n{made_up_text(5, 60)} [a](../b)",
    }
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    for name, text in texts.items():
        (tmp_path / "docs" / name).write_bytes(text.encode("utf-8"))
    flags = [f"--corpus.source={tmp_path / 'docs'}", "--corpus.patterns=*", f"--corpus.cache_dir={tmp_path / 'cache'}"]
    corpus = prepare(parse([*flags, "--tokenizer.train_vocab_size=300", "--corpus.validation_fraction=0.3"]))
    outlines = {
        id_: parts(text, outline) for split in ("train", "validation") for id_, text, outline in corpus.outlines(split)
    }
    assert outlines["a.md"] == ("A", [("B", 2)], [("to c", "sub/c.rst")])
    title, headings, links = outlines["sub/c.rst"]
    assert (title, headings, links[0][1]) == ("C", [("C", 1)], "é/../../a.md")
    assert outlines["d.txt"] == outlines["e.html"] == (None, [], [])
    assert outlines["f.md"] == ("F", [("F", 1)], [("a", "../b")])
    assert len(outlines) == len(list(corpus.documents())) == 5


def test_lone_surrogates_of_records_are_replaced_in_targets(tmp_path: Path) -> None:
    texts = [f"# Title {i}\n\n{made_up_text(i, 60)} [li\ud800nk](t\ud800.md) [next](u.md)" for i in range(10)]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    flags = [f"--corpus.source={tmp_path / 'docs.jsonl'}", f"--corpus.cache_dir={tmp_path / 'cache'}"]
    corpus = prepare(parse([*flags, "--tokenizer.train_vocab_size=300", "--corpus.clean=markdown"]))
    for _, text, outline in corpus.outlines("train"):
        title = text.partition("\n")[0]
        assert parts(text, outline) == (title, [(title, 1)], [("li?nk", "t?.md"), ("next", "u.md")])


def test_parts_of_a_divided_document_have_their_outlines(tmp_path: Path) -> None:
    sections = [f"## Section {i}\n\n{made_up_text(i, 20)} [link {i}](t{i}.md)" for i in range(40)]
    (tmp_path / "book.md").write_text("# Book\n\n" + "\n\n".join(sections))
    flags = [
        f"--corpus.source={tmp_path / 'book.md'}",
        f"--corpus.cache_dir={tmp_path / 'cache'}",
        "--rows.max_length=32",
    ]
    flags += ["--tokenizer.train_vocab_size=300", "--corpus.validation_from=parts", "--corpus.clean=markdown"]
    corpus = prepare(parse([*flags, "--corpus.validation_fraction=0.2"]))
    for split in ("train", "validation"):
        ((id_, text, outline),) = corpus.outlines(split)
        title, headings, links = parts(text, outline)
        assert id_ == f"book.md#{split}" and title == ("Book" if split == "train" else None)
        assert [one for one, _ in headings if one != "Book"] == [
            one for one in text.split("\n") if one.startswith("Section")
        ]
        assert links == [(f"link {i}", f"t{i}.md") for i in re.findall(r"link (\d+)", text)]
        assert len(links) > 3


def test_part_of_an_outline() -> None:
    outline = Outline(Span(0, 2), (Heading(0, 2, 1), Heading(5, 8, 2)), (Link(6, 7, "a"), Link(7, 12, "b")))
    assert outline.part(5, 10) == Outline(None, (Heading(0, 3, 2),), (Link(1, 2, "a"),))
    assert outline.part(0, 12) == outline


LINES = st.lists(st.sampled_from(["a", "b", "c d", "", "b ", "e"]), max_size=12)


@settings(max_examples=300, deadline=None)
@given(lines=LINES, others=LINES)
def test_outline_of_a_filtered_text_is_of_the_lines_that_are_kept(lines: list[str], others: list[str]) -> None:
    before, after = "\n".join(lines).strip(), "\n".join(others).strip()
    words = [(found.start(), found.end()) for found in re.finditer(r"\w", before)]
    outline = Outline(None, tuple(Heading(start, stop, 1) for start, stop in words), ())
    kept = outline.of_lines_kept(before, after)
    assert len(kept.headings) == len(set(kept.headings)) <= len(words)
    assert all(after[start:stop].isalnum() for start, stop, _ in kept.headings)
    if before == after:
        assert kept == outline


def test_outline_of_a_filtered_document(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for i in range(10):
        text = f"# Title {i}\n\nmail a{i}@b.org [in a changed line](c.md)\n\n## Section\n\n"
        text += f"{made_up_text(i, 60)} [kept](d.md)"
        (tmp_path / "docs" / f"{i}.md").write_text(text)
    flags = [f"--corpus.source={tmp_path / 'docs'}", f"--corpus.cache_dir={tmp_path / 'cache'}"]
    flags += ["--tokenizer.train_vocab_size=300", "--corpus.filters.PIIFormatter={}"]
    for id_, text, outline in prepare(parse(flags)).outlines("train"):
        assert "@b.org" not in text and "in a changed line" in text
        title = f"Title {id_.removesuffix('.md')}"
        assert parts(text, outline) == (title, [(title, 1), ("Section", 2)], [("kept", "d.md")])
