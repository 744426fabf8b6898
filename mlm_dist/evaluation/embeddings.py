"""Text embeddings: a model's last hidden states, pooled over the tokens of a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from mlm_dist.corpus.tokenizer import loading, ordinary_text
from mlm_dist.corpus.tokenizer.loading import SpecialTokens
from mlm_dist.model.inference import evaluating

BATCH_SIZE = 32
Pooling = Literal["mean", "cls"]


class TextEncoder:
    """Texts to vectors, as sentence-transformers computes them with this pooling and normalization.

    Args:
        model: A transformers masked-language model in fp32; it stays in its mode and on its device.
        tokenizer: Its tokenizer.
        max_length: Tokens of a text that are read, special tokens included.
        pooling: mean of all tokens, or cls: the first token.
    """

    def __init__(self, model: Any, tokenizer: Any, max_length: int, pooling: Pooling = "mean") -> None:
        self._model, self._special, self._pooling = model, loading.special_tokens(tokenizer), pooling
        self._room = max_length - len(self._special.prefix) - len(self._special.suffix)
        self._backend = ordinary_text.backend(tokenizer)

    def token_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text as they are read, without special tokens."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids[: self._room], np.int64) for one in encodings]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, hidden], fp32: vectors of length 1, whose products are cosine similarities."""
        ids = self.token_ids(texts)
        if self._pooling == "cls":
            states = first_states(self._model, ids, self._special)
        else:
            states = mean_states(self._model, ids, self._special, pools_special=True)
        unit: np.ndarray = states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
        return unit

    def word_states(self, lines: Sequence[Sequence[str]]) -> list[tuple[list[int], np.ndarray]]:
        """(indices of words, [words, hidden] fp32 last hidden states of the first token of each) of each line.

        Words without a token, or beyond the tokens that are read, are not among them.

        Args:
            lines: The words of each line, which are read with a space between them.
        """
        found: list[tuple[list[int], np.ndarray]] = [([], np.zeros((0, 0), np.float32))] * len(lines)
        encodings = self._backend.encode_batch([" ".join(words) for words in lines], add_special_tokens=False)
        first = [_first_tokens(words, one.offsets[: self._room]) for words, one in zip(lines, encodings, strict=True)]
        ids = [np.array(one.ids[: self._room], np.int64) for one in encodings]
        for batch, _, hidden in _batches(self._model, ids, self._special):
            for i, states in zip(batch, hidden.cpu().numpy(), strict=True):
                tokens = np.array([*first[i].values()], np.int64) + len(self._special.prefix)
                found[i] = ([*first[i]], states[tokens])
        return found


def _first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> dict[int, int]:
    """{word: its first token} of a line, from the offsets of its tokens in the characters of the line."""
    word_of = np.concatenate([np.r_[np.full(len(word), i), -1] for i, word in enumerate(words)])
    found: dict[int, int] = {}
    for token, (start, stop) in enumerate(offsets):
        here = word_of[start:stop]
        for word in here[here >= 0][:1].tolist():
            found.setdefault(word, token)
    return found


def mean_states(
    model: Any, texts: Sequence[np.ndarray], special: SpecialTokens, *, pools_special: bool = False
) -> np.ndarray:
    """[texts, hidden], fp32: mean-pooled last hidden states, computed without dropout on the model's device.

    Args:
        model: A transformers masked-language model in fp32; it stays in its mode.
        texts: Token ids of each text, at least one, without special tokens. The model reads them with special tokens
            around.
        special: The special tokens of the tokenizer.
        pools_special: Whether special tokens around the text are a part of the mean, as sentence-transformers pools
            all tokens but padding.
    """
    num_prefix, num_special = len(special.prefix), len(special.prefix) + len(special.suffix)

    def mean(lengths: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(hidden.shape[1])
        if pools_special:
            is_pooled = positions < (lengths + num_special)[:, None]
        else:
            is_pooled = (positions >= num_prefix) & (positions < (lengths + num_prefix)[:, None])
        weights = is_pooled[..., None].to(hidden)  # [texts, width, 1]
        return (hidden * weights).sum(1) / weights.sum(1)

    return _pooled(model, texts, special, mean)


def first_states(model: Any, texts: Sequence[np.ndarray], special: SpecialTokens) -> np.ndarray:
    """[texts, hidden], fp32: the last hidden state of the first token, as in `mean_states`."""
    return _pooled(model, texts, special, lambda _, hidden: hidden[:, 0])


def _pooled(
    model: Any,
    texts: Sequence[np.ndarray],
    special: SpecialTokens,
    pool: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> np.ndarray:
    """[texts, hidden], fp32: what `pool` makes of the lengths and the last hidden states of a batch."""
    states = np.zeros((len(texts), 0), np.float32)
    for batch, lengths, hidden in _batches(model, texts, special):
        found = pool(lengths, hidden).cpu().numpy()
        if not states.shape[1]:
            states = np.zeros((len(texts), found.shape[1]), np.float32)
        states[batch] = found
    return states


def _batches(
    model: Any, texts: Sequence[np.ndarray], special: SpecialTokens
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """(indices of its texts, their lengths, [texts, width, hidden] fp32 last hidden states) of each batch."""
    by_length = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))  # texts of one length need no padding
    device, num_special = next(model.parameters()).device, len(special.prefix) + len(special.suffix)
    with evaluating(model):
        for first in range(0, len(texts), BATCH_SIZE):
            batch = by_length[first : first + BATCH_SIZE]
            lengths = torch.tensor([len(texts[i]) for i in batch])
            width = int(lengths.max()) + num_special
            input_ids = torch.full((len(batch), width), special.pad)
            for row, ids in zip(input_ids, (texts[i] for i in batch), strict=True):
                row[: len(ids) + num_special] = torch.tensor([*special.prefix, *ids.tolist(), *special.suffix])
            is_token = (torch.arange(width) < (lengths + num_special)[:, None]).long()
            hidden = model.base_model(input_ids=input_ids.to(device), attention_mask=is_token.to(device))[0].float()
            yield batch, lengths, hidden
