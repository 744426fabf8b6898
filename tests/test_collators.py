"""Masks have the statistics of those that transformers' collator makes of the same rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from making import made_up_text

from mlm_dist.batches.masking import Masker
from mlm_dist.batches.token_selection import WordStarts
from mlm_dist.config import MaskingConfig
from mlm_dist.corpus import packing
from mlm_dist.corpus.tokenizer import loading, training, word_starts
from mlm_dist.corpus.tokenizer.batch_tokenizer import BatchTokenizer

LENGTH = 128
# Two of the collator's habits are not ours: a random token may be a special one, and a row may predict nothing. With
# these rows the first is one of 10,000 predicted tokens, the second does not happen.
SIGMAS = 4.5


class Rows:
    """Full rows of made-up words in several pieces, as both masks take them."""

    def __init__(self) -> None:
        texts = [made_up_text(i, 800).replace(".", "") for i in range(150)]
        self.tokenizer: Any = training.train("wordpiece", lambda: texts, 600, LENGTH)
        self.special = loading.special_tokens(self.tokenizer)
        marked, lengths = BatchTokenizer(self.tokenizer, word_starts=True)(texts)
        block = packing.make_rows(marked, lengths, "chunk", LENGTH, self.special)
        full = (block.input_ids != self.special.pad).all(1)
        self.begins = block.input_ids[full] >= word_starts.WORD_START
        self.ids = block.input_ids[full] & ~np.int32(word_starts.WORD_START)
        self.begins[:, 1] = True  # a word that is cut counts as one

    def ours(self, unit: str, **config: Any) -> tuple[np.ndarray, np.ndarray]:
        by = Masker(
            MaskingConfig(unit=unit, probability=0.15, **config),  # type: ignore[arg-type]
            5,
            self.special.mask,
            self.special.all,
            len(self.tokenizer),
        )
        where = WordStarts(self.begins, np.arange(len(self.ids)) * LENGTH)
        return by(self.ids, np.zeros(len(self.ids), np.int64), np.arange(len(self.ids)), None, where)[:2]

    def theirs(self, *, whole_word_mask: bool = False, **config: Any) -> tuple[np.ndarray, np.ndarray]:
        from transformers import DataCollatorForLanguageModeling

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it cannot but show the mask for whole words
            collator = DataCollatorForLanguageModeling(
                self.tokenizer, whole_word_mask=whole_word_mask, return_tensors="np", seed=3, **config
            )
        shown, predicted = [], []
        for start in range(0, len(self.ids), 256):
            ids = self.ids[start : start + 256]
            batch = {"input_ids": ids, "special_tokens_mask": np.isin(ids, self.special.all)}
            if whole_word_mask:
                batch["offset_mapping"] = self.offsets(start)
            inputs, labels = collator.numpy_mask_tokens(
                ids.copy(), batch["special_tokens_mask"], batch.get("offset_mapping")
            )
            shown.append(inputs)
            predicted.append(labels != -100)
        return np.concatenate(shown), np.concatenate(predicted)

    def offsets(self, start: int) -> np.ndarray:
        """Offsets as those of a text in which words alone have spaces between them, every token being a letter."""
        begins = self.begins[start : start + 256]
        ends = np.cumsum(1 + begins, axis=1)
        return np.stack([ends - 1, ends], axis=2)


@pytest.fixture(scope="module")
def made() -> Rows:
    found = Rows()
    assert len(found.ids) > 1200 and 0.3 < found.begins[:, 1:-1].mean() < 0.7
    return found


def agree(one: int, other: int, trials: tuple[int, int], spread: float = 1.0) -> bool:
    """Whether two counts can be those of coins with the same probability, the tosses coming `spread` at a time."""
    together = (one + other) / sum(trials)
    sigma = np.sqrt(spread * together * (1 - together) * (1 / trials[0] + 1 / trials[1]))
    return bool(abs(one / trials[0] - other / trials[1]) < SIGMAS * sigma + 1e-12)


def test_tokens_are_masked_as_the_collator_does(made: Rows) -> None:
    ours, theirs = made.ours("token"), made.theirs()
    ordinary = ~np.isin(made.ids, made.special.all)
    num = int(ordinary.sum())
    assert not (ours[1] & ~ordinary).any() and not (theirs[1] & ~ordinary).any()
    assert agree(int(ours[1].sum()), int(theirs[1].sum()), (num, num))
    pairs = [int((predicted[:, 1:] & predicted[:, :-1]).sum()) for _, predicted in (ours, theirs)]
    assert agree(pairs[0], pairs[1], (num, num), spread=1.5)
    for count in range(10, 30):  # how many of a row
        found = [int((predicted.sum(1) == count).sum()) for _, predicted in (ours, theirs)]
        assert agree(found[0], found[1], (len(made.ids),) * 2)
    kinds = []
    for shown, predicted in (ours, theirs):
        hidden, true = shown[predicted], made.ids[predicted]
        kinds.append([int((hidden == made.special.mask).sum()), int((hidden == true).sum()), len(hidden)])
    for i, share in ((0, 0.8), (1, 0.1)):
        assert agree(kinds[0][i], kinds[1][i], (kinds[0][2], kinds[1][2]))
        assert kinds[0][i] / kinds[0][2] == pytest.approx(share, abs=0.01)


def test_whole_words_are_masked_as_the_collator_does(made: Rows) -> None:
    ours, theirs = made.ours("word", mask=1.0, random=0.0), made.theirs(whole_word_mask=True)
    ordinary = ~np.isin(made.ids, made.special.all)
    num = int(ordinary.sum())
    assert agree(int(ours[1].sum()), int(theirs[1].sum()), (num, num), spread=3)
    begins = made.begins & ordinary
    found = [int((predicted & begins).sum()) for _, predicted in (ours, theirs)]
    assert agree(found[0], found[1], (int(begins.sum()),) * 2)
    inside = ordinary[:, 1:] & ordinary[:, :-1] & ~begins[:, 1:]
    for _, predicted in (ours, theirs):
        np.testing.assert_array_equal(predicted[:, 1:][inside], predicted[:, :-1][inside])
    apart = ordinary[:, :-1] & begins[:, 1:]
    found = [int((predicted[:, 1:] & predicted[:, :-1] & apart).sum()) for _, predicted in (ours, theirs)]
    assert agree(found[0], found[1], (int(apart.sum()),) * 2, spread=1.5)
    for shown, predicted in (ours, theirs):
        assert (shown[predicted] == made.special.mask).all()
        np.testing.assert_array_equal(shown[~predicted], made.ids[~predicted])
