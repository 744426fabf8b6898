"""The search of a run: its exported model, and the index of its documents in `search/` of the run directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from mlm_dist.config import parse_of_run
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ConfigError
from mlm_dist.evaluation.bm25 import BM25
from mlm_dist.evaluation.embeddings import TextEncoder
from mlm_dist.hf_model import sentence_transformer
from mlm_dist.pages.record import read_record
from mlm_dist.run_dir import RunDir
from mlm_dist.search.index import Hit, SearchIndex, model_digest
from mlm_dist.search.passages import SPLITS, passages_of_corpus
from mlm_dist.terminal.stages import stage
from mlm_dist.trained_model import cached_corpus, load_exported

MAX_LENGTH = 256  # tokens of a passage or query, if the model does not say


@dataclass(frozen=True)
class RunSearch:
    """The search of a run.

    Args:
        encoder: Its model.
        index: The index of its documents.
    """

    encoder: TextEncoder
    index: SearchIndex

    @classmethod
    def of(cls, run: Path | str, splits: Sequence[str] = SPLITS) -> RunSearch:
        """The search of a run directory; its index is built if it is not there.

        Raises:
            ConfigError: It has no exported model, its pooling is not known, or its corpus is not in the cache.
        """
        run_dir = RunDir(Path(run).expanduser())
        config = parse_of_run([str(run_dir.path)], prog="mlm-dist search")
        if not (run_dir.model / "config.json").is_file():
            raise ConfigError(f"search: {run_dir.path} has no exported model; finish the run, or export a checkpoint")
        corpus = _corpus(run_dir, Path(config.corpus.cache_dir).expanduser())
        files = sentence_transformer.read(str(run_dir.model))
        if files.modes != ("mean",) or any(kind != "Normalize" for kind, _ in files.modules):
            raise ConfigError(
                f"search: {run_dir.model} does not pool by the mean of all tokens; load it with sentence-transformers"
            )
        with stage("loading model", leaves_after=2):
            model, tokenizer = load_exported(run_dir.model)
            model.to("cuda" if torch.cuda.is_available() else "cpu")
        max_length = files.max_seq_length or MAX_LENGTH
        about = {"model": model_digest(run_dir.model), "corpus": corpus.digest, "splits": list(splits)}
        encoder = TextEncoder(model, tokenizer, max_length)
        folder = run_dir.path / "search" / "-".join(splits)
        return cls(encoder, SearchIndex.of(folder, about, passages_of_corpus(corpus, splits), encoder))

    def search(self, query: str, top: int) -> list[Hit]:
        """The passages whose vectors are most similar to that of a query, best first."""
        return self.index.search(self.encoder.encode([query])[0], top)

    def search_words(self, query: str, top: int) -> list[Hit]:
        """The passages with the highest BM25 scores, best first."""
        return self.index.hits(self._bm25.scores(query), top)

    @cached_property
    def _bm25(self) -> BM25:
        return BM25([passage.content for passage in self.index.passages()])


def _corpus(run_dir: RunDir, cache_dir: Path) -> PreparedCorpus:
    """The corpus of a run, which must be in the cache."""
    digest = str(read_record(run_dir.path).start.get("corpus"))
    corpus = cached_corpus(cache_dir, digest)
    if corpus is None:
        raise ConfigError(
            f"corpus.cache_dir: corpus {digest} of the run is not in {cache_dir}; prepare it again with mlm-dist "
            f"prepare --config {run_dir.config}"
        )
    return corpus
