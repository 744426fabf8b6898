"""What a prepared corpus depends on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlm_dist.config import CorpusConfig

RowMode = Literal["truncate", "chunk", "pack"]
TokenizerKind = Literal["wordpiece", "bpe", "unigram"]


@dataclass(frozen=True)
class TokenizerSpec:
    """The tokenizer.

    Args:
        path: Folder or Hub name to load it from; None to train one on the documents.
        key: The config key that names `path`, for messages.
        train_vocab_size: Tokens of a trained one.
        train_kind: Kind of a trained one.
        add_domain_tokens: Words to add; 0 for none.
    """

    path: str | None
    key: str
    train_vocab_size: int
    train_kind: TokenizerKind
    add_domain_tokens: int


@dataclass(frozen=True)
class RowsSpec:
    """How documents become rows.

    Args:
        mode: truncate, chunk or pack.
        max_length: Tokens per row, special tokens included.
    """

    mode: RowMode
    max_length: int


@dataclass(frozen=True)
class CorpusSpec:
    """Everything a prepared corpus depends on.

    Args:
        documents: The source, cleaning, deduplication and the split.
        tokenizer: The tokenizer.
        rows: How documents become rows.
        needs_word_starts: Whether the positions at which words begin are stored with the rows.
        key: The config key that names the source, for messages.
    """

    documents: CorpusConfig
    tokenizer: TokenizerSpec
    rows: RowsSpec
    needs_word_starts: bool
    key: str = "corpus.source"
