"""The text of this repository: phrases that were replaced do not come back, and each term has one name.

docs/glossary.md lists the terms. To say something else with one of these phrases, rewrite the sentence.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from launching import ROOT

FOLDERS = ("docs", "launch", "configs", "mlm_dist", "benchmarks", "tests", ".github", ".ci")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "Dockerfile", "setup.cfg", "pyproject.toml")
SUFFIXES = {".py", ".md", ".ipynb", ".yaml", ".yml", ".sh", ".sbatch", ".svg", ".toml", ".cfg", ""}

# A dot stands for a space, so that this file does not contain the phrases itself.
PHRASES = [
    phrase.replace("·", " ")
    for phrase in (
        "going·on·from",
        "the·short·and·the·doubled",
        "word·frequencies·alone",
        "is·left·out·on·all",
        "of·the·places·hold",
        "where·there·is·something·to·predict",
        "are·our·own,·too",
        "what·it·will·be·and·take",
        "nothing·is·done·yet",
        "what·a·run·leaves·behind",
        "sets·aside·what·is·there",
        "nothing·to·be·patient·about",
        "is·the·home·of·that",
        "nobody·is·logged·in",
        "is·it·any·good",
        "from·cheap·to·dear",
        "and·the·first·weights·depend·on",
        "larger·than·this·are·set·aside",
        "for·want·of",
        "only·takes·note",
    )
]

# Patterns of the terms that have another name now, each with that name. `[ ]` keeps a pattern from matching itself.
TERMS = {
    r"near[- ]cop(y|ies)": "near-duplicate",
    r"doubled[ ](documents|ones|texts)": "duplicate",
    r"set(s|ting)?[ ]aside|[S]etAside": "drop (a document)",
    r"left[ ]out|left[_]out": "skip, or drop",
    r"(go|goes|going|went|gone)[ ]on (from|with|at|where)": "resume",
    r"(take|takes|taken|taking|took)[ ]up (again|where|from|after)|(killed|stopped) and taken[ ]up": "resume",
    r"(an|one|each|every|per|first|last|next|same|this|that|\d+)[ ]updates?(?![ ]the\b)(?=[ ,.:;)]|$)": "step",
    r"(num|warmup|of the)[_ ]updates": "step",
    r"held[- ]out[ ](loss|losses|set|sets|rows|figures|accuracy)": "validation loss, validation set",
    r"windows? of (a|the|its|one|each) (document|text)": "chunk",
    r"(windows|window) (alone|apart|in a row|of tokens)": "chunk",
    r"word[- ]frequencies[ ]alone": "unigram baseline",
    r"of[ ]ours\b|of[ ]our[ ]own": "mlm_dist's",
    r"a[n]ew": "start fresh, or again",
    r"who[e]ver": "anyone who",
    r"sh[a]ll": "must, or is to",
}


def text_files() -> list[Path]:
    """The files that people read, without generated data."""
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    paths = [path for path in below if path.is_file() and path.suffix in SUFFIXES and "__pycache__" not in path.parts]
    return sorted({path.resolve() for path in [*paths, *(ROOT / name for name in FILES)]})


@functools.cache
def texts() -> dict[Path, str]:
    """{path: text on one line} of all text files."""
    return {path.relative_to(ROOT): one_line(path.read_text("utf-8")) for path in text_files()}


def one_line(text: str) -> str:
    """The text without line breaks, and without the comment marks and quotes at the breaks."""
    return re.sub(r"(\\n)?[\"',\s]*\n[\s#*>|]*(f?[\"'])?", " ", text)


def occurrences(pattern: str) -> list[str]:
    """Where a pattern occurs, upper or lower case: "file: the text around it"."""
    compiled = re.compile(pattern, re.IGNORECASE)
    return [
        f"{path}: …{text[max(0, match.start() - 40) : match.end() + 40]}…"
        for path, text in texts().items()
        for match in compiled.finditer(text)
    ]


def whole_words(pattern: str) -> str:
    """The pattern, not within a longer word."""
    return rf"(?<![\w-])({pattern})(?!\w)"


def test_patterns_match_across_lines_and_not_their_own_definition() -> None:
    assert "near" + "-copies are" in one_line("# near" + "-copies\n    # are")
    own = one_line(Path(__file__).read_text("utf-8"))
    assert not [pattern for pattern in TERMS if re.search(whole_words(pattern), own, re.IGNORECASE)]
    assert not [phrase for phrase in PHRASES if phrase in own]


@pytest.mark.parametrize("phrase", PHRASES)
def test_replaced_phrase_is_gone(phrase: str) -> None:
    matches = occurrences(re.escape(phrase))
    assert not matches, "\n".join(matches)


@pytest.mark.parametrize("pattern", TERMS)
def test_term_has_one_name(pattern: str) -> None:
    matches = occurrences(whole_words(pattern))
    assert not matches, f"write {TERMS[pattern]} in:\n" + "\n".join(matches)


def test_nothing_to_copy_contains_a_placeholder() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "launch").iterdir()]
    for page in pages:
        assert not re.search(r"\bOWNER\b|\bpath/to\b|/PATH\b", page.read_text("utf-8")), page
