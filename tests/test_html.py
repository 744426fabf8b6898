"""HTML becomes plain text, and its encoding is the one it declares."""

from __future__ import annotations

import time

import pytest

from mlm_dist.corpus import cleaners
from mlm_dist.corpus.readers import Document, ReadSettings, reader_of

SETTINGS = ReadSettings(1_000_000)


def html(text: str) -> str:
    return cleaners.clean(text, "html").text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<h1>A <em>title</em></h1><p>One\n  two.<p>Three", "A title\n\nOne two.\n\nThree"),
        ("<ul><li>a<li>b<ol start=3><li>c</ol></ul>d", "- a\n- b\n  3. c\n\nd"),
        ("<dl><dt>t<dd>d</dl>", "t\n: d"),
        ("<table><caption>C</caption><tr><th>a<th>b<tr><td>1<td><p>2<p>3</table>", "C\n\na | b\n1 | 2 3"),
        ("<p>Code:<pre>\n  def __init__(self):\n\tx &lt; 1  \n</pre>after",
         "Code:\n\n  def __init__(self):\n\tx < 1  \n\nafter"),
        ("<pre><span class=lineno>1</span>a<br>b</pre>", "a\nb"),
        ("a<br>b<wbr>c 2<sup>31</sup> H<sub>2</sub>O &amp; &eacute;&nbsp;x", "a\nbc 2^31 H2O & \xe9 x"),
        ("<p>p</p><script>x</script><style>y</style><template>z</template><noscript>n</noscript><!-- c -->t",
         "p\n\nn\n\nt"),
        ('<p>An<img alt="image" src=x>here', "An image here"),
        ("<x-tab>A</x-tab><x-tab>B</x-tab><select><option>C<option>D</select>", "A B C D"),
        ("<h2>T<a class=headerlink href=#t>\xb6</a></h2><a href=#x>See</a>", "T\n\nSee"),
        ("<details><summary>S</summary>T</details>", "S\n\nT"),
        ("<p hidden>a</p><div role=navigation>b</div><nav>c</nav>d", "d"),
        ("<header>a</header><main><article><header>b</header></article></main><footer>c</footer>", "b"),
        ("<header><h1>a</h1></header><p>b</p>", "a\n\nb"),
        ('<math><mi>x</mi><annotation encoding="application/x-tex">x*y_1</annotation></math>', "x*y_1"),
        ('Let<script type="math/tex">x*y</script>', "Let x*y"),
        ("<p>\u4e2d\u6587\n\u6587\u5b57", "\u4e2d\u6587\u6587\u5b57"),
        ("plain text &lt;b&gt;", "plain text <b>"),
        ("<table><tr><td><h2>Layout</h2><p>x</p><td><pre>a\n b</pre></table>", "Layout\n\nx\n\na\n b"),
        ("", ""),
    ],
)  # fmt: skip
def test_elements(source: str, expected: str) -> None:
    assert html(source) == expected


def test_title_comes_first_unless_the_document_begins_with_it() -> None:
    cleaned = cleaners.clean("<html><head><title>The &amp; title</title></head><body><p>x</p></body></html>", "html")
    assert (cleaned.text, cleaned.title) == ("The & title\n\nx", "The & title")
    assert html("<title>Same</title><h1> Same </h1>x") == "Same\n\nx"


def test_xhtml_has_empty_elements_and_marked_text() -> None:
    source = '<?xml version="1.0"?><html xmlns="x"><head><script src="a"/><title>T</title></head>'
    source += "<body><![CDATA[a <b> &]]></body></html>"
    assert html(source) == "T\n\na <b> &"


@pytest.mark.parametrize(
    "declaration",
    [
        b'<meta charset="%s">',
        b"<META http-equiv='Content-Type' content='text/html; charset=%s'>",
        b'<?xml version="1.0" encoding="%s"?>',
    ],
)
@pytest.mark.parametrize(
    ("name", "codec"), [("windows-1251", "cp1251"), ("Shift_JIS", "cp932"), ("iso-8859-1", "cp1252")]
)
def test_declared_encoding_decides(declaration: bytes, name: str, codec: str) -> None:
    text = {
        "cp1251": "\u041f\u0440\u0438\u0432\u0435\u0442",
        "cp932": "\u65e5\u672c\u8a9e",
        "cp1252": "El ni\xf1o \u201cx\u201d",
    }[codec]
    data = declaration % name.encode() + b"<p>" + text.encode(codec)
    document = reader_of("a.HTML", records=False).document("a.HTML", data, SETTINGS)  # type: ignore[attr-defined]
    assert isinstance(document, Document) and document.text.endswith(text)
    assert (document.encoding, document.markup) == (codec, "html")


@pytest.mark.parametrize("declared", ["nonsense", "rot13", "hex", "utf-16", "windows-1251"])
def test_utf8_is_utf8_whatever_is_declared(declared: str) -> None:
    data = f"<meta charset={declared}><p>Gr\xf6\xdfe".encode()
    document = reader_of("a.html", records=False).document("a.html", data, SETTINGS)  # type: ignore[attr-defined]
    assert document.text.endswith("Gr\xf6\xdfe") and document.encoding == "utf-8"


@pytest.mark.parametrize("source", [
    "<div>x" * 20_000, "<table><tr><td>" * 300, "<ol>" * 400 + "<li>x", "<select>" + "<option>x" * 20_000,
    "<" * 300_000,
    "<p>" + "".join(f"<b a={i}>" for i in range(500)) + "<p>x" * 2000,
    "<p>" + "".join(f"<i a={i}>" for i in range(30)) + "<p>x" * 20_000,
    "<!--" * 100_000, "<?xml version='1.0'?>" + "<![CDATA[" * 50_000, "<script>" * 50_000, "<dl><dd>" * 300,
    "<p>x" * 50_000,
    "<a " + "b=c " * 100_000 + ">", "<pre>" + "<span>x</span>\n" * 20_000,
    "<main>a</main>" + "<header>x</header>" * 10_000,
    '<!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;">]><p>&b;</p>', "<x-y>" * 10_000,
], ids=lambda source: repr(source[:12]))  # fmt: skip
def test_hostile_documents_take_bounded_time_and_space(source: str) -> None:
    start = time.process_time()
    text = html(source)
    assert time.process_time() - start < 5
    assert len(text) <= 2 * len(source)
    assert html(source) == text


def test_deep_nesting_keeps_its_words_with_a_note() -> None:
    cleaned = cleaners.clean("<div><script>no</script>a &amp; b " * 600, "html")
    assert cleaned.notes == ("html nested too deeply, only its tags are removed",)
    assert cleaned.text.split() == ["a", "&", "b"] * 600
