"""Tokens that two tokenizers share, and the pieces of those that they do not."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from mlm_dist.corpus.tokenizer import loading

_ROLES = {"pad": (), "unk": (), "mask": (), "cls": ("bos",), "sep": ("eos",), "bos": ("cls",), "eos": ("sep",)}

logger = logging.getLogger(__name__)


class TokenText(NamedTuple):
    """What a token stands for, whatever the kind of its tokenizer.

    Args:
        text: Its characters, without the mark of a word's beginning or continuation.
        begins_word: Whether it is at the beginning of a word.
    """

    text: str
    begins_word: bool


def sources(init_from: str | None, tokenizer: Any) -> list[list[int]] | None:
    """For each token, the tokens of `model.init_from` that its embedding starts from; None without `init_from`.

    - A token that both tokenizers have: that token. WordPiece's `##`, SentencePiece's `▁` and the `Ġ` of byte-level BPE
      are read as marks of a word's beginning or continuation. The token at the other place in a word is taken if the
      one at the same place does not exist. Special tokens correspond by what they are used for.
    - Another token: the pieces that the other tokenizer splits its text into.
    - None, if a piece is unknown, or the token has no text of its own.

    Args:
        init_from: Folder or Hub name of the model whose tokenizer knows the ids.
        tokenizer: The tokenizer of the rows.

    Raises:
        ModelError: The model has no tokenizer.
    """
    if init_from is None:
        return None
    old = loading.load(init_from, "model.init_from")
    found = _sources(tokenizer, old)
    shared = sum(len(one) == 1 for one in found)
    none = sum(not one for one in found)
    logger.info(
        f"model.init_from: of {len(found):,} tokens, {shared:,} start from one token of {init_from}, "
        f"{len(found) - shared - none:,} from the mean of their pieces, {none:,} from the mean of all"
    )
    if 2 * shared < len(found):
        logger.warning(
            f"model.init_from: the tokenizer shares under half of its tokens with that of {init_from}; random weights "
            "may learn faster (model.from_scratch)"
        )
    return found


def _sources(new: Any, old: Any) -> list[list[int]]:
    vocabulary, old_vocabulary = new.get_vocab(), old.get_vocab()
    read, read_old = _Reader(new), _Reader(old)
    by_text: dict[TokenText, int] = {}
    for token, id_ in sorted(old_vocabulary.items(), key=lambda item: item[1]):
        if (text := read_old(token)) is not None:
            by_text.setdefault(text, id_)
    found: list[list[int]] = [[] for _ in range(max(vocabulary.values()) + 1)]
    same_kind = read.kind == read_old.kind
    roles = _special(new, old)
    for token, id_ in vocabulary.items():
        text = read(token)
        if id_ in roles:
            found[id_] = roles[id_]
        elif same_kind and token in old_vocabulary:
            found[id_] = [old_vocabulary[token]]
        elif text is not None:
            other = TokenText(text.text, not text.begins_word)
            match = by_text.get(text, by_text.get(other))
            found[id_] = [match] if match is not None else _pieces(old, text)
    return found


def _special(new: Any, old: Any) -> dict[int, list[int]]:
    """{special id: the ids with the same use}; none if the other tokenizer has no such token."""
    found: dict[int, list[int]] = {}
    for role, instead in _ROLES.items():
        id_ = getattr(new, f"{role}_token_id")
        if id_ is None or found.get(id_):
            continue
        ids = [getattr(old, f"{one}_token_id") for one in (role, *instead)]
        found[id_] = [one for one in ids if one is not None][:1]
    return found


def _pieces(tokenizer: Any, text: TokenText) -> list[int]:
    """Ids of the text of a token; none if a part of it is unknown."""
    ids: list[int] = tokenizer.backend_tokenizer.encode(
        f" {text.text}" if text.begins_word else text.text, add_special_tokens=False
    ).ids
    return [] if tokenizer.unk_token_id in ids else ids


class _Reader:
    """Reads the text of a tokenizer's tokens.

    Args:
        tokenizer: The tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._special = set(tokenizer.all_special_tokens)
        self._added = {token.content for token in tokenizer.added_tokens_decoder.values()}
        tokens = tokenizer.get_vocab()
        backend = tokenizer.backend_tokenizer
        counts = {mark: sum(token.startswith(mark) for token in tokens) for mark in ("##", "▁", "Ġ")}
        self.kind = "##" if type(backend.model).__name__ == "WordPiece" else max(counts, key=lambda mark: counts[mark])
        self._bytes = _byte_values() if self.kind == "Ġ" else {}

    def __call__(self, token: str) -> TokenText | None:
        """What a token stands for; None for special tokens and parts of a character."""
        if token in self._special or not token:
            return None
        if token in self._added:
            return TokenText(token.strip(), True) if token.strip() else None
        if self.kind == "##":
            return TokenText(token.removeprefix("##"), not token.startswith("##"))
        if self.kind == "▁":
            text = token.removeprefix("▁")
            return TokenText(text, token.startswith("▁")) if text else TokenText(" ", False)
        try:
            plain = bytes(self._bytes[letter] for letter in token).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            return None
        text = plain.removeprefix(" ")
        return TokenText(text, plain.startswith(" ")) if text else TokenText(" ", False)


def _byte_values() -> dict[str, int]:
    """{character: byte} of byte-level BPE (Radford et al., 2019): printable bytes are themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
