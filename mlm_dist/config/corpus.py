"""Sections of the config about documents, the tokenizer and rows."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from typing import Literal

from mlm_dist import names
from mlm_dist.config.checks import Section
from mlm_dist.config.source import SourceConfig, named_source
from mlm_dist.errors import ConfigError

MAX_LENGTH, MAX_VOCABULARY, MAX_TASKS = 1 << 17, 1 << 20, 100_000
SHARE_TOLERANCE = 1e-3  # by which the shares of a mix may miss 1
EXPORT_SUFFIXES = (".json", ".jsonl", ".parquet")


def _default_cache_dir() -> str:
    """The cache of this user, see the XDG Base Directory Specification: a relative path is ignored."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return f"{base.rstrip('/') if os.path.isabs(base) else '~/.cache'}/mlm_dist"


@dataclass(frozen=True)
class CorpusConfig(SourceConfig):
    """The documents.

    Args:
        sources: Several sources instead of one: {name: {source: ..., patterns: ..., clean: ...}}, each with any of the
            keys above and a validation_fraction of its own, where 1 keeps all its documents for validation.
            Near-duplicates are looked for across them, and the manifest counts each.
        mix: Shares of the sources in the training rows, evenly spread: {name: share}; the shares add up to 1. Each
            source has its own order and its own epochs, and an epoch of the run is one pass over the source that is
            named first. A source that is not named is validated on, but not trained on. Without a mix, the rows of all
            sources are shuffled together.
        min_chars: Documents with fewer characters are dropped. The characters of the plain text count, without white
            space at its ends; with clean none, all characters of the raw text.
        max_document_mb: Documents larger than this are dropped. Preparation needs memory in proportion to it.
        filters: Filters and formatters of datatrove for the cleaned text of each document, in this order: {class:
            {argument: value}}, such as {GopherQualityFilter: {min_doc_words: 30}, PIIFormatter: {}}. They need the
            extra mlm_dist[scale].
        deduplicate: exact drops duplicates, whose texts differ at most in white space, in letter case, in invisible
            characters or in the form of characters; near also drops near-duplicates of a document that is kept; none
            keeps all documents.
        near_threshold: Two documents are near-duplicates if they share this fraction of their five-word phrases.
        keep_together: What is on one side of the split besides the documents of a group: near for near-duplicates,
            exact for duplicates only. exact is for documents whose near-duplicates another tool has found; it needs
            deduplicate none or exact, because no near-duplicates are searched.
        prefer: Which of several duplicates is kept: the first in the order of paths, the longest, or by patterns as in
            a .gitignore, such as current/ and v2.0/. Documents that match an earlier pattern are kept before others.
        validation_fraction: Fraction of the documents in the validation set, chosen by a hash of their text.
            Near-duplicates are on the same side, see keep_together. Documents whose records name their side keep it.
        validation_from: documents holds out whole documents; parts holds out the end of each document that is long
            enough, after a gap of one row, which is dropped. By default parts for a source that is a single document,
            else documents.
        export: A .json, .jsonl or .parquet file to write the kept documents to, for other tools.
        cache_dir: Folder for fetched sources and prepared corpora, kept between runs and shared by all nodes; `mlm-dist
            cache` lists and removes corpora. By default mlm_dist in $XDG_CACHE_HOME if that is set, else in ~/.cache.
        store: Folder in an object store, such as s3://bucket/corpora, in which machines share prepared corpora. A
            corpus that cache_dir lacks is downloaded from it and verified; a prepared one is uploaded to it.
        rows_from: disk reads the training rows from cache_dir. store leaves them in corpus.store and reads them in
            blocks while training, for a corpus larger than the disk; the order of the rows is then another one.
        block_cache_gb: The most GB of such blocks on the disk, in cache_dir.
        engine: What runs the preparation: local divides it among the processes of the launch; datatrove runs it as
            tasks of that package, which needs the extra mlm_dist[scale]. Both write the same bytes.
        executor: Where the tasks of engine datatrove run: local for processes of this machine, slurm for jobs of a
            Slurm cluster, ray for a Ray cluster.
        tasks: Number of tasks for the documents, and for the rows, of engine datatrove; at most one per shard is used.
        workers: How many of them run at the same time; by default all.
        executor_options: Arguments of the executor of datatrove, such as partition, time and mem_per_cpu_gb for slurm.
    """

    # The parser reads strings among values of type Any as YAML, so that 1252 would become a number.
    sources: dict[str, dict] = field(default_factory=dict)  # type: ignore[type-arg]
    mix: dict[str, float] = field(default_factory=dict)
    min_chars: int = 200
    max_document_mb: float = 16.0
    filters: dict = field(default_factory=dict)  # type: ignore[type-arg]  # as sources
    deduplicate: Literal["none", "exact", "near"] = "near"
    near_threshold: float = 0.8
    keep_together: Literal["near", "exact"] = "near"
    prefer: Literal["first", "longest"] | list[str] = "first"
    validation_fraction: float = 0.05
    validation_from: Literal["documents", "parts"] | None = None
    export: str | None = None
    cache_dir: str = field(default_factory=_default_cache_dir)
    store: str | None = None
    rows_from: Literal["disk", "store"] = "disk"
    block_cache_gb: float = 10.0
    engine: Literal["local", "datatrove"] = "local"
    executor: Literal["local", "slurm", "ray"] = "local"
    tasks: int = 1
    workers: int | None = None
    executor_options: dict = field(default_factory=dict)  # type: ignore[type-arg]  # as sources

    def check(self) -> None:
        """See `Section.check`."""
        super().check()
        self.require("validation_fraction", 0 <= self.validation_fraction < 1, "must be at least 0 and under 1")
        self.named_sources()
        is_trained_on = min(self.validation_fractions().values()) < 1
        self.require("sources", is_trained_on, "validation_fraction of one must be under 1, to train on its documents")
        self._check_mix()
        self.require_range("min_chars", 0)
        self.require("max_document_mb", 0 < self.max_document_mb <= 1000, "must be over 0 and at most 1000")
        self.require("near_threshold", 0 < self.near_threshold <= 1, "must be over 0 and at most 1")
        if self.keep_together == "exact" and self.deduplicate == "near":
            raise ConfigError(
                "corpus.keep_together: exact searches no near-duplicates, but corpus.deduplicate near drops them; set "
                "corpus.deduplicate to none or exact, or remove this key"
            )
        self.require("prefer", bool(self.prefer) and all(self.prefer), "must be first, longest or a list of patterns")
        self.require("prefer", not any("://" in one for one in self.prefer), "patterns are of paths, not of addresses")
        self.require_place("cache_dir")
        self.require_place("export")
        self.require_store("store")
        self._check_store()
        can_be_written = self.export is None or self.export.lower().endswith(EXPORT_SUFFIXES)
        self.require("export", can_be_written, f"must end in {', '.join(EXPORT_SUFFIXES)}")
        self._check_engine()

    def _check_store(self) -> None:
        """Refuse a store that is a part of a source, whose documents would include what is made of them; or none."""
        named = self.named_sources().items()
        for key, source in named if self.store is not None else ():
            if f"{str(self.store).rstrip('/')}/".startswith(f"{source.source.rstrip('/')}/"):
                raise ConfigError(f"corpus.store: is a folder of {key}.source; name a folder outside of it")
        if self.rows_from == "store" and self.store is None:
            raise ConfigError("corpus.rows_from: store needs corpus.store; name the folder of prepared corpora with it")
        self.require_over_zero("block_cache_gb")
        if self.rows_from == "disk" and self.block_cache_gb != CorpusConfig.block_cache_gb:
            raise ConfigError("corpus.block_cache_gb: only corpus.rows_from store has it; set that, or remove this key")

    def validation_fractions(self) -> dict[str, float]:
        """{name: fraction of its documents in the validation set} of all sources; the name of an only one is empty."""
        given = {name: values.get("validation_fraction") for name, values in self.sources.items()} or {"": None}
        return {name: self.validation_fraction if one is None else one for name, one in given.items()}

    @property
    def holds_out(self) -> bool:
        """Whether documents of some source are held out."""
        return max(self.validation_fractions().values()) > 0

    def _check_engine(self) -> None:
        self.require_range("tasks", 1, MAX_TASKS)
        self.require_range("workers", 1, or_null=True)
        self.require("workers", self.workers is None or self.workers <= self.tasks, "must be at most corpus.tasks")
        defaults = {"executor": "local", "tasks": 1, "workers": None, "executor_options": {}}
        for name, default in defaults.items():
            if self.engine == "local" and getattr(self, name) != default:
                raise ConfigError(
                    f"{self.key(name)}: only corpus.engine datatrove has it; set that, or remove this key"
                )

    def _check_mix(self) -> None:
        if self.mix and not self.sources:
            raise ConfigError("corpus.mix: gives shares of several sources; name them with corpus.sources")
        for name, share in self.mix.items():
            key = f"corpus.mix.{name}"
            if name not in self.sources:
                raise ConfigError(f"{key}: there is no such source; {names.nearest(str(name), self.sources)}")
            if not 0 < share <= 1:
                raise ConfigError(
                    f"{key}: must be over 0 and at most 1, got {share}; leave a source out to validate on it only"
                )
            if self.validation_fractions()[name] == 1:
                raise ConfigError(
                    f"{key}: corpus.sources.{name}.validation_fraction is 1, so no documents are left to train on; "
                    "lower it, or leave the source out of corpus.mix"
                )
        total = sum(self.mix.values())
        if self.mix and abs(total - 1) > SHARE_TOLERANCE:
            shares = " + ".join(f"{share:g}" for share in self.mix.values())
            raise ConfigError(f"corpus.mix: shares must add up to 1, got {shares} = {total:.6g}")

    def named_sources(self) -> dict[str, SourceConfig]:
        """{key: source} of all sources: those of `sources`, or the one of `source`.

        Raises:
            ConfigError: A source of `sources` has a wrong name, key or value, or both forms are used.
        """
        fields = [item.name for item in dataclasses.fields(SourceConfig)]
        if not self.sources:
            return {self.SECTION: SourceConfig(**{name: getattr(self, name) for name in fields})}
        default = SourceConfig()
        for name in fields:
            if getattr(self, name) != getattr(default, name):
                raise ConfigError(f"corpus.sources and corpus.{name} exclude each other; give {name} of each source")
        return {f"corpus.sources.{name}": named_source(name, values) for name, values in self.sources.items()}


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
