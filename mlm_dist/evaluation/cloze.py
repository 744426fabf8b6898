"""Cloze examples: sentences of the validation set, each with one word for a model to predict.

A word is chosen if it matters in these documents (see `word_importance`) and if its neighbours predict it in the
training documents (see `word_contexts`): what a model can learn from them. No model takes part in the choice, so it
favours neither the starting nor the trained one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlm_dist.corpus.sentences import sentences
from mlm_dist.evaluation.stop_words import STOP_WORDS
from mlm_dist.evaluation.word_contexts import WordContexts
from mlm_dist.evaluation.word_importance import WORD, WordCounts

NUM_EXAMPLES = 12
# Most tokens of a word, share of all words to choose from, the most important, and most examples of a document; what
# passes the first is chosen first. Stop words are the least important ones.
CHOICES = ((1, 0.5, 2), (4, 0.5, NUM_EXAMPLES), (4, 1.0, NUM_EXAMPLES))
# Characters that are read at most, from the first document on.
TRAIN_CHARS, VALIDATION_CHARS, TOTAL_CHARS = 8_000_000, 2_000_000, 64_000_000

# A word on its own: not part of an address, a number, an identifier or a compound.
_WORD_ALONE = re.compile(r"(?<![\w'\u2019./\\@#$%&=<>:+*~^|-])[^\W\d_]{3,}(?![\w'\u2019/\\@#$%&=<>+*~^|(\[-]|[.:]\w)")


@dataclass(frozen=True)
class ClozeExample:
    """A sentence and the word in it to predict.

    Args:
        document: Id of the document that holds the sentence.
        sentence: The sentence.
        start: Index of the word's first character.
        end: Index after the word's last character.
    """

    document: str
    sentence: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word to predict."""
        return self.sentence[self.start : self.end]

    def encode(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """The token ids of the sentence, special tokens included, and the positions of the word's tokens.

        There are no positions if the word shares a token with its neighbours or holds an unknown token.
        """
        encoding = tokenizer.backend_tokenizer.encode(self.sentence)
        spans = [(start, end) for start, end in encoding.offsets]
        positions = [i for i, (start, end) in enumerate(spans) if start < self.end and end > self.start]
        if (
            not positions
            or spans[positions[-1]][1] != self.end
            or spans[positions[0]][0] not in (self.start, self.start - 1)
        ):
            return encoding.ids, []
        is_known = all(encoding.ids[position] != tokenizer.unk_token_id for position in positions)
        return encoding.ids, positions if is_known else []


def choose_examples(documents: Iterable[tuple[str, str, str]], tokenizer: Any, max_length: int) -> list[ClozeExample]:
    """Up to `NUM_EXAMPLES` cloze examples, the most important words first; at most one per word and per sentence.

    Among words that matter, those that can be learnt best are chosen, see `CHOICES`.

    Args:
        documents: (id, split, text) of all documents, in a fixed order.
        tokenizer: The model's tokenizer.
        max_length: Longest sentence in tokens, special tokens included.
    """
    training_texts, validation_sentences = _read(documents)
    words, contexts = WordCounts(), WordContexts(sentence for _, sentence in validation_sentences)
    for text in training_texts:
        words.add(text)
        contexts.add(text)
    by_word = _candidates(validation_sentences)
    important = sorted(words.by_importance(tokenizer), key=STOP_WORDS.__contains__)  # the others first
    rank = {word: i / len(important) for i, word in enumerate(important)}
    candidates = [(word, example) for word, examples in by_word.items() if word in rank for example in examples]
    rated = [
        (-contexts.predictability(example.sentence, example.start), rank[word], i)
        for i, (word, example) in enumerate(candidates)
    ]
    chosen: dict[str, ClozeExample] = {}
    used: set[str] = set()  # sentences
    per_document: Counter[str] = Counter()
    for most_tokens, share, most_of_document in CHOICES:
        for _, _, i in sorted(rated):
            word, example = candidates[i]
            is_used = word in chosen or example.sentence in used or per_document[example.document] >= most_of_document
            if is_used or rank[word] > share or len(chosen) == NUM_EXAMPLES:
                continue
            ids, positions = example.encode(tokenizer)
            if 0 < len(positions) <= most_tokens and len(ids) <= max_length:
                chosen[word] = example
                per_document[example.document] += 1
                used.add(example.sentence)
    return [chosen[word] for word in important if word in chosen]


def _candidates(validation_sentences: Sequence[tuple[str, str]]) -> dict[str, list[ClozeExample]]:
    """{lower-case word: examples}; the word occurs once in the sentence, and on its own."""
    by_word: dict[str, list[ClozeExample]] = defaultdict(list)
    for document, sentence in validation_sentences:
        occurrences: dict[str, list[re.Match[str]]] = defaultdict(list)
        for match in WORD.finditer(sentence):
            occurrences[match[0].casefold()].append(match)
        alone = {match.start() for match in _WORD_ALONE.finditer(sentence)}
        for word, matches in occurrences.items():
            if len(matches) == 1 and matches[0].start() in alone:
                by_word[word].append(ClozeExample(document, sentence, *matches[0].span()))
    return by_word


def _read(documents: Iterable[tuple[str, str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """The training documents, and (id, sentence) of the validation documents, up to the limits above."""
    training_texts: list[str] = []
    validation_sentences: list[tuple[str, str]] = []
    remaining = {"train": TRAIN_CHARS, "validation": VALIDATION_CHARS}
    total = 0
    for id_, split, text in documents:
        if total > TOTAL_CHARS or all(chars <= 0 for chars in remaining.values()):
            break
        total += len(text)
        if remaining[split] <= 0:
            continue
        remaining[split] -= len(text)
        if split == "train":
            training_texts.append(text)
        else:
            validation_sentences += ((id_, sentence) for sentence in sentences(text))
    return training_texts, validation_sentences
