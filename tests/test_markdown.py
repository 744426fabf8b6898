"""Cleaning Markdown: no word is lost but of the kinds listed here, whatever people or attackers write."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_dist.corpus.cleaners import Cleaned
from mlm_dist.corpus.markdown import block_rules, cleaner, front_matter, tables, writer
from mlm_dist.corpus.outline import Outline, Span

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"


def clean(text: str) -> str:
    return cleaner.clean(text).text


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


# --- An independent view of the same: regular expressions over the source, without code. ---

# Every class of token that may vanish, and what is left of it. Nothing else may.
VANISHING = [
    ("comments", r"<!--.*?-->", " "),
    ("titles of includes that name a file", r"\[!INCLUDE\s*\[[^\]\s]+\.md\]\([^)]*\)\]", " "),
    ("the same without its suffix", r"\[!INCLUDE\s*\[([^\]\s]+)\]\([^)]*/\1\.md\)\]", " "),
    ("directive names and targets", r"\[!(?:INCLUDE|code-\w+)\s*\[([^\]]*)\]\([^)]*\)\]", r" \1 "),
    ("directives without text", r"\[!(?:div|VIDEO)\b[^\]]*\]", " "),
    ("image paths", r':::image\b[^\n]*?alt-text="(.*?)"(?=\s+[\w-]+=|\s*:::)[^\n]*?:::', r" \1 "),
    ("images without alternative text", r":::image\b(?![^\n]*alt-text)[^\n]*?:::", " "),
    ("directive attributes", r"(?m):::\s*(?:zone|moniker|row|column|image|code)\b[^\n]*$", " "),
    ("link targets and titles", r"\]\(\s*(?:[^()\s]|\([^()]*\))*(?:\s+\"[^\"]*\")?\s*\)", "]"),
    ("labels of links", r"\]\[\d+\]", "]"),
    ("reference definitions", r'(?m)^ {0,3}\[[^\]^]+\]:[ \t]*\S+[ \t]*(?:"[^"]*")?[ \t]*$', " "),
    ("superscript tags", r"</?sup>", " "),
    (
        "html tags and their attributes",
        r"</?(?:a|b|br|code|div|em|i|iframe|kbd|li|ol|p|span|strong|sub|table|tbody|td|th|thead|tr|u|ul)(?:\s[^<>]*)?/?>",
        " ",
    ),
]
FRONT_MATTER = re.compile(r"\ufeff?---[ \t]*\n(.*?)\n---[ \t]*\n", re.DOTALL)
FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d+\.)[ \t]+)?(`{3,}|~{3,})([^`]*)$")
CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)


def expected_words(text: str) -> tuple[list[str], list[str]]:
    """The words of the title and of all text that must stay."""
    text = text.replace("\r\n", "\n")
    title = ""
    if settings_block := FRONT_MATTER.match(text):
        found = re.search(r"^title:(.*)$", settings_block[1], re.MULTILINE | re.IGNORECASE)
        title = found[1] if found else ""
        text = text[settings_block.end() :]
    kept: list[str] = []
    prose: list[str] = []
    fence = ""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        marker = FENCE.match(line)
        if marker and not fence and not any(later.strip(" \t>") == marker[1] for later in lines[number + 1 :]):
            continue  # never closed: it ends with the item that holds it
        if marker and (not fence or (marker[1].startswith(fence) and not marker[2].strip())):
            fence = "" if fence else marker[1]
            kept += _prose_words("\n".join(prose))
            prose.clear()
        elif fence:
            kept += words(line)
        else:
            prose.append(line)
    return words(title), kept + _prose_words("\n".join(prose))


def _prose_words(text: str) -> list[str]:
    spans: list[str] = []

    def aside(span: re.Match[str]) -> str:
        spans.append(span[2])
        return f"\ue000{len(spans) - 1}\ue001"

    text = CODE_SPAN.sub(aside, text)
    for _, pattern, rest in VANISHING:
        text = re.sub(pattern, rest, text, flags=re.DOTALL | re.IGNORECASE)
    text = unescape(text).replace("*", "")
    return words(re.sub("\ue000(\\d+)\ue001", lambda number: spans[int(number[1])], text))


def corpus_documents() -> list[Path]:
    return sorted(CORPUS.rglob("*.md"))


def test_no_word_of_the_real_corpus_is_lost() -> None:
    paths = corpus_documents()
    if not paths:
        pytest.skip(f"no documents in {CORPUS}: the corpus of real documents is not beside this checkout")
    for path in paths:
        source = path.read_text("utf-8")
        cleaned = cleaner.clean(source)
        title, expected = expected_words(source)
        assert words(cleaned.text) in (expected, title + expected), path  # in order, and nothing is made up
        assert cleaned.notes == (), path


# --- Made-up documents, of words that must stay and words that must go. ---

_numbers = st.integers(0, 999)
kept = _numbers.map(lambda number: f"keep{number}")
gone = _numbers.map(lambda number: f"gone{number}")


def filled(template: str) -> st.SearchStrategy[str]:
    """A template whose K become words to keep and whose G words that go."""
    parts = re.split("([KG])", template)
    return st.tuples(*({"K": kept, "G": gone}.get(part, st.just(part)) for part in parts)).map("".join)


INLINE = [
    "K",
    "**K** K",
    "_K_",
    "~~K~~",
    "`K`",
    "[K **K**](G/G.md)",
    '[K](<G G> "G")',
    "![K](G.png)",
    "[![K](G.png)](G)",
    "<b>K</b>",
    '<a name="G"></a>K',
    '<img src="G" alt="K">',
    "K<br/>K",
    "<!-- G -->",
    "<K-name>",
    "<https://K.org>",
    "K&nbsp;K",
    "\\*K\\*",
    "H<sub>K</sub>",
    "K[^K]",
    "[!INCLUDE [K K](../G/G.md)]",
    "[!INCLUDE [G-G.md](../G/G.md)]",
    "[!code-csharp[K](~/G.cs#L1)]",
    ':::image type="icon" source="G.svg" alt-text="K "K" K" border="false":::',
    '{{< figure src="G.png" alt="K" >}}',
    "{{ .K }}",
    '{% include "G.html" title="K" %}',
    "{ref}`K`",
    "K [x",
    "K *",
    "(K]",
    "K_K",
    "K  \nK",
    "K\nK",
]
BLOCKS = [
    "# K K",
    "## K {#G}",
    "### [K](#tab/G)",
    "K K\n===",
    "---",
    "```G\nK [K](K) <b>\n```",
    "~~~ {.G}\nK\n~~~",
    "    K <K>",
    "> [!NOTE]\n> K",
    '> [!div class="G"]\n> [K](G)',
    "- K\n- [x] K\n  - K",
    "3. K\n4. K",
    "* K\n\n  K\n\n* K",
    "| K | K |\n|---|:-:|\n| K | `K` | K |\n| K\\|K |",
    "K\n: K\n: K",
    '!!! note "K K"\n    K\n\n    - K',
    '=== "K"\n\n    K',
    '::: zone pivot="G"\nK\n::: zone-end',
    '::: moniker range=">=G"\n\nK\n\n::: moniker-end',
    ':::row:::\n:::column span="2":::\nK\n:::column-end:::\n:::row-end:::',
    ':::image type="content" source="G.png"\n   alt-text="K" lightbox="G":::',
    ':::code language="G" source="~/G.cs":::',
    "[!VIDEO https://G.org/G]",
    ":::tip K\nK\n:::",
    "```{warning} K\n:class: G\n**K**\n```",
    "```{code-block} G\nK **K**\n```",
    "<!-- G\n\nG --> K",
    "<div class='G'>\n  <p>K</p>\n</div>",
    "<table><tr><td>K</td><td>K</td></tr></table>",
    "<details><summary>K</summary>\n\nK\n\n</details>",
    "<script>\nG\n</script>",
    "<style>\n.G {}\n</style>",
    "<pre>\nK <b>K</b>\n</pre>",
    '[G]: http://G "G"',
    "[^K]: K\n\n    K",
    "{{< note >}}\nK\n{{< /note >}}",
    "{% raw %}\nK\n{% endraw %}",
    "K\n{: .G }",
]
paragraphs = st.lists(st.sampled_from(INLINE), min_size=1, max_size=5).map(" ".join)


def _indented(block: str, marker: str) -> str:
    return marker + ("\n" + " " * len(marker)).join(block.split("\n"))


def _quoted(block: str) -> str:
    return "> " + "\n> ".join(block.split("\n"))


blocks = st.recursive(
    paragraphs | st.sampled_from(BLOCKS),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("\n\n".join)
        | inner.map(_quoted)
        | st.tuples(inner, st.sampled_from(["- ", "1. "])).map(lambda pair: _indented(*pair))
    ),
    max_leaves=6,
)
documents = st.lists(blocks, min_size=1, max_size=4).map("\n\n".join).flatmap(filled)


@settings(max_examples=400, deadline=None)
@given(documents)
def test_text_is_kept_in_order_and_markup_removed(text: str) -> None:
    cleaned = cleaner.clean(text)
    assert re.findall(r"keep\d+", cleaned.text) == re.findall(r"keep\d+", text)
    assert "gone" not in cleaned.text
    assert cleaned == cleaner.clean(text)
    assert cleaned.notes == ()


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="ab12 \n\t*_`~#>-+.|\\=:!()[]\"'$^{}&;,<%@é\u2028", max_size=80))
def test_random_markup_without_links_tags_and_directives_loses_no_letter(text: str) -> None:
    # What may hide letters in it: targets, fences' languages, tags, entities, attributes and definitions.
    text = re.sub(r"\]\(|\]\[|\]:|```+|~~~+|<(?=[a-z/!?])|&|[{}]|:::+", " ", text)
    text = re.sub(r"\[[ x]\]|\[!", "[", text)
    letters = re.compile(r"[^\W_]")
    assert letters.findall(clean(text)) == letters.findall(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="-+:\"'{}[]!&*\n #\ttitleab|>\0\ud800\ufeff\r", max_size=80))
def test_any_text_is_cleaned(text: str) -> None:
    cleaned = cleaner.clean(text)
    assert cleaned == cleaner.clean(text)
    assert "\0" not in cleaned.text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(kept, min_size=1, max_size=8).map(" ".join), min_size=1, max_size=5).map("\n\n".join))
def test_plain_text_is_unchanged(text: str) -> None:
    assert clean(text) == text
    assert clean(text.replace("\n", "\r\n")) == text
    assert clean("\ufeff" + text) == text


# --- How it reads. ---


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("# Head #\nOne\nline  \nbreak\n\n***\n\nTwo", "Head\n\nOne line\nbreak\n\nTwo"),
        ("1. one\n2. two\n   - a\n   - b\n\nEnd", "1. one\n2. two\n  - a\n  - b\n\nEnd"),
        ("- one\n\n  more\n- two", "- one\n\nmore\n\n- two"),
        ("- - a\n-\n- 7.\n", "- - a\n- 7."),
        ("1986. was\n\n2023.\n", "1986. was\n\n2023."),
        ("- [ ] do\n- [x] done\n", "- do\n- done"),
        ("|a|b|\n|-|-|\n|1|x<br>y|\n|2|\n|3|4|5|", "a | b\n1 | x y\n2\n3 | 4 | 5"),
        ("a\n```sh\n  x *y*\n\n\tz\n```\nb", "a\n\n  x *y*\n\n\tz\n\nb"),
        ("1. a\n\n   ```\n   x\n     y\n   ```\n", "1. a\n\nx\n  y"),
        ("a\n```\nb\n   ", "a\n\nb"),
        ("Use `a  <b> *c*` &lt;d&gt; &copy;", "Use a  <b> *c* <d> ©"),
        ("`&amp;` and {{ x }} and `{% y %}`", "&amp; and {{ x }} and {% y %}"),
        ("> [!IMPORTANT]\n> Take **care**.", "Important: Take care."),
        ("> quote\n> > inner", "quote\n\ninner"),
        ("See [x][1], [1] and [2].\n\n[1]: http://a 'T'", "See x, 1 and [2]."),
        ("<https://a.b/_c_> https://a.b/_c_?d=*e*", "https://a.b/_c_ https://a.b/c?d=e"),
        ("a <vault-name> <b>b</b> <title> c<x", "a <vault-name> b <title> c<x"),
        ("2<sup>31</sup> H<sub>2</sub>O", "2^31 H2O"),
        ("<ul>\n<li>a</li>\n<li>b</li>\n</ul>", "- a\n- b"),
        ("<table>\n<tr><td>a</td>\n<td>b</td></tr>\n<tr><td>c</td></tr></table>", "a  | b\nc"),
        ("x ![a](b)y![](c)z", "x a y z"),
        ("a <!-- b\nc --> d", "a  d"),
        ("<!-- a\n\nb --> c\n\nd", "c\n\nd"),
        ("<!-- a\n\n*b*", "<!-- a\n\nb"),
        ("a <script>b</script> c <script> d", "a  c  d"),
        ("a <script>b<br>c<x-y></script>d", "a d"),
        ("Term\n: Def *one*\n: Two", "Term\n: Def one\n: Two"),
        ("a[^1]\n\n[^1]: b\n\n    c", "a[^1]\n\n[^1]: b\n\nc"),
        ('!!! warning "Hot *x*"\n    a\n\n    b\nc', "Warning: Hot *x*\n\na\n\nb\n\nc".replace("*", "")),
        ('=== "Linux"\n\n    a [b](c)', "Linux\n\na b"),
        ("::: zone pivot='a'\n# [CLI](#tab/cli)\nb\n\n---\n::: zone-end\nc", "CLI\n\nb\n\nc"),
        ("1. a\n   :::image source='b' alt-text='c':::\n1. d", "1. a\n\nc\n\n1. d"),
        ("a\n[!INCLUDE [b c](d.md)]\ne", "a\nb c\ne"),
        ("## a {#b}\n\nc\n{: .d }", "a\n\nc"),
        ("{a: 1} {#if x} {b}", "{a: 1} {#if x} {b}"),
        ('x{{< y title="k" >}}z', "x k z"),
        ("```{note}\nSee {ref}`a`.\n```", "Note:\n\nSee a."),
        ("a\\\nb \\[c\\](d)", "a\nb [c](d)"),
    ],
)
def test_cleaned_text_of_examples(source: str, expected: str) -> None:
    assert clean(source) == expected


# --- Front matter. ---


@pytest.mark.parametrize(
    ("source", "title", "body"),
    [
        ("---\ntitle: A b\nx: y\n---\nBody", "A b", "Body"),
        ("\ufeff---\r\ntitle: 'A: b'\r\n---\r\nBody", "A: b", "Body"),
        ("---\n# note\nx:\n- y\n- z\nTitle: >\n  A\n  b\n...\nBody", "A b", "Body"),
        ("---\ntitle: A: b # c\n---\nBody", "A: b # c", "Body"),  # no YAML, but common
        ("---\ntitle: null\n---\nBody", None, "Body"),
        ("---\nx: &a b\ntitle: *a\n---\nBody", None, "Body"),
        ("---\ntitle: &a b\n---\nBody", "b", "Body"),
        ("---\ntitle: !!python/object/apply:os.system ['touch /']\n---\nBody", None, "Body"),
        ("---\ntitle: !!python/name:os.system\n---\nBody", None, "Body"),
        ("---\ntitle: [a, b]\n---\nBody", None, "Body"),
        ("---\nx: y\n---", None, ""),
        ("+++\ntitle = 'A b'\nx = 1\n+++\nBody", "A b", "Body"),
        ("---\ntitle: A b\nx: y\nBody", None, None),  # never closed
        ('+++\n# c\nx = """\nSome\nprose."""\n[a.b] # c\ny = [\n  1, # ]\n  "z]",\n]\n+++\nBody', None, "Body"),
        (
            "+++\nx = { y = 1 }\n\n[[a]]\ntitle = \"A b\"\n'q r'.s = '''\nt'''\nd = 2024-01-01 10:00:00Z\n+++\nB",
            "A b",
            "B",
        ),
        ("+++\ntitle = 'A b'\nBody", None, None),
        ("+++\nx = 1\nProse that is between rules.\n+++\nMore", None, None),
        ("+++\nx = a word or two\n+++\nMore", None, None),
        ("+++\n[A link][b] and prose.\n+++\nMore", None, None),
        ("+++\nx = [\nProse.\n+++\nMore", None, None),
        ('+++\nx = """\nProse.\n+++\nMore', None, None),
        ("---\nBody that is between rules.\n---\nMore", None, None),
        ("---\nSo: a rule.\nAnd prose.\n---\nMore", None, None),
        ("---\n---\nBody", None, None),
        ("- x\n---\ntitle: y\n---\n", None, None),
        (" ---\ntitle: y\n---\n", None, None),
    ],
)
def test_front_matter(source: str, title: str | None, body: str | None) -> None:
    text = source.removeprefix("\ufeff").replace("\r\n", "\n")
    assert front_matter.split(text) == (title, text if body is None else body)
    cleaned = cleaner.clean(source)
    assert cleaned.title == title
    if body is None:
        assert set(words(source)) <= set(words(cleaned.text))
    else:
        assert cleaned.text == "\n\n".join(part for part in (title, body) if part)


def test_title_is_not_repeated() -> None:
    assert clean("---\ntitle: A  b\n---\n# a *B*\n\nc") == "a B\n\nc"
    assert clean("---\ntitle: A b\n---\n# A\n\nb") == "A b\n\nA\n\nb"


def test_front_matter_is_never_expanded_or_constructed() -> None:
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 60))
    cleaned = cleaner.clean(f"---\na0: &a0 [lol]\n{bomb}title: *a59\n---\nBody")
    assert cleaned == Cleaned("Body")
    huge = "".join(f"key{i}: value\n" for i in range(20_000))
    assert cleaner.clean(f"---\n{huge}title: A\n---\nBody").text == "A\n\nBody"
    assert cleaner.clean(f"---\ntitle: {'a' * 3000}\n---\nBody").text == "Body"
    assert cleaner.clean(f"---\ntitle: {'[' * 1900}\n---\nBody").text.endswith("Body")
    assert words(clean(f"---\n{huge}Body"))[-2:] == ["value", "body"]
    hostile = 'a = """' + '\\"""' * 200_001 + "\n" + "x.x" * 200_000 + "\n"  # both take a square of it if done badly
    assert front_matter.split(f"+++\n{hostile}+++\nBody")[0] is None


# --- What attackers and accidents bring. ---

HOSTILE = {
    "quotes": ">" * 5000 + " keep",
    "lists": "".join("  " * i + f"- keep{i}\n" for i in range(400)),
    "list markers": "- " * 3000 + "keep",
    "lazy quotes": ">" * 90 + "a\n" + "keep\n" * 3_000,
    "footnotes": "[^a]: " * 3000 + "keep",
    "admonitions": "".join("    " * i + f"!!! keep{i}\n" for i in range(200)),
    "brackets": "[" * 100_000 + "keep",
    "images": "![" * 15_000 + "keep",
    "links": "[a](" * 9_000 + "keep",
    "stars": "*" * 100_000 + "keep",
    "emphasis": "**a *b_" * 3_000 + "keep",
    "backticks": " ".join("`" * i for i in range(1, 500)) + "keep",
    "tags": "<a " * 15_000 + "keep",
    "scripts": "a<script>" * 5_000 + "keep",
    "open comments": "<!-- a\n" * 9_000 + "keep",
    "entities": "&#" * 15_000 + "keep",
    "includes": "[!INCLUDE [" * 5_000 + "keep",
    "shortcodes": "{{< " * 4_000 + "keep",
    "attributes": '{.a b="' * 9_000 + "keep",
    "colons": ":::image " * 10_000 + "keep",
    "definitions": "[a\n" * 9_000 + "keep",
    "wide table": "|a" * 500 + "\n" + "|-" * 500 + "\n" + "|\n" * 3_000 + "\nkeep",
    "cells beyond the header": "|a|b|\n|-|-|\n" + "|c" * 9_000 + "|keep|",
    "fences": "".join("`" * i + "{note}\n" for i in range(300, 2, -1)) + "keep",
    "one line": "keep " * 400_000,
    "blank lines": "\n" * 200_000 + "keep",
    "tabs": "\t" * 100_000 + "keep",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_kept(name: str) -> None:
    text = HOSTILE[name]
    cleaned = cleaner.clean(text)
    assert re.findall(r"keep\d*", cleaned.text) == re.findall(r"keep\d*", text)
    assert len(cleaned.text) < len(text) + 100_000


@pytest.mark.parametrize("name", ["quotes", "lists", "list markers", "footnotes", "admonitions"])
def test_deeply_nested_markdown_is_kept_as_is(name: str) -> None:
    text = "---\ntitle: T\n---\n" + HOSTILE[name]
    outline = Outline(Span(0, 1))  # the title is outside the body
    assert cleaner.clean(text) == Cleaned("T\n\n" + HOSTILE[name].strip(), "T", (cleaner.TOO_DEEP,), outline)


@pytest.mark.parametrize("text", [HOSTILE["lazy quotes"], "a *b*\n" * 300 + "c\n\nd\n" * 400], ids=["tries", "lines"])
def test_markdown_that_takes_too_long_is_kept_as_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_LINES", 1000 if "*" in text else 1_000_000)
    assert cleaner.clean(text) == Cleaned(text.strip(), None, (cleaner.TOO_LONG,))


@pytest.mark.parametrize(
    "text",
    ["- a *b*\n" * 100, "a|b\n-|-\n" + "c|d\n" * 100, "|a" * 20 + "\n" + "|-" * 20],
    ids=["tokens", "rows", "columns"],
)
def test_tokens_and_columns_are_bounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_rules, "MAX_TOKENS", 200)
    monkeypatch.setattr(tables, "MAX_COLUMNS", 10)
    cleaned = cleaner.clean(text)
    if text.startswith("|"):  # no table, so a paragraph
        assert cleaned == Cleaned(text.replace("\n", " "))
    else:
        assert cleaned == Cleaned(text.strip(), None, (cleaner.TOO_LONG,))


def test_paragraph_with_too_much_markup_is_kept_as_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_MARKUP", 5)
    cleaned = cleaner.clean("*a* *b* *c*\n\n*d*")
    assert cleaned == Cleaned("*a* *b* *c*\n\nd", notes=(writer.TOO_DENSE,))


@pytest.mark.parametrize("depth", [1, 30, 45, 47, 48, 49, 50, 51, 99, 100, 101, 150])
@pytest.mark.parametrize("marker", [">", "- ", "1. ", "> - "])
def test_nested_text_is_kept(depth: int, marker: str) -> None:
    cleaned = cleaner.clean(f"before\n\n{marker * depth}keep\n\nafter *x*")
    assert [word for word in words(cleaned.text) if word != "1"] == ["before", "keep", "after", "x"]


def test_unusual_characters() -> None:
    assert clean("a\0b \ud800 *c*\n\n\x0b\f d\u2028e") == "a\ufffdb \ud800 c\n\nd\u2028e"
