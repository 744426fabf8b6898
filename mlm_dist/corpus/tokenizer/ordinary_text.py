"""Tokenizing documents: what looks like a special token, such as [MASK], is ordinary text in them."""

from __future__ import annotations

import json
from typing import Any

# No text matches a token that begins like this: tokenizers split at the space or replace it, and U+10FFFF is no
# character.
HIDDEN = " \U0010ffff"


def backend(tokenizer: Any) -> Any:
    """A tokenizer of the `tokenizers` library that gives the ids of a tokenizer, and special ids for no text.

    Special tokens are added before and after a text as the tokenizer does. Added tokens that are not special, such as
    domain tokens, are found in texts as before.

    Args:
        tokenizer: A fast tokenizer; it is not changed.
    """
    from tokenizers import Tokenizer

    # Special tokens get other names. It does not suffice to add none of them: in a Unigram vocabulary they are pieces
    # like others.
    original = tokenizer.backend_tokenizer
    description = json.loads(original.to_str())
    model = description["model"]
    special = {*tokenizer.all_special_ids, *(token["id"] for token in description["added_tokens"] if token["special"])}
    special -= _ids_of_text(model)
    for token in description["added_tokens"]:
        if token["id"] in special:
            token |= {"content": HIDDEN + token["content"], "special": True}
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        unknown = model.get("unk_token")
        if unknown is not None and vocab.get(unknown) in special:
            model["unk_token"] = HIDDEN + unknown
        model["vocab"] = {HIDDEN + name if i in special else name: i for name, i in vocab.items()}
    else:
        model["vocab"] = [[HIDDEN + name if i in special else name, score] for i, (name, score) in enumerate(vocab)]
    hidden = Tokenizer.from_str(json.dumps(description, ensure_ascii=False))
    hidden.encode_special_tokens = True
    return hidden


def _ids_of_text(model: dict[str, Any]) -> set[int]:
    """Ids of the pieces that BPE builds words of, whose names its merges need."""
    if "merges" not in model:
        return set()
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"])
    names = {name for pair in pairs for name in (*pair, "".join(pair))}
    return {i for name, i in model["vocab"].items() if name in names or len(name) == 1}
