"""A source of documents in the config."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from mlm_dist.config.checks import Section
from mlm_dist.config.value_types import is_text_encoding
from mlm_dist.errors import ConfigError

# Suffixes of the files that are documents by default.
PATTERNS = ("md", "markdown", "mdx", "qmd", "Rmd", "rst", "ipynb", "txt")


@dataclass(frozen=True)
class SourceConfig(Section):
    """One source of documents.

    Args:
        source: python-docs (built in, needs no network), a folder, a git URL or repository (URL#branch-or-commit), a
            file of records (.json, .jsonl, .ndjson, .csv, .tsv, .parquet, .arrow), a .txt file, or the name of a
            dataset on the Hugging Face Hub. Files may be compressed (.gz, .bz2, .xz, .zst). A folder that holds records
            and no documents, or that `save_to_disk` of the datasets library wrote, is read as records.
        patterns: Which files of a folder or repository are documents (globs relative to its root).
        clean: Markup to remove from every document, such as markdown; none keeps the text as it is. By default the
            suffix of a file decides, and records are kept as they are.
        text: Fields of a record that hold its text; several are joined by a blank line. A dot leads into a field, as in
            page.body. Records without text but with a list of integers, such as input_ids, are tokenized already.
        encoding: Character encoding of all files, such as windows-1252. By default each file's own is detected.
        separator: Text between the documents of a .txt file that is itself the source, such as ---; \\n makes each line
            a document, \\n\\n each block between blank lines. By default the file is one document.
        split: Field of a record that names its side of the split (train, validation or test), which is then respected;
            null ignores it. Records for testing are held out as those for validation are.
        group: Field of a record, such as a book or an author; records with the same value are on the same side. A null,
            an empty text, NaN and -1, as of datatrove and scikit-learn, name no group.
        dataset_config: Configuration of a dataset on the Hub.
        dataset_split: Split of a dataset, such as train or train+test. By default train for a dataset on the Hub, and
            all splits, each on its side, for a folder that `save_to_disk` wrote.
        revision: Branch, tag or commit of a dataset on the Hub.
        limit: Take only the first rows of a dataset on the Hub; no more than these are downloaded.
    """

    SECTION, FREE_TEXT = "corpus", ("separator", "sources", "filters", "executor_options")

    source: str = "python-docs"
    patterns: list[str] = field(default_factory=lambda: [f"**/*.{suffix}" for suffix in PATTERNS])
    clean: str | None = None
    text: list[str] = field(default_factory=lambda: ["text"])
    encoding: str | None = None
    separator: str | None = None
    split: str | None = "split"
    group: str | None = None
    dataset_config: str | None = None
    dataset_split: str | None = None
    revision: str | None = None
    limit: int | None = None

    def check(self) -> None:
        """See `Section.check`."""
        self.require_text("source", "must name a source")
        self.require("patterns", bool(self.patterns), "must hold at least one glob such as '**/*.md'")
        self.require_text("clean", "must name a kind of markup, or be none or null")
        self.require("text", bool(self.text) and all(self.text), "must name at least one field")
        known = self.encoding is None or is_text_encoding(self.encoding)
        self.require("encoding", known, "must be the name of a text encoding such as windows-1252, or null")
        self.require("separator", self.separator != "", "must not be empty")
        self.require_text("split", "must name a field, or be null")
        self.require_text("group", "must name a field, or be null")
        self.require_text("dataset_config", "must name a configuration, or be null")
        self.require_text("dataset_split", "must name a split, or be null")
        self.require_text("revision", "must name a branch, tag or commit, or be null")
        self.require_range("limit", 1, or_null=True)


@dataclass(frozen=True)
class NamedSourceConfig(SourceConfig):
    """A source of `corpus.sources`.

    Args:
        validation_fraction: Fraction of its documents in the validation set, from 0 to 1; null is that of the corpus.
    """

    validation_fraction: float | None = None

    def check(self) -> None:
        """See `Section.check`."""
        super().check()
        fraction = self.validation_fraction
        self.require("validation_fraction", fraction is None or 0 <= fraction <= 1, "must be from 0 to 1, or null")


def named_source(name: str, values: dict[str, Any]) -> NamedSourceConfig:
    """A source of `corpus.sources`.

    Raises:
        ConfigError: Its name, a key or a value is wrong.
    """
    key = f"corpus.sources.{name}"
    fields = [item.name for item in dataclasses.fields(NamedSourceConfig)]
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(f"{key}: a name has letters, digits, _ and - only")
    if not isinstance(values, dict) or "source" not in values:
        raise ConfigError(f"{key}: expected a dict with the key source and others of {', '.join(fields)}, got {values}")
    for given in values:
        if given not in fields:
            raise ConfigError(f"{key}.{given}: unknown key; the keys of a source are {', '.join(fields)}")
    try:
        return NamedSourceConfig(**values)
    except ConfigError as error:
        raise ConfigError(str(error).replace("corpus.", f"{key}.", 1)) from None
