"""The models of a search: texts to vectors, as the sentence-transformers files of a model say."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError

from mlm_dist import system_errors
from mlm_dist.corpus.known_hashes import KnownHashes
from mlm_dist.corpus.store import PreparedCorpus
from mlm_dist.errors import ModelError, reason
from mlm_dist.evaluation.embeddings import Pooling, TextEncoder
from mlm_dist.hf_model import sentence_transformer
from mlm_dist.hf_model.sentence_transformer import SentenceFiles
from mlm_dist.model.architecture import starts_from_scratch
from mlm_dist.model.positions import max_positions
from mlm_dist.pretrained import KEY, locate
from mlm_dist.spec import Spec
from mlm_dist.trained_model import build_start, load_exported

MAX_LENGTH = 512  # tokens of a text, if the files do not say
MAX_WORDS = 200  # of a passage
TOKENS_PER_WORD = 2  # about; a passage must fit into what the model reads


@dataclass(frozen=True)
class Reading:
    """How a model reads a text.

    Args:
        pooling: How it pools the states of tokens.
        max_length: Tokens that it reads, special tokens included.
        query: What is put before a query.
        document: What is put before a passage.
    """

    pooling: Pooling
    max_length: int
    query: str
    document: str

    @property
    def max_words(self) -> int:
        """The most words of a passage."""
        return max(1, min(MAX_WORDS, self.max_length // TOKENS_PER_WORD))

    @classmethod
    def of(cls, files: SentenceFiles, name: str, longest: int | None) -> Reading:
        """What the files of a model say.

        Args:
            files: The files.
            name: The model, for messages.
            longest: Tokens that it has positions for; None if they are unbounded.

        Raises:
            ModelError: They say something that search does not compute.
        """
        prompts = files.settings.get("prompts") or {}
        query = str(prompts.get("query") or "")
        document = str(next(filter(None, map(prompts.get, ("document", "passage", "corpus"))), ""))
        others = [f"{kind} modules" for kind, _ in files.modules if kind != "Normalize"]
        if files.modes not in (("mean",), ("cls",)):
            others.append(f"{' and '.join(files.modes)} pooling")
        if (query or document) and not files.include_prompt and files.modes != ("cls",):
            others.append("prompts that are not pooled")
        if others:
            raise ModelError(
                f"{name}: search computes mean and cls pooling only, and this model has {others[0]}; search with "
                "sentence-transformers instead"
            )
        limits = [limit for limit in (files.max_seq_length or MAX_LENGTH, longest) if limit is not None]
        return cls(cast(Pooling, files.modes[0]), int(min(limits)), query, document)


class SentenceModel:
    """A model that turns queries and passages into vectors, on the GPU if there is one.

    Args:
        model: A transformers masked-language model in fp32.
        tokenizer: Its tokenizer.
        reading: How it reads a text.
        weights: A hash of its weights and its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any, reading: Reading, weights: str) -> None:
        self.reading, self._weights = reading, weights
        model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        self._encoder = TextEncoder(model, tokenizer, reading.max_length, reading.pooling)

    @property
    def identity(self) -> dict[str, Any]:
        """All that its vectors depend on."""
        return {"weights": self._weights, **asdict(self.reading)}

    def of_query(self, query: str) -> np.ndarray:
        """[width] fp32, of length 1."""
        vector: np.ndarray = self._encoder.encode([self.reading.query + query])[0]
        return vector

    def of_passages(self, passages: Sequence[str]) -> np.ndarray:
        """[passages, width] fp32, of length 1.

        Raises:
            ModelError: A value is not finite.
        """
        vectors = self._encoder.encode([self.reading.document + passage for passage in passages])
        if not np.isfinite(vectors).all():
            raise ModelError(
                "search: the model gives vectors that are not finite; export another checkpoint of the run"
            )
        return vectors


def trained_model(folder: Path, known: Path) -> SentenceModel:
    """The model of an exported folder.

    Args:
        folder: The folder.
        known: The folder in which hashes of its files are remembered.

    Raises:
        ModelError: It is damaged, or search cannot compute it.
    """
    with _loaded(str(folder), "export it again with mlm-dist export"):
        weights = _hash_of_files(folder, known)
        model, tokenizer = load_exported(folder)
        reading = Reading.of(sentence_transformer.read(str(folder)), str(folder), max_positions(model.config))
    return SentenceModel(model, tokenizer, reading, weights)


def start_model(spec: Spec, corpus: PreparedCorpus, trained: SentenceModel) -> SentenceModel:
    """The model before training, which reads the passages of the trained one.

    Args:
        spec: The run.
        corpus: Its corpus.
        trained: The trained model, whose passages are at most as long as this one reads.

    Raises:
        ModelError: It cannot be loaded, or search cannot compute it.
    """
    config, files = spec.model, SentenceFiles()
    with _loaded(config.name_or_path, "restore it, or search with --compare none"):
        model = build_start(config, spec, corpus)
        if not starts_from_scratch(config) and config.init_from is None:
            files = sentence_transformer.read(locate(config.name_or_path, KEY, config.revision).path)
        limits = [limit for limit in (trained.reading.max_length, max_positions(model.config)) if limit is not None]
        reading = Reading.of(files, config.name_or_path, min(limits))
    return SentenceModel(model, corpus.tokenizer, reading, _hash_of(model, corpus.tokenizer))


@contextlib.contextmanager
def _loaded(name: str, remedy: str) -> Iterator[None]:
    """Turn what libraries raise inside about a damaged model into one line.

    Raises:
        ModelError: The model is damaged.
    """
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if system_errors.explain(error) is not None:
            raise
        raise ModelError(f"{name}: cannot be loaded ({reason(error)}); {remedy}") from None


def _hash_of_files(folder: Path, known: Path) -> str:
    """A hash of the files of an exported model; those that did not change since they were last read are not read."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in (".safetensors", ".json") and path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    digest = hashlib.sha256()
    for name, one in KnownHashes(folder, known, "model").of_readable(names).items():
        digest.update(f"{name} {one}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _hash_of(model: Any, tokenizer: Any) -> str:
    """A hash of all weights and of the tokenizer."""
    digest = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(values.numpy().data)
    return digest.hexdigest()
