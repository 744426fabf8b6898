"""The tokenizer of a corpus: loaded or trained, with domain tokens added."""

from __future__ import annotations

import dataclasses
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from mlm_dist.corpus.tokenizer import domain_tokens, loading, training
from mlm_dist.corpus.tokenizer.training_texts import TrainingTexts
from mlm_dist.errors import CorpusError
from mlm_dist.files import write_json
from mlm_dist.spec import TokenizerSpec
from mlm_dist.terminal.console import fitting
from mlm_dist.terminal.stages import stage

logger = logging.getLogger(__name__)


class CorpusTokenizer:
    """The tokenizer that a spec describes.

    Args:
        spec: The tokenizer.
        max_length: Tokens per row.
    """

    def __init__(self, spec: TokenizerSpec, max_length: int) -> None:
        self._spec, self._max_length = spec, max_length

    @cached_property
    def original(self) -> Any:
        """The tokenizer that the spec names, without domain tokens; None if one is trained.

        Raises:
            ModelError: It cannot be loaded.
        """
        spec = self._spec
        return None if spec.path is None else loading.load(spec.path, spec.key, spec.revision)

    @property
    def is_original(self) -> bool:
        """Whether the corpus uses the tokenizer that the spec names as it is."""
        return self._spec.path is not None and not self._spec.add_domain_tokens

    @property
    def loaded(self) -> Any:
        """The tokenizer of the corpus if this process has loaded it already; else None."""
        return vars(self).get("original") if self.is_original else None

    def dependencies(self) -> dict[str, Any]:
        """What the tokenizer of the corpus depends on besides the documents, as JSON values."""
        added = {"add_domain_tokens": self._spec.add_domain_tokens or None}
        if self.original is not None:
            return {"sha256": loading.digest(self.original)} | added
        names = ("train_vocab_size", "train_kind", "train_uncased")
        return {name: getattr(self._spec, name) for name in names} | added

    def make(self, texts: TrainingTexts, num_documents: int, folder: Path) -> Any:
        """Load or train the tokenizer, add domain tokens, and save both beside the rows.

        Args:
            texts: The training documents.
            num_documents: How many they are.
            folder: Folder of the corpus in preparation.

        Raises:
            CorpusError: The documents have nothing that a tokenizer can be trained on.
        """
        tokenizer = self.original
        added: list[domain_tokens.DomainToken] = []
        if tokenizer is None:
            kind, vocab_size = self._spec.train_kind, self._spec.train_vocab_size
            what = f"training a {training.NAMES[kind]} tokenizer of {vocab_size:,} tokens"
            logger.info(fitting([what, f"on {num_documents:,} documents", f"({texts.describe()})"]))
            with stage("training tokenizer", unit="documents") as shown:
                counted = lambda: shown.over(texts())  # noqa: E731
                tokenizer = training.train(kind, counted, vocab_size, self._max_length, self._spec.train_uncased)
                shown.result = f"{len(tokenizer):,} tokens"
            if len(tokenizer) <= len(training.SPECIAL):  # for example nothing but NUL characters
                raise CorpusError("corpus.source: the documents have no letters to train a tokenizer on; choose others")
        if self._spec.add_domain_tokens:
            with stage("adding domain tokens", unit="documents", leaves_after=None) as shown:
                limit = self._spec.add_domain_tokens
                tokenizer, added = domain_tokens.add(tokenizer, shown.over(texts()), limit)
            logger.info(
                "added %s domain tokens, counted on %s documents (%s)",
                *(f"{len(added):,}", f"{num_documents:,}", texts.describe()),
            )
        loading.save(tokenizer, folder / "tokenizer")
        write_json(folder / "domain_tokens.json", [dataclasses.asdict(one) for one in added], indent=1)
        return tokenizer
