"""The work of a benchmark: models by name, the FLOPs they require, and rows of real documents."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASKED = 0.15  # fraction of the tokens that are predicted
VOCABULARY = 30_522  # of bert-base-uncased
MAX_CHARS = 8_000_000  # characters of documents for throughput; more would only take longer to prepare

_NAMED = {"bert-base": (12, 768, 12), "6x384": (6, 384, 12), "2x128": (2, 128, 2)}


@dataclass(frozen=True)
class Shape:
    """A BERT with an intermediate size of four times the hidden size."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    vocab_size: int

    @property
    def overrides(self) -> dict[str, int]:
        """Arguments of transformers' BertConfig; dropout stays at its default, 0.1."""
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": 4 * self.hidden_size,
            "vocab_size": self.vocab_size,
        }

    @property
    def num_parameters(self) -> int:
        """Number of parameters: embeddings, layers and head, with the tied decoder counted once."""
        hidden, layer = self.hidden_size, 12 * self.hidden_size**2 + 13 * self.hidden_size
        embeddings = (self.vocab_size + 512 + 2) * hidden + 2 * hidden
        return embeddings + self.num_layers * layer + hidden**2 + 3 * hidden + self.vocab_size

    def flops_per_token(self, length: int, masked: float = MASKED) -> float:
        """Required FLOPs per token, forward and backward: 6L(12H^2) + 12LHs + 6p(HV + H^2).

        The head is counted at masked positions only, for all systems, whatever they compute.
        """
        layers, hidden = self.num_layers, self.hidden_size
        head = hidden * self.vocab_size + hidden**2
        return 6 * layers * 12 * hidden**2 + 12 * layers * hidden * length + 6 * masked * head


def shape(name: str, vocab_size: int = VOCABULARY) -> Shape:
    """The shape called bert-base, or LAYERSxHIDDEN such as 6x384 (MiniLM's shape)."""
    layers, hidden, heads = _NAMED.get(name) or (*map(int, name.split("x")), 0)
    return Shape(name, layers, hidden, heads or max(1, hidden // 64), vocab_size)


def full_rows(source: str, vocab_size: int, length: int, cache: str) -> tuple[list[str], Path, int]:
    """Rows of `length` tokens without padding: the documents of a source are concatenated, as in run_mlm.py.

    A WordPiece tokenizer of at most `vocab_size` tokens is trained on the documents.

    Returns:
        Flags of `train.py` that select these rows; the folder of the prepared corpus; its number of rows.
    """
    documents = prepared(
        [
            f"--corpus.source={source}",
            f"--corpus.cache_dir={cache}",
            f"--tokenizer.train_vocab_size={vocab_size}",
            "--corpus.validation_fraction=0",
        ]
    )
    text = "\n\n".join(text for _, _, text in documents.documents())[:MAX_CHARS]
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = Path(cache).expanduser() / "benchmarks" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([text]), "utf-8")
    flags = [
        f"--corpus.source={file}",
        f"--corpus.cache_dir={cache}",
        "--corpus.clean=none",
        "--corpus.deduplicate=none",
        "--corpus.validation_fraction=0",
        f"--tokenizer.path={documents.folder / 'tokenizer'}",
        "--rows.mode=chunk",
        f"--rows.max_length={length}",
    ]
    corpus = prepared(flags)
    return flags, corpus.folder, corpus.manifest["rows"]["train"]


def prepared(flags: list[str]) -> Any:
    """The corpus that flags describe, prepared if it is not in the cache."""
    from mlm_dist import prepare
    from mlm_dist.config import parse

    return prepare.run(parse(flags))
