"""Cleaning what documentation tools add to Markdown: markup goes; text, code, formulas and visible attributes stay."""

# ruff: noqa: RUF001
from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mlm_dist.corpus.cleaners import CLEANERS, markup_of
from mlm_dist.corpus.markdown import cleaner

Examples = list[tuple[str, str]]


def clean(text: str) -> str:
    return cleaner.clean(text).text


CONTAINERS: Examples = [
    ("::: code-group\n```sh\nnpm i x\n```\n:::\n\nAfter", "npm i x\n\nAfter"),
    ("::: code-group\n\n```sh [npm]\ni x\n```\n\n```sh [yarn]\nadd x\n```\n\n:::", "npm\n\ni x\n\nyarn\n\nadd x"),
    ("::: code\ntext\n:::\n\n::: video\nb\n:::", "text\n\nb"),
    ("::: tip 提示\n内容*a*\n:::", "Tip: 提示\n\n内容a"),
    (":::note[Custom *Title*]\n\nText\n\n:::", "Note: Custom Title\n\nText"),
    (":::{note}\n:class: dropdown\nBody\n:::", "Note:\n\nBody"),
    ("::::{tab-set}\n:::{tab-item} Linux\n:sync: l\nA\n:::\n::::", "Linux\n\nA"),
    ('::: {.callout-tip title="A *b*"}\nC\n:::', "Tip: A b\n\nC"),
    ("::: {.class}\nA\n:::\nB", "A\n\nB"),
    ("::: columns\n:::: {.column width='50%'}\nA\n::::\n:::", "A"),
    ("::: details Click me\nnever closed", "Details: Click me\n\nnever closed"),
    ("::: info\nA\n\n::: warning\nB\n:::\nC", "Info:\n\nA\n\nWarning:\n\nB\n\nC"),
    ("- a\n  ::: tip\n  b\n  :::\n- c", "- a\n\nTip:\n\nb\n- c"),
    ("> ::: note\n> a\n> :::", "Note:\n\na"),
    ("a\n::: tip\nb\n:::\nc", "a\n\nTip:\n\nb\n\nc"),
    (":::{code-block} python\n:caption: a.py\n__b__ *c*\n:::\nd", "a.py\n\n__b__ *c*\n\nd"),
    ("::: mermaid\na *b* c\n:::", "a *b* c"),
    ("```{admonition} My *title*\n:class: tip\na\n```", "My title\n\na"),
    ("````{tab-set}\n```{tab-item} Python\na *b*\n```\n````", "Python\n\na b"),
    ("```{figure} a.png\n:alt: B\n:name: c\nThe *d*.\n```", "B\n\nThe d."),
    ("```{code-cell} ipython3\n---\ntags: [a]\n---\nx = 1\n```", "x = 1"),
    ("```{math}\n:label: a\nb_1*c*\n```", "b_1*c*"),
    ("/// note | Title\na\n///", "Note: Title\n\na"),
    ('!!! note inline end "A *b*"\n    c\n\n??? tip ""\n    d', "Note: A b\n\nc\n\nd"),
    ('=== "A & B"\n    c\n=== "D"\n    e', "A & B\n\nc\n\nD\n\ne"),
]
CODE: Examples = [
    ("{% highlight ruby %}\ndef __init__ *a*\n\n  # x\n{% endhighlight %}\n*b*", "def __init__ *a*\n\n  # x\n\nb"),
    ("{%- highlight python linenos -%}\n__a__\n{%- endhighlight -%}", "__a__"),
    ("1. a\n\n   {% highlight sh %}\n   b *c*\n     d\n   {% endhighlight %}\n\n2. e", "1. a\n\nb *c*\n  d\n\n2. e"),
    ("> {% codeblock lang:js %}\n> a*b*c\n> {% endcodeblock %}", "a*b*c"),
    ("Use {% highlight ruby %}a *b* c{% endhighlight %} here", "Use a *b* c here"),
    ("{{< highlight go >}}\nfunc *a() { __x__ }\n{{< /highlight >}}\nEnd", "func *a() { __x__ }\n\nEnd"),
    ("{{<highlight html>}}\n<p>__x__</p>\n{{</highlight>}}", "<p>__x__</p>"),
    ("{{% code %}}\n__a__\n\n*b*\n{{% /code %}}", "__a__\n\n*b*"),
    ("a {% raw %}{{ b*c*d }}{% endraw %} e", "a {{ b*c*d }} e"),
    ("{% raw %}\n# A\n\n```\n{{ b }} *c*\n```\n\n{% if %} *d*\n{% endraw %}", "A\n\n{{ b }} *c*\n\n{% if %} d"),
    ("{% verbatim %}{{ a_b_c }} *x*{% endverbatim %}", "{{ a_b_c }} *x*"),
    ("{{{{raw}}}}{{x}} *a*{{{{/raw}}}}", "{{x}} *a*"),
    ("see <pre>def __init__:\n    *a*</pre> and <code>__x__</code> y", "see\ndef __init__:\n    *a*\nand __x__ y"),
    ("<div><pre>__a__\n\n  __b__</pre></div>\n\n*c*", "__a__\n\n  __b__\n\nc"),
    ('<pre><code class="x">\n__a__ &lt; <b>b</b>\n</code></pre>\n*c*', "__a__ < b\n\nc"),
    ("| a |\n|---|\n| <code>__x__</code> y |", "a\n__x__ y"),
    ("<samp>__x__</samp> <tt>*a*</tt> <code>a[i](x)</code> <code>[B](#b)</code>", "__x__ *a* a[i](x) B"),
    ("a <script>var x = b*c*d;\n\ne()</script> f", "a  f"),
    ("Run `<pre>` then\n\n*b* </pre>", "Run <pre> then\n\nb"),
    ("> ```\n> a *b*\n>   c\n> ```", "a *b*\n  c"),
    ("- x\n\n  ```\n  a  *b*\n    c\n  ```", "- x\n\na  *b*\n  c"),
]
TEMPLATES: Examples = [
    ("{% if a %}Server{% else %}the cloud{% endif %}", "Server the cloud"),
    ("{% if a %}Server.{% else %}The cloud{% endif %}.", "Server. The cloud."),
    ("a{%- if x -%}b{%- endif -%}c", "a b c"),
    ("Hi {{ name|upper }}! {% for x in xs %}{{ x_y_z }}{% endfor %}.", "Hi {{ name|upper }}! {{ x_y_z }}."),
    ("{{#if u}}Hello{{else}}Bye{{/if}} {{name}} {{> partial}}{{!-- c --}}", "Hello Bye {{name}}"),
    ("{{ if .x }}A{{ else }}B{{ end }} {{ .Title }}", "A B {{ .Title }}"),
    ("a {# b #} c {% comment %} d {% endcomment %} e", "a c e"),
    ("{{</* a */>}}", "{{< a >}}"),
    ('[g]({{< relref "g.md" >}}) [h]({{% ref "h#x" %}} "T") [i]({% link a/b.md %})', "g h i"),
    ("[a]({{ site.url }}/b/c) ![d]({{ 'e f' | relative_url }})", "a d"),
    ('See [a][1].\n\n[1]: {{< relref "x y.md" >}}', "See a."),
    ('<a href="{{< relref "x.md" >}}">link</a>', "link"),
    (
        '{{< tabs >}}\n{{% tab "Linux" %}}\n- a\n{{% /tab %}}\n{{< tab name="macOS" >}}\nb\n{{< /tab >}}',
        "Linux\n\n- a\n\nmacOS\n\nb",
    ),
    ('{{< tabs items="npm,yarn" >}}\n{{< tab >}}x{{< /tab >}}', "npm yarn\n\nx"),
    ('{{< figure src="x.png" title="T" caption="A *c*" alt="Al" >}}', "T A c Al"),
    ('{{% notice note "My Title" %}}\na\n{{% /notice %}}', "My Title\n\na"),
    ('{{< details summary="See *it*" >}}\na\n{{< /details >}}', "See it\n\na"),
    ('{% tabs %}\n{% tab title="First" %}\na\n{% endtab %}\n{% endtabs %}', "First\n\na"),
    ('{% include alert.html type="note" content="Some text" %}', "Some text"),
    ('{{< ref "a b" >}} a {{< youtube x >}}', "a"),
]
MATH: Examples = [
    ("$a*b*c$, $$x_1*y_2*z$$, \\(a*b*c\\), \\[ a_b_c \\]", "$a*b*c$, $$x_1*y_2*z$$, \\(a*b*c\\), \\[ a_b_c \\]"),
    ("$$\na\n= b\n- c\n\n$$\n*x*", "$$\na\n= b\n- c\n\n$$\n\nx"),
    ("\\[\na_1 * b_2 * c\n\\]", "\\[\na_1 * b_2 * c\n\\]"),
    ("\\begin{align}\na &= b_1 \\\\\n*c* &= d\n\\end{align}", "\\begin{align}\na &= b_1 \\\\\n*c* &= d\n\\end{align}"),
    ("a $$\nb *c* d\n===\n$$ e", "a $$\nb *c* d\n===\n$$ e"),
    ("\\\\(a*b*c\\\\)", "\\\\(a*b*c\\\\)"),
    ("the $n$th $k$-NN $\\alpha_1*b*$", "the $n$th $k$-NN $\\alpha_1*b*$"),
    ("a $b\n*c*\nd$ e", "a $b\n*c*\nd$ e"),
    ("- a\n\n  $$\n  b*c*d\n  $$\n\n> $$\n> e*f*g\n> $$", "- a\n\n$$\nb*c*d\n$$\n\n$$\ne*f*g\n$$"),
    ("| $a*b*c$ |\n|--|\n| $$d_e_f$$ |", "$a*b*c$\n$$d_e_f$$"),
    ("costs $5 and $10, *not* $20; **$5** to **$10**", "costs $5 and $10, not $20; $5 to $10"),
    ("Pay $5 *now* or 10$; $HOME/*a*/$b, US$5 *x* A$6", "Pay $5 now or 10$; $HOME/a/$b, US$5 x A$6"),
    ("$1,000 *per* $2 unit; $3/*month* and $4.", "$1,000 per $2 unit; $3/month and $4."),
    ("\\[optional\\] \\[link_text\\] \\[ \\] a\\[i\\]", "[optional] [link_text] [ ] a[i]"),
    ("\\[and/or\\] \\[a*b\\] \\[note\nthat *is*\\]", "[and/or] \\[a*b\\] [note that is]"),
]
EAST_ASIAN: Examples = [
    ("中文第一行\n第二行，\n第三行\nEnglish\n中文", "中文第一行第二行，第三行 English 中文"),
    ("한국어\n한국", "한국어 한국"),
    ("ภาษา\nไทย", "ภาษาไทย"),
    ("カタ\nカナ １２\n３ ｶﾅ\nｶﾅ", "カタカナ １２３ ｶﾅｶﾅ"),
    ("- 項目\n  続き", "- 項目続き"),
    ("**粗\n体**\n[链接](x)\n文字", "粗体链接文字"),
    ("<p>中文\n中文</p>", "中文中文"),
    ("一。  \n二\\\n三", "一。\n二\n三"),
    ("これは**「重要」**です。**“引号”**的 他说**你好。**然后", "これは「重要」です。“引号”的 他说你好。然后"),
    ("**한국(韓國)**은 日本語**（注）**です", "한국(韓國)은 日本語（注）です"),
    ("snake_case_名 a**b**c *d*", "snake_case_名 abc d"),
]
MDX: Examples = [
    (
        "import A from 'a';\nimport {\n  B\n} from 'b'\n\nexport const x = {\n  a: 1,\n\n  b: 2\n};\n\n# Hi\n\n<Tabs>\n"
        '<TabItem value="a" label="Apple">\n\n- b *c*\n\n</TabItem>\n</Tabs>',
        "Hi\n\nApple\n\n- b c",
    ),
    (
        "import data from the portal\nexport default settings for all",
        "import data from the portal export default settings for all",
    ),
    ("export default function A() {\n  return <b>\n\n  c</b>\n}\n\nText", "Text"),
    (
        "<Tabs\n  values={[\n {label: 'Apple', value: 'a'},\n\n    {label: 'Pear', value: 'b'},\n  ]}>\n\nt\n\n</Tabs>",
        "Apple Pear\n\nt",
    ),
    ("<Tabs items={['npm', \"yarn\"]}>\n<Tab>x</Tab>\n</Tabs>", "npm yarn\n\nx"),
    ('<Card title="T" icon={<I name="x" />} onClick={() => { a > b }}>Body *x*</Card>', "T Body x"),
    ('<Image src={a} alt="Alt text" caption={`Cap`} />', "Alt text Cap"),
    ("<Trans>Hi</Trans><Trans>there</Trans>", "Hi there"),
    ("<Foo>\n\n    indented *a*\n\n</Foo>", "indented a"),
    ("<CodeGroup>\n```js\na*b*\n```\n</CodeGroup>", "a*b*"),
    ("a {/* b */} c {'d'} <Badge text=\"new\" />", "a c d new"),
    ("{/*\na\n\nb\n*/}\nText", "Text"),
    ("{items.map(i => (\n  <li key={i}>Text here</li>\n))}\n\n<X/>", "Text here"),
    ('<my-tab v-bind:title="x" @click="y" title="Vis">slot</my-tab>', "Vis slot"),
    ('<script setup>\nimport x from "y"\n\nconst a = 1\n</script>\n\n# T', "T"),
    (
        "<a-b> <resource group> <K> List<String> a < b <T extends X> `<Tabs>` </c>",
        "<a-b> <resource group> <K> List<String> a < b <T extends X> <Tabs> </c>",
    ),
    ("{#if x}\na\n{:else}\nb\n{/if}", "a\n\nb"),
]
ATTRIBUTES: Examples = [
    ("## A {#a}\n\n### B {/*b*/}\n\n#### C {#a .b c=d}\n\n# D[[d]]", "A\n\nB\n\nC\n\nD"),
    ("a{: .b}\n{: #c }\n\n> d\n{: .note}", "a\n\nd"),
    ("[x](y){ .md-button } `a`{.py} ![i](j.png){width=50%} [s]{.underline}", "x a i s"),
    ("{a=b} {c} {d: 1}", "{a=b} {c} {d: 1}"),
    ("{{#include a.rs:2}}\n\n```rust\n{{#rustdoc_include b.rs:c}}\nd\n```", "d"),
    ('--8<-- "x.md"\n\n--8<--\na.md\n--8<--\n\n```\n--8<-- "b"\nc\n```', "c"),
    ("[!INCLUDE [a b](c.md)]\n\n[!INCLUDE [c](c.md)]", "a b"),
    ("[[toc]]\n\n[TOC]\n\na :material-home: b", "a b"),
    ('```js title="app.js"\nx\n```', "app.js\n\nx"),
    ('```{r, echo=FALSE, fig.cap="A b"}\nplot(x)\n```', "A b\n\nplot(x)"),
    ("```{python}\n#| label: a\n#| fig-cap: B *c*\nx = 1\n# y\n```", "B c\n\nx = 1\n# y"),
    ("```{r}\n#| fig-cap: |\n#|   A b\n1\n```", "A b\n\n1"),
]


@pytest.mark.parametrize(("source", "expected"), CONTAINERS)
def test_containers_keep_their_title_and_content(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(("source", "expected"), CODE)
def test_code_between_tags_stays_to_the_letter(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(("source", "expected"), TEMPLATES)
def test_tags_of_templates_go_without_joining_words(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(("source", "expected"), MATH)
def test_formulas_are_unchanged_and_prices_are_not_formulas(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(("source", "expected"), EAST_ASIAN)
def test_scripts_without_spaces(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(("source", "expected"), MDX)
def test_components_and_statements_of_mdx(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(("source", "expected"), ATTRIBUTES)
def test_anchors_attribute_lists_includes_and_options(source: str, expected: str) -> None:
    assert clean(source) == expected


@pytest.mark.parametrize(
    ("source", "title"),
    [
        ("\ufeff\n\n---\ntitle: A\n---\nB", "A"),
        ("<!-- licence\n\n-->\n\n---\ntitle: A\n---\nB", "A"),
        ("{/* licence */}\n---\ntitle: A\n---\nB", "A"),
        ('{\n  "title": "A",\n  "b": {"c": [1]}\n}\n\nB', "A"),
        ('{\n  "b": 1\n}\nB', None),
        ("Title: A\nDate: 2020-01-01\nTags: b, c\n\nB", "A"),
        ('---\n"b c": d\n/e: f\n<<: *g\ntitle: A\n---\nB', "A"),
    ],
)
def test_forms_of_front_matter(source: str, title: str | None) -> None:
    cleaned = cleaner.clean(source)
    assert cleaned.title == title
    assert cleaned.text == (f"{title}\n\nB" if title else "B")


@pytest.mark.parametrize(
    "source", ['{"a": 1} is a set', "Title: a story\n\nB", '{"a": \n\nB', "Title: a\nOnce upon: a time\n\nB"]
)
def test_text_that_resembles_front_matter_stays(source: str) -> None:
    assert clean(source).split() == source.split()


@pytest.mark.parametrize("name", ["a.md", "a.markdown", "a.mkd", "a.mdown", "a.mdx", "a.MDX", "a.qmd", "a.Rmd"])
def test_suffixes_of_markdown(name: str) -> None:
    assert markup_of(name) == "markdown"
    assert CLEANERS["markdown"].suffixes


def _library_text(source: str) -> str:
    """The text of a paragraph by the library's parser."""
    md = MarkdownIt("commonmark")
    (tokens,) = (token.children or [] for token in md.parseInline(source))
    parts = []
    for token in tokens:
        if token.type == "image":
            parts.append(_library_text(token.content))
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
        else:
            parts.append(token.content)
    return "".join(parts)


@settings(max_examples=1500, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "b",
                " ",
                "*",
                "**",
                "***",
                "_",
                "__",
                "`",
                "``",
                "[",
                "]",
                "(",
                ")",
                "](",
                "](u)",
                "\\",
                ".",
                "é",
                "&amp;",
            ]
        ),
        min_size=1,
        max_size=14,
    )
)
def test_emphasis_links_and_code_follow_commonmark(parts: list[str]) -> None:
    source = "x" + "".join(parts) + "x"
    assume("*](" not in source and "_](" not in source)  # the library takes the end of a link's text for a space
    assume(not re.search(r"\\\(.*\\\)|\\\[.*\\\]", source))  # formulas, which the library does not know
    assert clean(source).split() == _library_text(source).split()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from([source for source, _ in CODE + TEMPLATES + MATH + MDX + ATTRIBUTES + CONTAINERS]),
        min_size=2,
        max_size=3,
    )
)
def test_result_does_not_depend_on_earlier_documents(sources: list[str]) -> None:
    first = [cleaner.clean(source) for source in sources]
    assert [cleaner.clean(source) for source in reversed(sources)] == first[::-1]
    assert all("\0" not in cleaned.text for cleaned in first)


# Each takes a multiple of this without an end, or never ends, in a document of one kind of markup.
UNITS = [
    *" *_`~#>-+.|\\=:!()[]\"'$^{}&;,<%@/\t\n",
    "$a", "$$", "[a](", "![", "[[", "]]", "<a ", "</a>", '<A b="', "<A {", "<A b={", "<pre>", "<pre>\n\n", "<code>",
    "<!--", "<!-- a\n\n", "{%", "{% raw %}", "{% raw %}\n\n", "{{", "{{<", "{{< a", "{{#", "{{/*", "{{{{", "{#",
    "{# a", "{/*", "{/*\n\n", '{.a b="', "{:", "{'", "\\(", "\\[", "\\begin{a}\n", "$$\n", "$$a\n\n", "\\[\n\n",
    ":::", "::: a\n", ":::{code} a\n", "::: mermaid\n", "!!! a\n", '??? a "', "```\n", "~~~a\n\n", "- a\n", "> a\n",
    ">\n> ", "|a", "|a|\n|-|\n", "a\n: b\n", "a_", "~~a", "  \n", "import a from 'b'\n", "export const a = {\n",
    "<Tabs\n", "<Tabs a={\n\n", "<B/>\n", "--8<--\n", "[a]: b\n", "[a]: b 'c\n", "a **「", "中\n", ":a[b]{", "<?",
    "[a](<", '[a](b "', "[a]{.b ", '{% a title="', "{a}\n", "{%-raw-%}`{%endraw%}", "```{note}\n", "- [ ] ", "<td>",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_bounded_and_text_is_kept(unit: str) -> None:
    cleaned, seconds = _timed(unit * (100_000 // len(unit)) + "\n\n\nkeep")
    assert "keep" in cleaned
    assert seconds < 5


def test_long_lines_of_spaces_take_little_time() -> None:
    for text in (" " * 500_000 + "keep", "keep" + " " * 500_000 + "*a*\nb", "*a*" + " " * 500_000 + "keep\n\nb"):
        cleaned, seconds = _timed(text)
        assert "keep" in cleaned
        assert seconds < 5


def _timed(text: str) -> tuple[str, float]:
    start = time.process_time()
    return clean(text), time.process_time() - start


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ('A\n\n{{< img\n  src="a.jpg"\n  alt="Shown"\n>}}\n\nB', "A\n\nShown\n\nB"),
        ('{{% tab\n- x="y"\n> title="Shown"\n%}}\nIn it.', "Shown\nIn it."),
        ("{% include card.html\n  title='Shown'\n# link='x'\n%}\n\nB", "Shown\n\nB"),
        ("{% of nothing\n> quote\n\n50 %}", "{% of nothing\n\nquote\n\n50 %}"),
        ("{{< never closed\n\n- item", "{{< never closed\n\n- item"),
    ],
)
def test_tag_over_several_lines_is_one_tag(source: str, text: str) -> None:
    assert cleaner.clean(source).text == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("```js {expectedErrors: {'compiler': [4]}}\ncode\n```", "code"),
        ("```sh [npm] {1,3}\ncode\n```", "npm\n\ncode"),
        ("A {term}`long name <Name>` and {py:class}`C <a.b.C>`, {code}`x <y>` and {ref}`plain`.",
         "A long name and C, x <y> and plain."),
    ],
)  # fmt: skip
def test_what_is_not_shown_of_fences_and_roles_goes(source: str, text: str) -> None:
    assert cleaner.clean(source).text == text
