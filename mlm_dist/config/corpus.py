"""Sections of the config about documents, the tokenizer and rows."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from mlm_dist.config.checks import Section
from mlm_dist.config.value_types import is_text_encoding
from mlm_dist.errors import ConfigError

MAX_LENGTH, MAX_VOCABULARY = 1 << 17, 1 << 20
EXPORT_SUFFIXES = (".json", ".jsonl", ".parquet")
# Suffixes of the files that are documents by default.
PATTERNS = ("md", "markdown", "mdx", "qmd", "Rmd", "rst", "ipynb", "txt")


def _default_cache_dir() -> str:
    """The cache of this user, see the XDG Base Directory Specification: a relative path is ignored."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return f"{base.rstrip('/') if os.path.isabs(base) else '~/.cache'}/mlm_dist"


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
        group: Field of a record, such as a book or an author; records with the same value are on the same side.
        dataset_config: Configuration of a dataset on the Hub.
        dataset_split: Split of a dataset, such as train or train+test. By default train for a dataset on the Hub, and
            all splits, each on its side, for a folder that `save_to_disk` wrote.
        revision: Branch, tag or commit of a dataset on the Hub.
        limit: Take only the first rows of a dataset on the Hub; no more than these are downloaded.
    """

    SECTION, FREE_TEXT = "corpus", ("separator", "sources")

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
class CorpusConfig(SourceConfig):
    """The documents.

    Args:
        sources: Several sources instead of one: {name: {source: ..., patterns: ..., clean: ...}}, each with any of the
            keys above. Near-duplicates are looked for across them, and the manifest counts each.
        min_chars: Documents with fewer characters are dropped. The characters of the plain text count, without white
            space at its ends; with clean none, all characters of the raw text.
        max_document_mb: Documents larger than this are dropped. Preparation needs memory in proportion to it, and
            about 1 KB per document, 2 KB for near-duplicates.
        deduplicate: exact drops duplicates, whose texts differ at most in white space, in letter case, in invisible
            characters or in the form of characters; near also drops near-duplicates of a document that is kept; none
            keeps all documents.
        near_threshold: Two documents are near-duplicates if they share this fraction of their five-word phrases.
        prefer: Which of several duplicates is kept: the first in the order of paths, the longest, or by patterns as in
            a .gitignore, such as current/ and v2.0/. Documents that match an earlier pattern are kept before others.
        validation_fraction: Fraction of the documents in the validation set, chosen by a hash of their text.
            Near-duplicates are always on the same side. Documents whose records name their side keep it.
        validation_from: documents holds out whole documents; parts holds out the end of each document that is long
            enough, after a gap of one row, which is dropped. By default parts for a source that is a single document,
            else documents.
        replay_source: A second corpus (as source), such as general text, to train on as well, so that a checkpoint
            does not forget what it knows. Epochs count the main corpus; the second corpus has its own validation set.
        replay_share: Fraction of the training rows that come from replay_source, evenly spread.
        export: A .json, .jsonl or .parquet file to write the kept documents to, for other tools.
        cache_dir: Folder for fetched sources and prepared corpora, kept between runs and shared by all nodes; `mlm-dist
            cache` lists and removes corpora. By default mlm_dist in $XDG_CACHE_HOME if that is set, else in ~/.cache.
    """

    # The parser reads strings among values of type Any as YAML, so that 1252 would become a number.
    sources: dict[str, dict] = field(default_factory=dict)  # type: ignore[type-arg]
    min_chars: int = 200
    max_document_mb: float = 16.0
    deduplicate: Literal["none", "exact", "near"] = "near"
    near_threshold: float = 0.8
    prefer: Literal["first", "longest"] | list[str] = "first"
    validation_fraction: float = 0.05
    validation_from: Literal["documents", "parts"] | None = None
    replay_source: str | None = None
    replay_share: float = 0.1
    export: str | None = None
    cache_dir: str = field(default_factory=_default_cache_dir)

    def check(self) -> None:
        """See `Section.check`."""
        super().check()
        self.named_sources()
        self.require_range("min_chars", 0)
        self.require("validation_fraction", 0 <= self.validation_fraction < 1, "must be at least 0 and under 1")
        self.require("max_document_mb", 0 < self.max_document_mb <= 1000, "must be over 0 and at most 1000")
        self.require("near_threshold", 0 < self.near_threshold <= 1, "must be over 0 and at most 1")
        self.require("prefer", bool(self.prefer) and all(self.prefer), "must be first, longest or a list of patterns")
        self.require("prefer", not any("://" in one for one in self.prefer), "patterns are of paths, not of addresses")
        self.require_text("replay_source", "must name a source, or be null")
        self.require("replay_share", 0 < self.replay_share < 1, "must be over 0 and under 1")
        self.require_place("cache_dir")
        self.require_place("export")
        can_be_written = self.export is None or self.export.lower().endswith(EXPORT_SUFFIXES)
        self.require("export", can_be_written, f"must end in {', '.join(EXPORT_SUFFIXES)}")

    def named_sources(self) -> dict[str, SourceConfig]:
        """{key: source} of all sources: those of `sources`, or the one of `source`.

        Raises:
            ConfigError: A source of `sources` has a wrong name, key or value, or both forms are used.
        """
        names = [item.name for item in dataclasses.fields(SourceConfig)]
        if not self.sources:
            return {self.SECTION: SourceConfig(**{name: getattr(self, name) for name in names})}
        default = SourceConfig()
        for name in names:
            if getattr(self, name) != getattr(default, name):
                raise ConfigError(f"corpus.sources and corpus.{name} exclude each other; give {name} of each source")
        return {f"corpus.sources.{name}": _named_source(name, values) for name, values in self.sources.items()}


def _named_source(name: str, values: dict[str, Any]) -> SourceConfig:
    """A source of `corpus.sources`.

    Raises:
        ConfigError: Its name, a key or a value is wrong.
    """
    key = f"corpus.sources.{name}"
    names = [item.name for item in dataclasses.fields(SourceConfig)]
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(f"{key}: a name has letters, digits, _ and - only")
    if not isinstance(values, dict) or "source" not in values:
        raise ConfigError(f"{key}: expected a dict with the key source and others of {', '.join(names)}, got {values}")
    for given in values:
        if given not in names:
            raise ConfigError(f"{key}.{given}: unknown key; the keys of a source are {', '.join(names)}")
    try:
        return SourceConfig(**values)
    except ConfigError as error:
        raise ConfigError(str(error).replace("corpus.", f"{key}.", 1)) from None


@dataclass(frozen=True)
class TokenizerConfig(Section):
    """The tokenizer.

    Args:
        path: Folder or Hub name of a tokenizer; by default the model's.
        train_vocab_size: Train a tokenizer with this many tokens on the training documents. By default one with 4096
            is trained only if neither path nor the model has a tokenizer.
        train_kind: Kind of tokenizer to train: wordpiece (as BERT's), bpe (byte-level, as RoBERTa's and ModernBERT's)
            or unigram (as XLM-RoBERTa's).
        train_uncased: true removes case and accents, as BERT's uncased models do; false keeps both. By default only
            wordpiece makes letters lower case, and accents stay.
        add_domain_tokens: Add this many words to the tokenizer: those that shorten the training documents the most.
            The embedding of each starts as the mean of its pieces' embeddings.
    """

    SECTION = "tokenizer"

    path: str | None = None
    train_vocab_size: int | None = None
    train_kind: Literal["wordpiece", "bpe", "unigram"] = "wordpiece"
    train_uncased: bool | None = None
    add_domain_tokens: int | None = None

    def check(self) -> None:
        """See `Section.check`."""
        size = self.train_vocab_size
        self.require_range("train_vocab_size", 300, MAX_VOCABULARY)
        if size is not None and self.path is not None:
            raise ConfigError("tokenizer.path and tokenizer.train_vocab_size exclude each other; give one of them")
        self.require_range("add_domain_tokens", 1, MAX_VOCABULARY, or_null=True)


@dataclass(frozen=True)
class RowsConfig(Section):
    """How documents become rows of tokens.

    Args:
        mode: truncate keeps the first chunk of max_length tokens of each document; chunk keeps all chunks, one per row;
            pack puts several chunks into a row where they fit, each attending to itself only. null is pack if a
            trial of the architecture shows that chunks stay apart, else chunk.
        max_length: Tokens per row, special tokens included. If a checkpoint has fewer positions, they are interpolated
            linearly, and the log says so.
    """

    SECTION = "rows"

    mode: Literal["truncate", "chunk", "pack"] | None = None
    max_length: int = 128

    def check(self) -> None:
        """See `Section.check`."""
        self.require_range("max_length", 8, MAX_LENGTH)
