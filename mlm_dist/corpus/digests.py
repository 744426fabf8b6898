"""Digests: hashes of everything that a corpus, or a shard of it, depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlm_dist.corpus import documents, held_out_parts
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.tokenizer.corpus_tokenizer import CorpusTokenizer
from mlm_dist.spec import CorpusSpec, RowsSpec

VERSION = 7  # of how rows are made; another number gives other digests, so that all corpora are prepared again
PAIRS_VERSION = 2  # as `VERSION`, of rows of pairs


def dependencies(spec: CorpusSpec, tokenizer: CorpusTokenizer) -> dict[str, Any]:
    """Everything the rows depend on besides the documents, as JSON values; the manifest keeps it as `config`.

    Whether a source is divided into a training and a validation part may depend on its files, which are not known for a
    source on the network. So the longest row, which is the gap between the parts, counts if any source may be divided.
    """
    names = ("deduplicate", "near_threshold", "prefer", "validation_fraction", "validation_from")
    corpus = documents.dependencies(spec.documents) | {name: getattr(spec.documents, name) for name in names}
    fractions = spec.documents.validation_fractions().items()
    own = {name: fraction for name, fraction in fractions if fraction != spec.documents.validation_fraction}
    corpus |= {"validation_fractions": own} if own else {}
    # "words" is a part of existing digests; it says that word starts are stored.
    word_starts = {"words": True} if spec.needs_word_starts else {}
    if spec.longest_row != spec.rows.max_length and held_out_parts.may_divide(spec.documents):
        corpus |= {"longest_row": spec.longest_row}
    rows = dataclasses.asdict(spec.rows) | ({"version": PAIRS_VERSION} if spec.rows.mode == "pairs" else {})
    return {"corpus": corpus, "tokenizer": tokenizer.dependencies(), "rows": rows} | word_starts


def corpus_key(source_digests: Sequence[str], dependencies: dict[str, Any]) -> str:
    """The digest of a corpus.

    Args:
        source_digests: `SourceFiles.digest` of each source.
        dependencies: What `dependencies` returned.
    """
    return _key(list(source_digests), dependencies)


def documents_key(settings: dict[str, Any], source_settings: dict[str, Any], shard: Shard) -> str:
    """The key of a shard's documents.

    Args:
        settings: What `documents.source_dependencies` returned.
        source_settings: `SourceFiles.settings` of the shard's source, which all its shards share.
        shard: The shard.
    """
    files = shard.source.files
    parts = [(part.path, part.start, part.stop, files[part.path]) for part in shard.parts]
    return _key(settings, source_settings, parts)


def tokenizer_key(tokenizer_digest: str, domain_tokens: dict[int, list[int]]) -> str:
    """The key of a tokenizer and its domain tokens.

    Args:
        tokenizer_digest: `loading.rows_digest` of the tokenizer.
        domain_tokens: `PreparedCorpus.domain_tokens`.
    """
    return _key(tokenizer_digest, list(domain_tokens.items()))


def rows_key(spec: RowsSpec, documents_key: str, tokenizer_key: str, side: np.ndarray) -> str:
    """The key of a shard's rows.

    Args:
        spec: Mode and length of rows.
        documents_key: Key of the shard's documents.
        tokenizer_key: Key of the tokenizer.
        side: [documents] the selection of the shard's documents.
    """
    return _key(documents_key, tokenizer_key, dataclasses.asdict(spec), side.tobytes().hex())


def _key(*parts: Any) -> str:
    text = json.dumps([VERSION, *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
