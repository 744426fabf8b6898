"""What a model is validated on: the rows its corpus holds out, and some of a second corpus, by the same masks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from accelerate import Accelerator

from mlm_dist import second_corpus
from mlm_dist.batches.loader import validation_batches
from mlm_dist.batches.masking import Masker
from mlm_dist.batches.shapes import Rows
from mlm_dist.config import Config
from mlm_dist.corpus import sentences
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.corpus.tokenizer import loading
from mlm_dist.evaluation.frequency_bands import by_frequency
from mlm_dist.evaluation.pseudo_likelihood import PseudoLikelihood, one_by_one
from mlm_dist.evaluation.validation import Validation, evaluate, unigram_loss


class HeldOut:
    """The held-out rows of a corpus; made on every process, where no process group is needed.

    Args:
        config: The run. What `validation.second_source` names is prepared with the tokenizer of the corpus.
        corpus: The run's corpus.

    Raises:
        ConfigError: The second source cannot be used.
    """

    def __init__(self, config: Config, corpus: PreparedCorpus) -> None:
        self._corpus = corpus
        self._rows = corpus.rows("validation")
        self._bands = by_frequency(corpus.token_counts, corpus.domain_tokens)
        self._second: PreparedCorpus | None = None
        if config.validation.second_source is not None:
            self._second, rows = second_corpus.to_validate(config, corpus)
            # No more than of the own corpus, so that it takes no more time; as many give a figure of the same weight.
            self._second_rows = Spread(rows, len(self._rows))

    def __len__(self) -> int:
        return len(self._rows)

    def facts(self, masker: Masker) -> dict[str, Any]:
        """What a run says of it when it begins; on one process."""
        if not len(self):
            return {}
        batches = validation_batches(self._rows, masker, 256, 1, 0)
        found: dict[str, Any] = {"unigram_loss": unigram_loss(self._corpus.token_counts, batches)}
        if self._second is not None:
            found["second_source"] = self._second.manifest["source"]["location"]
            found["second_corpus"] = self._second.digest
        return found

    def evaluate(
        self, accelerator: Accelerator, model: Any, masker: Masker, micro_size: int, *, static: bool = False
    ) -> Validation:
        """Evaluate a prepared model on both corpora; with `static` all micro-batches have one shape; a collective."""
        share = accelerator.num_processes, accelerator.process_index
        batches = validation_batches(self._rows, masker, micro_size, *share, static=static)
        found = evaluate(accelerator, model, batches, self._bands)
        if self._second is None:
            return found
        batches = validation_batches(self._second_rows, masker, micro_size, *share, static=static)
        return dataclasses.replace(found, second=evaluate(accelerator, model, batches))

    def pseudo_likelihood(
        self, accelerator: Accelerator, model: Any, count: int, micro_size: int
    ) -> PseudoLikelihood | None:
        """Evaluate a prepared model on so many held-out sentences, each token masked in turn; a collective.

        Returns:
            None where no sentence is wanted, or the held-out documents have none that fits into a row.
        """
        if not count:
            return None
        tokenizer, max_length = self._corpus.tokenizer, self._rows.max_length
        special = loading.special_tokens(tokenizer)
        texts = (text for _, _, text in self._corpus.documents("validation"))
        found = [tokenizer.backend_tokenizer.encode(sentence).ids for sentence in sentences.sample(texts, count)]
        found = [ids for ids in found if len(ids) <= max_length and set(ids) - set(special.all)]
        if not found:
            return None
        share = micro_size, accelerator.num_processes, accelerator.process_index
        batches = one_by_one(found, special.all, special.mask, special.pad, *share)
        result = evaluate(accelerator, model, batches)
        return PseudoLikelihood(len(found), result.num_masked, -result.loss)


class Spread:
    """Some rows of a split, evenly spread over it.

    Args:
        rows: The split.
        most: How many at most.
    """

    def __init__(self, rows: Rows, most: int) -> None:
        count = min(len(rows), most)
        self._rows, self._chosen = rows, np.arange(count) * len(rows) // max(count, 1)

    def __len__(self) -> int:
        return len(self._chosen)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._rows.take(self._chosen[indices])

    def chunks(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Rows`."""
        return self._rows.chunks(self._chosen[indices])

    def word_starts(self, indices: np.ndarray) -> np.ndarray:
        """See `Rows`."""
        return self._rows.word_starts(self._chosen[indices])
