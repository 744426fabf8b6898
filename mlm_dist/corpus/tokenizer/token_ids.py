"""Documents that were tokenized before: their ids go into rows as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.errors import CorpusError


def tokenized(
    documents: Sequence[tuple[str, str, np.ndarray | None]], tokenizer: BatchTokenizer, special: SpecialTokens
) -> tuple[np.ndarray, np.ndarray]:
    """All tokens of some documents.

    Args:
        documents: Id, text and, if it is tokenized already, token ids of each.
        tokenizer: The tokenizer.
        special: Its special tokens.

    Returns:
        Ids, [num_tokens], int32, document after document, and lengths, [num_documents], int64.

    Raises:
        CorpusError: A token id is none of the tokenizer's.
    """
    ids, lengths = tokenizer([text for _, text, _ in documents])
    if all(given is None for _, _, given in documents):
        return ids, lengths
    pieces = np.split(ids, np.cumsum(lengths)[:-1])
    for i, (id_, _, given) in enumerate(documents):
        if given is not None:
            pieces[i] = content(given, special)
            if given.min() < 0 or given.max() >= tokenizer.vocab_size:
                raise CorpusError(
                    f"corpus.source: {id_} has the token id {given.min() if given.min() < 0 else given.max()}, but the "
                    f"tokenizer has {tokenizer.vocab_size} tokens; name the tokenizer that made the ids with "
                    "tokenizer.path"
                )
    return np.concatenate(pieces), np.array(list(map(len, pieces)), np.int64)


def content(ids: np.ndarray, special: SpecialTokens) -> np.ndarray:
    """The ids without padding at both ends, and without the special tokens before and after a chunk."""
    is_content = np.flatnonzero(ids != special.pad)
    if not len(is_content):
        return ids[:0]
    ids = ids[is_content[0] : is_content[-1] + 1]
    prefix, suffix = list(special.prefix), list(special.suffix)
    if prefix and ids[: len(prefix)].tolist() == prefix:
        ids = ids[len(prefix) :]
    if suffix and ids[len(ids) - len(suffix) :].tolist() == suffix:
        ids = ids[: len(ids) - len(suffix)]
    return ids
