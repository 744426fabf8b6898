"""reStructuredText becomes plain text: roles, directives and markup go, and what a reader sees stays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mlm_dist.corpus import cleaners


def rst(text: str) -> str:
    return cleaners.clean(text, "rst").text


def notes(text: str) -> tuple[str, ...]:
    return cleaners.clean(text, "rst").notes


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("See :ref:`the title <label>`.", "See the title."),
        ("See :ref:`the title<label>`.", "See the title."),
        ("See :ref:`label`.", "See label."),
        ("A :class:`~a.b.C` and a :class:`a.b.C`.", "A C and a a.b.C."),
        ("A :class:`.Flask`, :meth:`~.Flask.route` and :func:`.a.b`.", "A Flask, route() and a.b()."),
        ("Call :func:`~os.path.join` or :py:meth:`!a.run()`.", "Call join() or a.run()."),
        (":cpp:class:`~std::vector` of :c:func:`malloc`", "vector of malloc()"),
        (":cpp:type:`std::vector<int>`", "std::vector<int>"),
        (":js:func:`$.get` :unknown-domain:thing:`a b`", "$.get() a b"),
        (":pep:`8`, :pep:`the style <8>`, :rfc:`2822#section-1`", "PEP 8, the style, RFC 2822 Section 1"),
        (":menuselection:`File --> &Open` :guilabel:`&Cancel`", "File \u2023 Open Cancel"),
        (":kbd:`Ctrl+C` :file:`usr/{name}/x` :samp:`a={b}`", "Ctrl+C usr/name/x a=b"),
        (":abbr:`LIFO (last-in, first-out)`", "LIFO (last-in, first-out)"),
        (r":math:`a*b_\alpha` and :code:`\d+`", r"a*b_\alpha and \d+"),
        (r"H\ :sub:`2`\ O and 2\ :sup:`31`", "H2O and 2^31"),
        (":octicon:`report;1em` Reports", "Reports"),
        ("``a * b\\n`` *em* **strong** `title`", "a * b\\n em strong title"),
        ("`link <https://example.org>`_ and named_ and `a phrase`__.", "link and named and a phrase."),
        ("https://example.org/a_b_c and 2*3*4 and snake_case_", "https://example.org/a_b_c and 2*3*4 and snake_case"),
        ("`a.b`:class: suffix", "a.b suffix"),
        ("escaped \\*stars\\* and a\\ b", "escaped *stars* and ab"),
    ],
)
def test_inline_markup(source: str, expected: str) -> None:
    assert rst(source) == expected


def test_labels_of_the_document_give_their_headings() -> None:
    assert rst("See :ref:`start`.\n\n.. _start:\n.. _other:\n\nFirst *steps*\n=============\n\nText.") == (
        "See First steps.\n\nFirst steps\n\nText."
    )


def test_custom_and_default_roles_last_for_one_document() -> None:
    custom = ".. role:: html(raw)\n   :format: html\n.. role:: py(code)\n.. default-role:: math\n\n"
    assert rst(custom + ":html:`a<br>b` :py:`x\\n` `\\alpha`") == "a b x\\n \\alpha"
    assert rst(":py:`x\\n` `\\alpha`") == "xn alpha"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (".. note:: One.\n\n   Two.", "Note:\n\nOne.\n\nTwo."),
        (".. note::\n   :class: x\n\n   One.", "Note:\n\nOne."),
        (".. admonition:: My *title*\n\n   Text.", "My title\n\nText."),
        (".. versionadded:: 3.4\n   The *size* argument.", "Added in version 3.4: The size argument."),
        (".. deprecated-removed:: 3.1 3.9 Text.", "Deprecated since version 3.1, removed in version 3.9: Text."),
        (".. function:: f(a, *args, **kw)\n              f(b)\n\n   Text.", "f(a, *args, **kw)\nf(b)\n\nText."),
        (".. py:data:: x_\n   :type: int\n   :value: 3", "x_: int = 3"),
        (".. c:function:: char *f_(int *p)", "char *f_(int *p)"),
        (".. strange:thing:: A *title*\n   :option: x\n\n   - Content", "A title\n\n- Content"),
        (".. strange::\n   Content *here*.", "Content here."),
        (".. container:: css-class\n\n   Text.", "Text."),
        (".. tab-set::\n\n   .. tab-item:: Linux\n      :sync: x\n\n      Text.", "Linux\n\nText."),
        (".. code-tab:: js Label\n\n   let a = *b*", "let a = *b*"),
        (".. figure:: a/b.png\n   :alt: Alternative\n\n   The *caption*.\n\n   Legend.",
         "Alternative\n\nThe caption.\n\nLegend."),
        (".. image:: a.png\n   :alt: Two\n     lines", "Two lines"),
        (".. toctree::\n   :caption: Guide\n   :maxdepth: 2\n\n   a\n   Title <b>", "Guide"),
        (".. index:: a; b\n.. highlight:: c\n.. contents::\n.. meta::\n   :x: y\n\nText", "Text"),
        (".. only:: html\n\n   Heading\n   -------\n\n   Text.", "Heading\n\nText."),
        (".. math:: a_b * c\n   :label: x", "a_b * c"),
        (".. parsed-literal::\n\n   a *b*\n     c", "a b\n  c"),
        (".. raw:: html\n\n   <p>Two <b>words</b></p>\n\n.. raw:: latex\n\n   \\hidden", "Two words"),
        (".. list-table:: Title\n   :header-rows: 1\n\n   * - A\n     - B\n   * - c\n     - d *e*\n",
         "Title\n\nA | B\nc | d e"),
        ('.. csv-table:: Title\n   :header: "A", "B"\n\n   "x, y", *z*', "Title\n\nA | B\nx, y | z"),
        (".. glossary::\n\n   one\n   two\n      Both *terms*.\n\n   three\n      Third.",
         "one\n\ntwo\n: Both terms.\n\nthree\n: Third."),
        (".. topic:: Title\n\n   Text.\n\n.. rubric:: Rubric", "Title\n\nText.\n\nRubric"),
        (".. automodule:: a.b\n   :members:", "a.b"),
        (".. unicode directive is a comment\n\nText", "Text"),
    ],
)  # fmt: skip
def test_directives(source: str, expected: str) -> None:
    assert rst(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Title\n=====\n\nPara one\nline two.\n\nSub\n---\n\nText", "Title\n\nPara one line two.\n\nSub\n\nText"),
        ("A\n=\n\nB\n-\n\nC\n~\n\nD\n=\n\nE\n~\n\nText", "A\n\nB\n\nC\n\nD\n\nE\n\nText"),
        ("- a\n- b\n\n  - c\n", "- a\n- b\n  - c"),
        ("3. a\n#. b\n\n(a) x\n(b) y\n\niv. z\nv. w", "3. a\n4. b\n\n(a) x\n(b) y\n\niv. z\nv. w"),
        ("term : type\n   Text.", "term : type\n: Text."),
        (":param x: The *size*.\n:returns: it", "param x: The size.\nreturns: it"),
        (":orphan:\n:tocdepth: 2\n\nText", "Text"),
        ("-a, --all  Show all.\n-f FILE    Read it.", "-a, --all\n: Show all.\n\n-f FILE\n: Read it."),
        ("| one\n|   two", "one\ntwo"),
        ("   A quote.\n\n   -- Someone", "A quote.\n\n\u2014 Someone"),
        ("== ==\nA  B\n== ==\n1  2 *x*\n== ==", "A | B\n1 | 2 x"),
        ("+---+-----+\n| a | b   |\n+---+-----+\n| c | d   |\n|   | e   |\n+---+-----+", "a | b\nc | d e"),
        (".. |a| replace:: *the* text\n.. |c| unicode:: 0xA9 .. sign\n\n|a| |c| |undefined|",
         "the text \xa9 |undefined|"),
        ("A [#n]_ b [#]_ c [1]_ d [Cit]_\n\n.. [#n] One.\n.. [#] Two.\n.. [1] Three.\n.. [Cit] Four.",
         "A [2] b [3] c [1] d [Cit]\n\n[2] One.\n\n[3] Two.\n\n[1] Three.\n\n[Cit] Four."),
        (".. _target: https://example.org\n.. comment\n\nText\n\n----\n\nMore", "Text\n\nMore"),
        ("\u4e2d\u6587\u7b2c\u4e00\u884c\n\u7b2c\u4e8c\u884c and\nEnglish",
         "\u4e2d\u6587\u7b2c\u4e00\u884c\u7b2c\u4e8c\u884c and English"),
    ],
)  # fmt: skip
def test_blocks(source: str, expected: str) -> None:
    assert rst(source) == expected


@pytest.mark.parametrize(
    "opening", [".. code-block:: make\n   :linenos:\n", ".. sourcecode::\n", "Code::\n", ".. code::\n"]
)
def test_code_is_unchanged_to_the_letter(opening: str) -> None:
    lines = ["all: *x* `y`_ |z|", "\tcc  -o\t$@  ", "", "  def __init__(self): \\n"]
    source = opening + "\n" + "\n".join(f"   {line}" if line else "" for line in lines) + "\n\nAfter"
    assert rst(source) == ("Code:\n\n" if opening[4:] == "::\n" else "") + "\n".join(lines) + "\n\nAfter"
    in_list = "- item\n\n  .. code-block:: c\n\n     a\tb\n"
    assert rst(in_list) == "- item\n\na\tb"


def test_quoted_and_doctest_blocks() -> None:
    assert rst("Code::\n\n> a *b*\n> c\n\nAfter") == "Code:\n\n> a *b*\n> c\n\nAfter"
    assert rst(">>> f('*')\n1\t2\n\nAfter") == ">>> f('*')\n1\t2\n\nAfter"


@pytest.mark.parametrize("source", [
    "=== ===\na   b\n=====\n\nAfter", "+--+\n|a |\n\nAfter", "====\nOverlined\n\nAfter", "- a\nb `c\n\n**After",
])  # fmt: skip
def test_what_docutils_cannot_parse_keeps_its_words(source: str) -> None:
    assert {word for word in source.split() if word.isalpha()} <= set(rst(source).replace("|", " ").split())


def test_no_other_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.txt").write_text("secret,words")
    (tmp_path / "docutils.conf").write_text(
        "[general]\ntab_width: 1\nreport_level: 1\n[restructuredtext parser]\nx: y\n"
    )
    options = (".. include:: secret.txt", ".. literalinclude:: secret.txt", ".. csv-table::\n   :file: secret.txt",
               ".. raw:: html\n   :file: secret.txt", ".. code-block::\n   :file: secret.txt")  # fmt: skip
    for source in options:
        assert "secret" not in rst(f"Text `\n\n{source}\n")
    assert notes(options[0]) == ("rst includes another file, which is not read",)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", [
    "- " * 3000 + "x", "\n".join(" " * i + "a" for i in range(500)),
    "\n".join("| " + " " * i + "a" for i in range(500)),
    "".join("   " * i + ".. note::\n\n" for i in range(120)), "*a " * 50_000, "*a* " * 50_000, ":r:`a " * 30_000,
    "[#]_ " * 3000, "a-" * 100_000 + "_", ".. foo:: " + "a.b" * 20_000, "".join(f".. _a{i}:\n" for i in range(10_000)),
    "+" + "-+" * 3000 + "\n|" + "a|" * 3000 + "\n+" + "-+" * 3000, "=== ===\na   b\n\n" * 1000, "::\n\n" * 5000,
    ".. |a| replace:: |b| |b|\n.. |b| replace:: |a|\n\n|a|",
    "".join(f".. |a{i}| replace:: |a{i + 1}| |a{i + 1}|\n" for i in range(60)) + ".. |a60| replace:: lol\n\n|a0|",
    ".. |a| replace:: " + "lol " * 2000 + "\n\n" + "|a| \n\n" * 1000,
], ids=lambda source: repr(source[:12]))  # fmt: skip
def test_hostile_documents_take_bounded_time_and_space(source: str) -> None:
    start = time.process_time()
    text = rst(source)
    assert time.process_time() - start < 10
    assert len(text) < 2 * len(source) + 1_100_000
    assert rst(source) == text


def test_deep_nesting_is_kept_as_it_is_with_a_note() -> None:
    source = "- " * 500 + "x"
    assert cleaners.clean(source, "rst") == cleaners.Cleaned(source, notes=("rst nested too deeply, kept as is",))
    assert notes("- " * 20 + "x") == ()
