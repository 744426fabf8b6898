"""What reading and cleaning does to the documents of a checkout: words before and after, residual markup, [UNK].

    python benchmarks/fidelity.py my_docs                           # any folder, by file suffix
    python benchmarks/fidelity.py a_site another --examples 5       # also lines in which markup may be left
    python benchmarks/fidelity.py my_docs --write cleaned           # also every cleaned document, to read it
    python benchmarks/fidelity.py my_docs --tokenizer bert-base-uncased

All files that can be read count, whatever `corpus.patterns` says. Words are runs of letters and digits; in scripts
without spaces every character is a word. Before cleaning, the words of markup count too, so a smaller number afterwards
is not a loss. Residual markup is searched in the whole text; code blocks stay to the letter and may show some. Without
--tokenizer, [UNK] is that of a tokenizer trained on the same documents as in a run.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from common import console
from rich.table import Table

from mlm_dist.config import SourceConfig, parse
from mlm_dist.corpus import cleaners, pipeline, shards, shingles, sources
from mlm_dist.corpus.readers import Document, Dropped
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.resolve import corpus_spec

MARKUP = {
    "link": re.compile(r"!?\[[^\[\]\n]*\]\([^)\n]*\)|`[^`\n]+ <[^>\n]+>`__?"),
    "emphasis": re.compile(r"(?<![\w*])\*\*\w[^*\n]*\*\*|(?<!\w)__\w[^_\n]*__(?!\w)"),
    "template": re.compile(r"\{\{[<%]|\{%|%\}|[>%]\}\}"),
    "directive": re.compile(r"^\s*(?:::{2,}|\.\. [\w:-]+::|!!! |\?\?\? |\|===|include::|\[%?\w+[,=])", re.MULTILINE),
    "role": re.compile(r":[\w:.+-]+:`[^`\n]+`|\{[\w:-]+\}`[^`\n]+`"),
    "tag": re.compile(r"</?(?:[a-z]+[1-6]?|[A-Z]\w+(?:\.\w+)?)(?:\s+[\w:@-]+(?:=[^>\n]*)?)*\s*/?>"),
    "heading": re.compile(r"^(?:#{1,6}|={1,5}) \S", re.MULTILINE),
    "attribute": re.compile(r"\{[:#.][\w-][^}\n]*\}"),
}


@dataclass
class Figures:
    """What became of the files of one suffix."""

    files: set[str] = field(default_factory=set)
    documents: int = 0
    num_bytes: int = 0
    before: int = 0
    after: int = 0
    seconds: float = 0.0
    residual: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def main() -> None:
    """Print a table for each folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="folders, or any other corpus.source")
    parser.add_argument("--tokenizer", help="folder or Hub name; by default one is trained on the documents")
    parser.add_argument("--examples", type=int, default=0, help="lines with residual markup to print per suffix")
    parser.add_argument("--write", type=Path, help="folder for the cleaned documents")
    arguments = parser.parse_args()
    for name in arguments.source:
        of_suffix = read(name, arguments.write)
        console.print(table(name, of_suffix, unknown(name, of_suffix, arguments.tokenizer)))
        for suffix, figures in of_suffix.items():
            for reason, count in (figures.dropped + figures.notes).most_common():
                console.print(f"  {suffix}: {count:,} {reason}", markup=False)
            for line in figures.examples[:: max(1, len(figures.examples) // max(arguments.examples, 1))][
                : arguments.examples
            ]:
                console.print(f"  {suffix}: {line}", markup=False, highlight=False)


def read(name: str, write: Path | None) -> dict[str, Figures]:
    """The figures of each suffix, the most files first.

    Args:
        name: The source.
        write: Folder for the cleaned documents.
    """
    config = SourceConfig(source=name, patterns=["*"])
    of_suffix: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as cache:
        source = sources.acquire(config, Path(cache))
        for shard in shards.shards(source):
            for document in shards.read(source, shard.parts, 16_000_000):
                path = document.id.split("@")[0].split("#")[0]
                figures = of_suffix.setdefault(Path(path).suffix.lower() or Path(path).name, Figures())
                figures.files.add(path)
                if isinstance(document, Dropped):
                    figures.dropped[f"dropped: {document.reason}"] += 1
                    continue
                text = add(figures, document)
                if write is not None:
                    target = write / Path(name).name / f"{document.id}.cleaned.txt"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(text, "utf-8")
    return dict(sorted(of_suffix.items(), key=lambda item: -len(item[1].files)))


def add(figures: Figures, document: Document) -> str:
    """Clean a document, and add its figures; returns the text."""
    start = time.perf_counter()
    cleaned = cleaners.clean(document.text, document.markup)
    figures.seconds += time.perf_counter() - start
    figures.documents += 1
    figures.num_bytes += len(document.text.encode("utf-8", "surrogatepass"))
    figures.before += words(document.text)
    figures.after += words(cleaned.text)
    figures.notes.update(cleaned.notes)
    figures.texts.append(cleaned.text)
    for kind, pattern in MARKUP.items():
        for match in pattern.finditer(cleaned.text):
            figures.residual[kind] += 1
            line = cleaned.text[cleaned.text.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
            figures.examples.append(f"{document.id}: {kind}: {line.strip()[:140]}")
    return cleaned.text


def words(text: str) -> int:
    """The number of words of a text."""
    return len(shingles.shingles(text)) + shingles.SHINGLE_WORDS - 1 if text.strip() else 0


def unknown(name: str, of_suffix: dict[str, Figures], tokenizer_name: str | None) -> dict[str, float]:
    """{suffix: fraction of the tokens that are [UNK]}."""
    folder = Path(tempfile.mkdtemp())
    try:
        if tokenizer_name is not None:
            tokenizer = loading.load(tokenizer_name)
        else:
            texts = {"source": str(folder / "texts.jsonl"), "cache_dir": str(folder / "cache")}
            lines = (json.dumps({"text": text}) for one in of_suffix.values() for text in one.texts)
            (folder / "texts.jsonl").write_text("\n".join(lines), "utf-8")
            flags = [*(f"--corpus.{key}={value}" for key, value in texts.items()), "--corpus.validation_fraction=0"]
            tokenizer = pipeline.prepare(corpus_spec(parse([*flags, "--corpus.min_chars=0"]))).tokenizer
        shares = {}
        for suffix, figures in of_suffix.items():
            ids = [
                id_
                for encoded in tokenizer.backend_tokenizer.encode_batch(figures.texts, add_special_tokens=False)
                for id_ in encoded.ids
            ]
            shares[suffix] = ids.count(tokenizer.unk_token_id) / max(1, len(ids))
        return shares
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(name: str, of_suffix: dict[str, Figures], shares: dict[str, float]) -> Table:
    """One row per suffix."""
    shown = Table(title=name, title_justify="left")
    for column in ("suffix", "files", "documents", "words before", "after", "left", "MB/s", "[UNK]"):
        shown.add_column(column.replace("[", r"\["), justify="left" if column == "suffix" else "right")
    shown.add_column("residual markup per 1,000 words")
    for suffix, figures in of_suffix.items():
        residual = ", ".join(
            f"{kind} {1000 * count / max(1, figures.after):.1f}" for kind, count in figures.residual.most_common()
        )
        shown.add_row(
            suffix,
            f"{len(figures.files):,}",
            f"{figures.documents:,}",
            f"{figures.before:,}",
            f"{figures.after:,}",
            f"{figures.after / max(1, figures.before):.1%}",
            f"{figures.num_bytes / 1e6 / max(figures.seconds, 1e-9):.1f}" if figures.seconds > 0.01 else "",
            f"{shares[suffix]:.2%}",
            residual,
        )
    return shown


if __name__ == "__main__":
    main()
