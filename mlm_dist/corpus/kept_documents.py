"""The documents to keep of a shard: read, cleaned and filtered."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mlm_dist.config import CorpusConfig
from mlm_dist.corpus import cleaners, filters, held_out_parts, shards, split_labels
from mlm_dist.corpus.cleaners import Cleaned
from mlm_dist.corpus.document_files import text_of_ids
from mlm_dist.corpus.outline import Outline
from mlm_dist.corpus.plain_text import without_surrogates
from mlm_dist.corpus.readers import Document, Dropped
from mlm_dist.corpus.shards import Shard
from mlm_dist.corpus.time_limit import time_limit

SECONDS_PER_DOCUMENT = 60.0
TOKENIZED = "tokenized already"  # the note for documents of token ids


class KeptDocument(NamedTuple):
    """A document to keep. The text of one that is tokenized already is its ids, by which duplicates are found."""

    id: str
    side: int
    group: int
    input_ids: Sequence[int] | None
    outline: Outline
    text: str


class KeptDocuments:
    """The documents of a shard, read, cleaned and filtered one by one.

    Args:
        config: The settings.
        shard: The shard.
        row_length: Tokens per row, see `held_out_parts.PartsSpec`.
    """

    def __init__(self, config: CorpusConfig, shard: Shard, row_length: int) -> None:
        self._config, self._shard = config, shard
        self._parts = held_out_parts.parts_spec(config, row_length, shard.source)
        self._filters = filters.load(config.filters)
        self.dropped: list[tuple[str, str]] = []
        self.encodings: Counter[str] = Counter()
        self.decoded: dict[str, set[str]] = {}
        self.notes: Counter[str] = Counter()

    def __iter__(self) -> Iterator[KeptDocument]:
        """The documents to keep."""
        source = self._shard.source
        for document in shards.read(source, self._shard.parts, int(self._config.max_document_mb * 1e6)):
            # A file name that is not UTF-8 gives an id with lone surrogates. In a text they are replaced.
            id_ = source.prefix + document.id.encode("utf-8", "backslashreplace").decode("utf-8")
            if isinstance(document, Dropped):
                self.dropped.append((id_, document.reason))
                continue
            side, group = self._side(document), split_labels.group_key(document.group)
            if document.input_ids is not None:
                self.notes[TOKENIZED] += 1
                yield KeptDocument(id_, side, group, document.input_ids, Outline(), text_of_ids(document.input_ids))
                continue
            self.encodings[document.encoding] += 1
            if not document.encoding.startswith("utf-"):
                # The id of a record is the name of its file and the position in it.
                is_file = document.id in source.files
                file = id_ if is_file else re.sub(r"[#@][\d.]+\Z", "", id_)
                self.decoded.setdefault(document.encoding, set()).add(file)
            try:
                text, outline = self._text(document)
            except _DropError as error:
                self.dropped.append((id_, error.reason))
                continue
            yield from self._divided(KeptDocument(id_, side, group, None, outline, text))

    def _text(self, document: Document) -> tuple[str, Outline]:
        """The text of a document without markup, as filters leave it, and its outline.

        Raises:
            _DropError: It is dropped.
        """
        cleaned = self._cleaned(document)
        text = cleaned.text.strip()
        # With corpus.clean none, all characters of the raw text count.
        self._refuse_short(text, len(cleaned.text if self._shard.source.clean == "none" else text))
        outline = cleaned.outline
        if len(text) < len(cleaned.text):
            start = len(cleaned.text) - len(cleaned.text.lstrip())
            outline = outline.part(start, start + len(text))
        text = without_surrogates(text)
        return self._filtered(text, outline) if self._filters else (text, outline)

    def _filtered(self, text: str, outline: Outline) -> tuple[str, Outline]:
        changed, before = [], text
        with _limit("filter"):
            for name, apply in self._filters:
                found = apply(text)
                if found.reason is not None:
                    raise _DropError(found.reason)
                if found.text != text:
                    changed.append(f"changed by {name}")
                    text = without_surrogates(found.text.strip())
                    self._refuse_short(text, len(text))
            outline = outline.of_lines_kept(before, text)
        self.notes.update(changed)
        return text, outline

    def _refuse_short(self, text: str, num_chars: int) -> None:
        if not text or num_chars < self._config.min_chars:
            raise _DropError(f"under {self._config.min_chars} characters" if text else "empty")

    def _side(self, document: Document) -> int:
        """The side of the split that a document names."""
        if document.side is not None and document.side not in split_labels.SIDES:
            self.notes[f"{self._shard.source.split} is neither train nor validation nor test"] += 1
        return split_labels.SIDES.get(document.side or "", split_labels.NO_SIDE)

    def _divided(self, document: KeptDocument) -> Iterator[KeptDocument]:
        """A document, or its parts for training and for validation if its end is held out."""
        is_open = document.side == split_labels.NO_SIDE and document.group == split_labels.NO_GROUP
        parts = held_out_parts.divide(document.text, self._parts) if self._parts is not None and is_open else None
        if parts is None:
            yield document
            return
        self.notes["divided into a part for training and one for validation"] += 1
        id_, size = document.id, len(document.text)
        # A text has no spaces at its ends, so its parts are at its ends.
        first = document.outline.part(0, len(parts.train))
        last = document.outline.part(size - len(parts.validation), size)
        yield document._replace(id=f"{id_}#train", side=split_labels.TRAIN, outline=first, text=parts.train)
        self.dropped.append((f"{id_}#gap", held_out_parts.GAP))
        side = split_labels.VALIDATION
        yield document._replace(id=f"{id_}#validation", side=side, outline=last, text=parts.validation)

    def _cleaned(self, document: Document) -> Cleaned:
        markup = self._shard.source.clean or document.markup
        if markup == "none":
            return Cleaned(document.text, outline=document.outline)
        with _limit("clean"):
            cleaned = cleaners.clean(document.text, markup)
        self.notes.update(cleaned.notes)
        return cleaned


class _DropError(Exception):
    """A document is dropped.

    Args:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def _limit(work: str) -> Iterator[None]:
    """Drop a document whose work, such as clean, takes over `SECONDS_PER_DOCUMENT`."""
    try:
        with time_limit(SECONDS_PER_DOCUMENT):
            yield
    except TimeoutError:
        raise _DropError(f"over {SECONDS_PER_DOCUMENT:g} s to {work}") from None
