"""Pairs of a query and a passage from the structure of one document, on which a search model is trained.

Each pair comes from one document, so that a shard's pairs depend on its documents alone. Those that evaluate a model,
see `retrieval_pairs`, are of similar kinds, but of held-out documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlm_dist.corpus import document_files, packing, passages, trivial_queries
from mlm_dist.corpus.packing import RowBlock
from mlm_dist.corpus.passages import OutlinedDocument
from mlm_dist.corpus.retrieval_pairs import MIN_PASSAGE_WORDS
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer
from mlm_dist.corpus.tokenizer.loading import SpecialTokens


class TextPairs(NamedTuple):
    """(query, passage) of a document, each once.

    Args:
        headings: heading → section. The other sections of the document answer no such query.
        others: title → body, title → section, section → next section, and first half → second half. Other passages of
            the document may answer these queries as well.
    """

    headings: list[tuple[str, str]]
    others: list[tuple[str, str]]


def text_pairs(document: OutlinedDocument) -> TextPairs:
    """The pairs of a document.

    A title or heading that says too little, see `trivial_queries`, is no query, and a text of under 20 words is neither
    a passage nor, except for titles and headings, a query. The title is a query of the document, also where a heading
    repeats it.
    """
    title = passages.title(document)
    sections = [(heading, text) for heading, text in passages.sections(document) if _is_passage(text)]
    headings = dict.fromkeys(
        (heading, text) for heading, text in sections if trivial_queries.fault(heading) is None and heading != title
    )
    others = dict.fromkeys(_others(passages.body(document), title, [text for _, text in sections]))
    return TextPairs([*headings], [*others])


def _others(body: str, title: str | None, sections: Sequence[str]) -> Iterator[tuple[str, str]]:
    if title is not None and trivial_queries.fault(title) is None:
        if _is_passage(body):
            yield title, body
        for text in sections:
            yield title, text
    yield from pairwise(sections)
    first, second = passages.halves(body) or ("", "")
    if _is_passage(first) and _is_passage(second):
        yield first, second


def _is_passage(text: str) -> bool:
    return passages.num_words(text) >= MIN_PASSAGE_WORDS


def tokenized(
    path: Path, tokenizer: BatchTokenizer, special: SpecialTokens, wanted: np.ndarray, max_length: int
) -> Iterator[tuple[np.ndarray, RowBlock, np.ndarray]]:
    """The tokens, the rows and the `_counts` of the wanted documents of a shard, some at a time.

    Args:
        path: The documents of the shard.
        tokenizer: The tokenizer.
        special: Its special tokens.
        wanted: [documents] which of them.
        max_length: Tokens per row. Longer pairs are cut: a query to half of it at most, a passage to what it leaves.
    """
    for group in document_files.outlined(path, wanted):
        found = [
            text_pairs(OutlinedDocument(id_, text, one)) if isinstance(text, str) else TextPairs([], [])
            for id_, text, one in group
        ]
        texts = [text for kinds in found for pairs in kinds for pair in pairs for text in pair]
        ids, lengths = tokenizer(texts) if texts else (np.empty(0, np.int32), np.empty(0, np.int64))
        block, is_kept = packing.make_pair_rows(ids, lengths, max_length, special)
        yield ids, block, _counts([len(pairs) for kinds in found for pairs in kinds], is_kept)


def _counts(found: Sequence[int], is_kept: np.ndarray) -> np.ndarray:
    """[documents, 2] the kept pairs of each kind of `TextPairs`, in the order of the rows."""
    kind = np.repeat(np.arange(len(found)), found)
    return np.bincount(kind[is_kept], minlength=len(found)).astype(np.uint32).reshape(-1, 2)
