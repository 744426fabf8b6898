"""What a prepared corpus depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlm_dist.config import CorpusConfig, SourceConfig

RowMode = Literal["truncate", "chunk", "pack", "pairs"]
PACKED: tuple[RowMode, ...] = ("pack", "pairs")  # several chunks per row, which must not attend to each other
TokenizerKind = Literal["wordpiece", "bpe", "unigram"]


@dataclass(frozen=True)
class TokenizerSpec:
    """The tokenizer.

    Args:
        path: Folder or Hub name to load it from; None to train one on the documents.
        key: The config key that names `path`, for messages.
        train_vocab_size: Tokens of a trained one.
        train_kind: Kind of a trained one.
        train_uncased: Whether a trained one removes case and accents; None for what its kind does.
        add_domain_tokens: Words to add; 0 for none.
        revision: Branch, tag or commit of `path` on the Hub; None for the default branch.
    """

    path: str | None
    key: str
    train_vocab_size: int
    train_kind: TokenizerKind
    train_uncased: bool | None
    add_domain_tokens: int
    revision: str | None = None


@dataclass(frozen=True)
class RowsSpec:
    """How documents become rows.

    Args:
        mode: truncate, chunk, pack; or pairs, a query and a passage in each row.
        max_length: Tokens per row, special tokens included.
    """

    mode: RowMode
    max_length: int


@dataclass(frozen=True)
class SourceSpec:
    """One source of documents.

    Args:
        key: The config section that describes it, such as corpus or corpus.sources.manuals, for messages.
        config: Where its documents are, and how they are read and cleaned.
    """

    key: str
    config: SourceConfig

    @property
    def name(self) -> str:
        """The name among several sources, which begins the ids of its documents; empty for the only source."""
        return self.key.removeprefix("corpus.sources.") if self.key.startswith("corpus.sources.") else ""

    @property
    def source_key(self) -> str:
        """The config key that names the source, for messages."""
        return f"{self.key}.source"


@dataclass(frozen=True)
class CorpusSpec:
    """Everything a prepared corpus depends on.

    Args:
        sources: Where the documents come from.
        documents: Filters, deduplication and the split; its own fields of a source are not read.
        tokenizer: The tokenizer.
        rows: How documents become rows.
        longest_row: Tokens of the longest row that the run trains or validates on: where documents are divided into a
            training and a validation part, the gap is as long.
        needs_word_starts: Whether the positions at which words begin are stored with the rows.
    """

    sources: tuple[SourceSpec, ...]
    documents: CorpusConfig
    tokenizer: TokenizerSpec
    rows: RowsSpec
    longest_row: int
    needs_word_starts: bool

    @property
    def key(self) -> str:
        """The config key that names the sources, for messages."""
        return self.sources[0].source_key if len(self.sources) == 1 else "corpus.sources"
